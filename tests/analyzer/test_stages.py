"""Stages of losses whose course is known, and labels by fingerprints."""

import json
import sys

import numpy as np
import pytest
import xarray as xr
from commands import assert_one_line, regime

import regime_proto
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


@pytest.mark.parametrize(
    ("thresholds", "said"),
    [
        ({"stable": 0.1, "chaotic": 0.2}, "--chaotic 0.2 and --stable 0.1: expected --chaotic below --stable"),
        ({"stable": 0.5, "chaotic": 0.5}, "expected --chaotic below --stable"),
        ({"stable": np.nan, "chaotic": 0.2}, "--stable nan: expected a cosine between -1 and 1"),
        ({"stable": 1.5, "chaotic": 0.2}, "--stable 1.5: expected a cosine"),
        ({"stable": 0.5, "chaotic": -2.0}, "--chaotic -2: expected a cosine"),
        ({"stable": 0.99}, "--stable without --chaotic: give both, or neither to use the 70th and the 30th perc"),
        ({"chaotic": 0.9}, "--chaotic without --stable: give both"),
    ],
)
def test_wrong_thresholds(thresholds, said, tmp_path):
    with pytest.raises(RegimeError, match=said):
        regime_labels(np.array([0.5]), **thresholds)
    # Before any work.
    with pytest.raises(RegimeError, match=said):
        regime_proto.analyze(tmp_path / "none.h5", **thresholds)
    options = [word for name, value in thresholds.items() for word in (f"--{name}", value)]
    assert_one_line(regime("analyze", tmp_path, *options), said)


def test_labels_need_fingerprints(mlp_run, tmp_path):
    with pytest.raises(RegimeError, match="--measure fingerprint_cosine"):
        regime_labels(np.array([np.nan]))
    path, given = tmp_path / "run.h5", ["--stable", 0.999, "--chaotic", 0.998]
    regime_proto.convert(mlp_run, path, measure="margin")
    refused = regime("analyze", path, *given)
    command = f"regime convert CHECKPOINTS -o {path} --measure margin --measure fingerprint_cosine --overwrite"
    assert_one_line(refused, f"{path}: holds no fingerprint_cosine, which labels need")
    assert command in refused.stderr
    done = regime(*command.replace("CHECKPOINTS", str(mlp_run)).split()[1:])
    assert done.exit_code == 0, done.output
    labels = regime_proto.analyze(path, stable=0.999, chaotic=0.998).labels
    shown = " ".join(regime("analyze", path, *given).stdout.split())
    shares = {name: f"{labels.share(name):.0%} {name}" for name in ("STABLE", "TRANSITION", "CHAOTIC")}
    assert f"{shares['TRANSITION']}, {shares['CHAOTIC']} (up to 0.998)" in shown
    assert "STABLE (cosine of fingerprints from 0.999)" in shown
    # By construction the shares are what they are.
    own = " ".join(regime("analyze", path).stdout.split())
    assert f"STABLE from {regime_proto.analyze(path).labels.stable:.6g} (70th percentile of this run)" in own
    assert "% CHAOTIC" not in own
    found = json.loads(regime("analyze", path, *given, "--json").stdout)["regime_labels"]
    assert tuple(found["labels"][1:]) == labels.labels


def test_labels_of_the_curves_of_a_result():
    cosines = [np.nan, 0.99, 0.5, 0.95, 0.7]
    curves = xr.Dataset({"quantity_fingerprint_cosine": ("step", cosines)})
    found = labels_in(curves, stable=0.95, chaotic=0.5)
    assert found.labels == ("", "STABLE", "CHAOTIC", "STABLE", "TRANSITION")
    assert (found.share("STABLE"), found.share("CHAOTIC")) == (0.5, 0.25)
    assert labels_in(curves).own
    assert labels_in(xr.Dataset()) is None
    with pytest.raises(RegimeError, match="the trajectory: holds no fingerprint_cosine"):
        labels_in(xr.Dataset(), stable=0.9, chaotic=0.5)
