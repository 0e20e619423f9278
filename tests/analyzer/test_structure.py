"""The structural share over a run, when it falls for good, and what is said of it."""

from dataclasses import replace

import numpy as np
import pytest
from trajectories import growing_rows, header

import regime_proto
from regime_proto.analyzer.structure import LEVEL, spread_of
from regime_proto.analyzer.verdict import verdict
from regime_proto.quantities.installed import known_quantities
from regime_proto.quantities.structure import structural_share
from regime_proto.schema import hdf5

PARTS = ("structural_change_l2", "quantitative_change_l2")


def trajectory_of(path, structural, quantitative, against="last"):
    """Write a trajectory that holds the two parts, (step, sample)."""
    names = [f"{part}_{against}" for part in PARTS]
    head = header(quantities=tuple(known_quantities()[name].stored for name in names))
    rows = growing_rows(replace(head, quantities=()), len(structural))
    rows |= {f"quantity_{name}": list(values) for name, values in zip(names, (structural, quantitative), strict=True)}
    path.write_bytes(hdf5.image(head, rows))
    return path


def shares(values, samples=3):
    """Return parts whose share is `values` for every sample, and NaN where both are 0."""
    structural = np.repeat(np.array(values, float)[:, None], samples, axis=1)
    return structural, 1 - structural


@pytest.mark.parametrize(
    ("values", "below"),
    [
        ([0.9, 0.3, 0.2, 0.04, 0.03, 0.02], 30),
        ([0.9, 0.3, 0.04, 0.06, 0.03, 0.02], 40),
        ([0.9, 0.3, 0.2, 0.1, 0.06, 0.06], None),
        ([0.9, 0.04, 0.03, 0.03, 0.02, 0.01], 10),
        ([0.04, 0.03, 0.03, 0.03, 0.02, 0.01], 0),
    ],
)
def test_it_falls_below_the_level_for_good(tmp_path, values, below):
    result = regime_proto.analyze(trajectory_of(tmp_path / "run.h5", *shares(values)))
    found = result.structure
    assert (found.step, found.below_from, found.last_step) == (0, below, 50)
    assert found.first == found.low == found.high == pytest.approx(values[0])
    assert result.to_json()["structure"]["below_from"] == below
    said = verdict(result)
    way = "of the change of the outputs from step 0 to the last state"
    assert f"Moving patterns account for {values[0]:.0%} {way}" in said
    expected = {
        None: f"The share of the patterns does not stay below {LEVEL:.0%}",
        0: f"The share of the patterns does not reach {LEVEL:.0%} at any later step",
    }
    assert expected.get(below, f"From step {below} on, the share of the patterns is below {LEVEL:.0%}") in said


def test_a_part_of_a_run_has_its_own_first_state_and_the_last_one_of_the_run(tmp_path):
    path = trajectory_of(tmp_path / "run.h5", *shares([0.9, 0.3, 0.2, 0.1, 0.03, 0.02]))
    found = regime_proto.analyze(path, steps="20:40").structure
    assert (found.step, found.first, found.last_step) == (20, pytest.approx(0.2), 50)
    assert found.below_from == 40


def test_the_last_state_lacks_nothing(tmp_path):
    """At the end nothing is left to change, so that there is no share."""
    structural, quantitative = shares([0.9, 0.3, 0.03, 0.02, 0.5])
    structural[-1] = quantitative[-1] = 0
    result = regime_proto.analyze(trajectory_of(tmp_path / "run.h5", structural, quantitative))
    assert result.structure.below_from == 20
    curve = result.curves["quantity_structural_share_last"].to_numpy()
    np.testing.assert_allclose(curve[:-1], [0.3, 0.03, 0.02])
    assert np.isnan(curve[-1])
    # What is told of a quantity begins with the first state, which no change leads to.
    quantity = result.quantities["structural_share_last"]
    assert quantity.first == pytest.approx(0.9)
    assert result.quantities["structural_change_l2_last"].first == pytest.approx(0.9)


def test_how_far_the_orders_lie_apart(tmp_path):
    """By the orders the share is 0.9 − t/2 or 0.9 + t/2, as parts of ‖s‖ + ‖q‖, which is 1 here."""
    structural, quantitative = shares([0.5, 0.3, 0.03, 0.02])
    order = np.full_like(structural, 0.2)
    names = [f"{part}_last" for part in (*PARTS, "structural_order_l2")]
    head = header(quantities=tuple(known_quantities()[name].stored for name in names))
    rows = growing_rows(replace(head, quantities=()), len(structural))
    rows |= {
        f"quantity_{name}": list(values) for name, values in zip(names, (structural, quantitative, order), strict=True)
    }
    path = tmp_path / "run.h5"
    path.write_bytes(hdf5.image(head, rows))
    result = regime_proto.analyze(path)
    assert result.structure.order == pytest.approx(0.1)
    assert "(up to 10 points more or less, depending on which of the two moves first)" in verdict(result)
    without = regime_proto.analyze(trajectory_of(tmp_path / "other.h5", structural, quantitative))
    assert without.structure.order is None
    assert "points" not in verdict(without)


def test_the_spread_is_that_of_the_samples(tmp_path):
    random = np.random.default_rng(0)
    structural, quantitative = random.random((2, 12, 3))
    result = regime_proto.analyze(trajectory_of(tmp_path / "run.h5", structural, quantitative, "first"))
    assert result.structure is None
    each = structural_share(structural, quantitative)[1:]
    np.testing.assert_allclose(result.curves["quantity_structural_share_first"], each.mean(axis=1))
    np.testing.assert_allclose(spread_of(result.curves, "first"), np.percentile(each, (10, 90), axis=1))


def test_without_such_quantities_nothing_is_said(tmp_path):
    path = tmp_path / "run.h5"
    path.write_bytes(hdf5.image(header(), growing_rows(header(), 12)))
    result = regime_proto.analyze(path)
    assert result.structure is None
    assert result.to_json()["structure"] is None
    assert "Moving patterns" not in verdict(result)
