"""Every row of the table takes three steps, narrower than the real network, on the data set that is installed."""

import numpy as np
import pytest
from libraries import needed

import regime_proto
from regime_proto.examples.paper.results import Outcome
from regime_proto.examples.paper.rows import ROWS
from regime_proto.examples.paper.running import run
from regime_proto.examples.paper.settings import settings_of

STEPS = 3
# Of each network a width that its heads divide, and an image size that its stages halve.
REDUCED = {
    "mlp-256-128-64": (1 / 16, None),
    "mlp-64-32": (1 / 4, None),
    "mlp-512-256-plain": (1 / 16, None),
    "mlp-256-128": (1 / 16, None),
    "lenet5": (0.5, None),
    "alexnet": (1 / 16, None),
    "resnet34": (1 / 16, None),
    "efficientnet-b0": (0.1, None),
    "xlnet": (1 / 12, None),
    "roberta": (1 / 12, None),
    "t5": (1 / 8, None),
    "gpt2": (1 / 12, None),
    "vit-b16": (1 / 12, 48),
    "swin": (0.3, 64),
    "pvt": (1 / 8, 64),
}


@pytest.mark.libraries
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_takes_three_steps(tmp_path, row):
    needed("transformers")
    width, image_size = REDUCED[row.network]
    settings = settings_of(
        row, batch_size=10, width=width, image_size=image_size, steps=STEPS, validation_samples=20, checkpoints=0
    )
    outcome = run(row, settings, tmp_path / "out")
    assert Outcome.read(tmp_path / "out/result.json") == [outcome]
    assert outcome.steps == STEPS
    with regime_proto.open_trajectory(tmp_path / "out/run.h5") as trajectory:
        assert trajectory["step"].to_numpy().tolist() == list(range(STEPS + 1))
        # 0.2 × batch size, and the ReLUs of the real network.
        assert trajectory.sizes["sample"] == 2
        assert trajectory.sizes["layer"] == row.gates
        assert np.isfinite(trajectory["metric_loss"].to_numpy()[1:]).all()
        moved = trajectory["weight_delta_l1"].sum("tensor").to_numpy()[1:]
    assert (moved > 0).all()
    # What was trained on is the published data set, or is named as standing for it.
    assert outcome.stands_for in (None, row.data)
    assert (outcome.data == row.data) == (outcome.stands_for is None)
