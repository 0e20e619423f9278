"""Rows of texts, from the training to the result: padded tokens do not count."""

import numpy as np
import paper_sets
import pytest
from libraries import needed

import regime_proto
from regime_proto.examples.paper import training
from regime_proto.examples.paper.rows import row_called
from regime_proto.examples.paper.running import run
from regime_proto.examples.paper.settings import settings_of

pytestmark = pytest.mark.libraries


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("roberta-agnews", paper_sets.texts(8)),
        ("t5-squad", paper_sets.questions(8)),
        ("xlnet-sst2", paper_sets.texts(8)),
    ],
)
def test_a_row_of_texts_is_measured_without_its_padding(name, data, tmp_path, monkeypatch):
    needed("transformers")
    monkeypatch.setattr(training, "load", lambda *_: data)
    row = row_called(name)
    settings = settings_of(row, width=1 / 12, batch_size=10, steps=3, checkpoints=2)
    outcome = run(row, settings, tmp_path / "out")
    assert (outcome.steps, outcome.ended) == (3, "--steps reached")
    assert 0 <= outcome.structural_share <= 1
    with np.load(tmp_path / "out/probe.npz") as probe:
        counted = probe["regime_mask"]
        np.testing.assert_array_equal(counted, probe["attention_mask"] == 1)
    # Among the two samples of this seed there is a shorter one.
    assert not counted.all()
    with regime_proto.open_trajectory(tmp_path / "out/run.h5") as trajectory:
        units = trajectory["layer_units"].to_numpy()
        tokens = counted.sum(axis=1)
    # Gates of the encoder have the tokens of the text.
    ours = units[0]
    np.testing.assert_array_equal(ours / ours.sum(), tokens / tokens.sum())
