"""Stages of losses whose course is known, and labels by fingerprints."""

import sys

import numpy as np
import pytest
import xarray as xr

from regime_proto.analyzer.stages import labels_in, loss_stages, regime_labels
from regime_proto.schema.errors import RegimeError

STEPS = np.arange(0, 2000, 2)


def noisy(*points, noise=0.05, seed=0):
    """Return losses whose logarithms lie about the broken line through some points."""
    at, heights = zip(*points, strict=True)
    return np.exp(np.interp(STEPS, at, heights) + noise * np.random.default_rng(seed).standard_normal(len(STEPS)))


def test_a_plateau_a_descent_and_a_plateau():
    stages = loss_stages(STEPS, noisy((0, 0), (400, 0), (1200, -3), (2000, -3.02)))
    assert [stage.kind for stage in stages] == ["initial plateau", "descent", "secondary plateau"]
    assert stages[0].last == stages[1].first == pytest.approx(400, abs=60)
    assert stages[1].last == stages[2].first == pytest.approx(1200, abs=60)
    assert stages[1].slope == pytest.approx(-3 / 800, rel=0.1)


@pytest.mark.parametrize(
    ("points", "kinds"),
    [
        (((0, 0), (2000, -4)), ["descent"]),
        (((0, 1), (2000, 1)), ["initial plateau"]),
        (((0, 0), (800, -3), (2000, -3)), ["descent", "secondary plateau"]),
        (((0, 0), (1000, -3), (2000, -1)), ["descent", "rise"]),
        # Two descents of different slope are one stage.
        (((0, 0), (400, -3), (2000, -6)), ["descent"]),
    ],
)
def test_other_courses(points, kinds):
    assert [stage.kind for stage in loss_stages(STEPS, noisy(*points))] == kinds


def test_losses_that_are_no_numbers_are_left_out():
    loss = noisy((0, 0), (2000, -4))
    loss[::7], loss[1::50], loss[3] = np.nan, -1, np.inf
    assert [stage.kind for stage in loss_stages(STEPS, loss)] == ["descent"]
    assert loss_stages(STEPS[:7], loss[:7]) == ()
    assert loss_stages(STEPS, np.full(len(STEPS), np.nan)) == ()


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "ruptures", None)
    with pytest.raises(RegimeError, match=r'pip install "regime-proto\[report\]"'):
        loss_stages(STEPS, noisy((0, 0), (2000, -4)))


def test_labels_by_given_thresholds():
    found = regime_labels(np.array([np.nan, 0.99, 0.5, 0.95, 0.7, 0.8]), stable=0.95, chaotic=0.7)
    assert found.labels == ("", "STABLE", "CHAOTIC", "STABLE", "CHAOTIC", "TRANSITION")
    assert not found.own


def test_labels_by_percentiles_of_the_run():
    cosines = np.random.default_rng(0).random(1000)
    found = regime_labels(cosines)
    assert found.own
    assert found.labels.count("STABLE") == found.labels.count("CHAOTIC") == 300
    assert min(cosines[np.array(found.labels) == "STABLE"]) >= found.stable


def test_wrong_thresholds():
    with pytest.raises(RegimeError, match="expected the first to be the smaller"):
        regime_labels(np.array([0.5]), stable=0.1, chaotic=0.2)
    with pytest.raises(RegimeError, match="--measure fingerprint_cosine"):
        regime_labels(np.array([np.nan]))


def test_labels_of_the_curves_of_a_result():
    cosines = [np.nan, 0.99, 0.5, 0.95, 0.7]
    curves = xr.Dataset({"quantity_fingerprint_cosine": ("step", cosines)})
    found = labels_in(curves, stable=0.95, chaotic=0.5)
    assert found.labels == ("", "STABLE", "CHAOTIC", "STABLE", "TRANSITION")
    assert (found.share("STABLE"), found.share("CHAOTIC")) == (0.5, 0.25)
    assert labels_in(curves).own
    assert labels_in(xr.Dataset()) is None
    with pytest.raises(RegimeError, match="no fingerprint_cosine is known"):
        labels_in(xr.Dataset(), stable=0.9)
