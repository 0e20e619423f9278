"""The structural share over a run, when it falls for good, and what is said of it."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from trajectories import growing_rows, header

import regime_proto
from regime_proto.analyzer.structure import LEVEL, read_structure, spread_of
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
        # The first of them is that of the state before any change, which is not among the curves.
        ([0.9, 0.3, 0.2, 0.04, 0.03, 0.02], 30),
        ([0.9, 0.3, 0.04, 0.06, 0.03, 0.02], 40),
        ([0.9, 0.3, 0.2, 0.1, 0.06, 0.06], None),
        ([0.9, 0.04, 0.03, 0.03, 0.02, 0.01], 10),
    ],
)
def test_it_falls_below_the_level_for_good(tmp_path, values, below):
    result = regime_proto.analyze(trajectory_of(tmp_path / "run.h5", *shares(values)))
    assert result.structure.below_from == below
    assert result.structure.first == pytest.approx(values[1])
    assert result.to_json()["structure"]["below_from"] == below
    said = verdict(result)
    assert f"At step 10, {values[1]:.0%} of what the outputs had still to change needed other patterns" in said
    expected = {
        None: f"that part did not stay below {LEVEL:.0%}",
        10: "ever since it was less than",
    }
    assert expected.get(below, f"from step {below} on it was less than {LEVEL:.0%}") in said


def test_the_last_state_lacks_nothing(tmp_path):
    """At the end nothing is left to change, so that there is no share."""
    structural, quantitative = shares([0.9, 0.3, 0.03, 0.02, 0.5])
    structural[-1] = quantitative[-1] = 0
    result = regime_proto.analyze(trajectory_of(tmp_path / "run.h5", structural, quantitative))
    assert result.structure.below_from == 20
    curve = result.curves["quantity_structural_share_last"].to_numpy()
    np.testing.assert_allclose(curve[:-1], [0.3, 0.03, 0.02])
    assert np.isnan(curve[-1])


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
    assert "patterns;" not in verdict(result)
    assert read_structure(xr.Dataset()) is None
