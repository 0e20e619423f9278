"""probe="auto": drawn once from a loader of validation samples, and told in the trajectory."""

import random

import nets
import numpy as np
import pytest
import torch
from recording import extra, rows
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import regime_proto
from regime_proto import RegimeError
from regime_proto.comparison.labels import labels_of
from regime_proto.schema.reader import open_checked, read_embedded

pytestmark = pytest.mark.usefixtures("nets_are_exported_once")

SAMPLES = torch.arange(200 * 12, dtype=torch.float32).reshape(200, 12) / 100
LABELS = torch.arange(200) % 3


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(SAMPLES, LABELS, strict=True)


class Augmenting(TensorDataset):
    """Draws random numbers of all kinds whenever a sample is asked for."""

    def __getitem__(self, index):
        random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002
        return super().__getitem__(index)


def drawn(path):
    """Return the probe that a trajectory carries."""
    import io

    with open_checked(path) as file:
        content = read_embedded(file)["probe"]
    with np.load(io.BytesIO(content)) as archive:
        return dict(archive)


def record(path, loader, **options):
    model = options.pop("model", None) or nets.make_mlp()
    with regime_proto.record(model, "auto", path, loader=loader, embed="all", **options) as recorder:
        recorder.observe(0)
    return drawn(path)


def test_a_fifth_of_a_batch_is_drawn_and_the_seed_is_told(tmp_path):
    loader = DataLoader(TensorDataset(SAMPLES, LABELS), batch_size=50, shuffle=True)
    found = {seed: record(tmp_path / f"{seed}.h5", loader, seed=seed)["features"] for seed in (0, 1)}
    for seed, samples in found.items():
        assert samples.shape == (10, 12)
        at = np.flatnonzero((SAMPLES.numpy()[:, None] == samples[None]).all(axis=2).any(axis=1))
        assert len(at) == 10
        assert at[-1] - at[0] > 50
        assert not labels_of(extra(tmp_path / f"{seed}.h5"))
        assert extra(tmp_path / f"{seed}.h5") == {
            "probe_seed": seed,
            "probe_drawn": "10 samples, 0.2 of a batch of 50",
        }
    assert not np.array_equal(found[0], found[1])
    np.testing.assert_array_equal(record(tmp_path / "again.h5", loader, seed=1)["features"], found[1])
    with regime_proto.open_trajectory(tmp_path / "0.h5") as trajectory:
        assert trajectory.sizes["sample"] == 10


def test_the_batch_size_of_the_training_counts(tmp_path):
    loader = DataLoader(TensorDataset(SAMPLES, LABELS), batch_size=50)
    assert len(record(tmp_path / "run.h5", loader, batch_size=128)["features"]) == 26


def test_random_states_are_left_alone(tmp_path):
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(Augmenting(SAMPLES, LABELS), batch_size=50, shuffle=True, generator=generator)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state(), generator.get_state()  # noqa: NPY002
    record(tmp_path / "run.h5", loader, model=nets.Mlp())
    # nets.Mlp() itself draws, and so stands for all that the training does.
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(generator.get_state(), before[3])


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(Stream(), batch_size=8),
        [(SAMPLES[:6].numpy(), LABELS[:6].numpy()), (SAMPLES[6:20].numpy(), LABELS[6:20].numpy())],
        [SAMPLES[:30]],
        [{"features": SAMPLES[:30], "labels": LABELS[:30], "id": 5}],
    ],
    ids=["stream", "batches", "inputs only", "named"],
)
def test_what_has_no_dataset_gives_its_first_samples(loader, tmp_path):
    samples = record(tmp_path / "run.h5", loader, batch_size=50)
    assert list(samples) == ["features"]
    np.testing.assert_array_equal(samples["features"], SAMPLES[:10])


class Tokens(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(9, 6)
        self.fc = torch.nn.Linear(6, 6)

    def forward(self, input_ids, attention_mask=None, labels=None):
        return torch.relu(self.fc(self.embed(input_ids))) * attention_mask[..., None]


def test_masked_tokens_do_not_count(tmp_path):
    ids = torch.randint(0, 9, (40, 5))
    mask = torch.ones(40, 5, dtype=torch.int64)
    mask[:, 3:] = 0
    items = [{"input_ids": one, "attention_mask": other, "labels": one} for one, other in zip(ids, mask, strict=True)]
    found = record(tmp_path / "run.h5", DataLoader(items, batch_size=20), model=Tokens())
    assert set(found) == {"input_ids", "attention_mask", "regime_mask"}
    with regime_proto.open_trajectory(tmp_path / "run.h5") as trajectory:
        assert (trajectory["layer_units"] == 3 * 6).all()
    assert rows(tmp_path / "run.h5")["mask"].any()


ERRORS = {
    "none": ({}, 'probe "auto": needs a loader'),
    "no size": ({"loader": [SAMPLES]}, 'probe "auto": the loader has no batch size'),
    "too few": ({"loader": [SAMPLES[:3]], "batch_size": 50}, "the loader: holds 3 samples, but the probe needs 10"),
    "too short": ({"loader": DataLoader(TensorDataset(SAMPLES[:3]), batch_size=50)}, "holds 3 samples, but the probe"),
    "names": (
        {"loader": [{"pixels": SAMPLES}], "batch_size": 50},
        "its batches hold pixels, but the model expects features",
    ),
    "ragged": ({"loader": [(["a", None], 1)], "batch_size": 5}, "the loader"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_no_probe_can_be_drawn_from(name, tmp_path):
    options, message = ERRORS[name]
    with pytest.raises(RegimeError, match=message):
        regime_proto.record(nets.make_mlp(), "auto", tmp_path / "run.h5", **options)
    assert list(tmp_path.iterdir()) == []
