"""The sentence below ρ: which curves settled, and only where both did, which was earlier."""

import functools
from dataclasses import replace

import numpy as np
import pytest
from runs import synthetic

import regime_proto
from regime_proto.analyzer.readings import Reading
from regime_proto.analyzer.series import Series
from regime_proto.analyzer.settled import Settled, has_settled, settled
from regime_proto.analyzer.verdict import verdict
from regime_proto.report.page.page import report

STEPS = 200
TIME = np.linspace(0, 1, STEPS)
CURVES = {
    "falling": 1 - TIME,
    "fast": np.exp(-TIME / 0.1),
    "to a floor": 0.2 + 0.8 * np.exp(-TIME / 0.05),
    "rising": 0.05 + 0.9 * TIME**3,
    "flat": np.full(STEPS, 0.5),
    "slightly falling": np.linspace(1, 0.8, STEPS),
    "returning": np.where((TIME < 0.25) | (TIME > 0.85), 1.0, 0.1),
    "at its end": np.where(TIME < 0.97, 1.0, 0.0),
}
BOTH = {"falling", "fast", "to a floor"}
HIGH = ": their change is still high in the last tenth of the run. ρ does not show which settled first."


@functools.cache
def made(weights, patterns, noise):
    # In every sample and layer of a synthetic run as many units flip, so one of each tells all.
    return synthetic(
        weights=CURVES[weights], patterns=CURVES[patterns], steps=STEPS, layers=1, samples=1, units=512, noise=noise
    )


def analyzed(weights, patterns, *, per_epoch, preset="paper", noise=0.1):
    trajectory = made(weights, patterns, noise)
    return regime_proto.analyze(trajectory, preset=preset, batches_per_epoch=per_epoch, resamples=0)


# 60 observations are smoothed over 18: padded ends would bring every curve down at the end.
@pytest.mark.parametrize(("per_epoch", "preset"), [(1, "paper"), (60, "paper"), (60, "strict")])
@pytest.mark.parametrize("curve", CURVES)
def test_a_curve_has_settled_where_it_fell_and_stays_low(curve, per_epoch, preset):
    found = analyzed(curve, "fast", per_epoch=per_epoch, preset=preset).settled
    assert found == Settled(weights=curve in BOTH, patterns=True)
    found = analyzed("fast", curve, per_epoch=per_epoch, preset=preset).settled
    assert found == Settled(weights=True, patterns=curve in BOTH)


@pytest.mark.parametrize(
    ("weights", "patterns", "sentence"),
    [
        ("falling", "fast", "Patterns settled earlier than weights: every reading says so."),
        ("fast", "falling", "Weights settled earlier than patterns: every reading says so."),
        ("falling", "rising", f"Weights settled, patterns have not settled{HIGH}"),
        ("falling", "returning", f"Weights settled, patterns have not settled{HIGH}"),
        ("falling", "flat", f"Weights settled, patterns have not settled{HIGH}"),
        ("rising", "fast", f"Patterns settled, weights have not settled{HIGH}"),
        ("at its end", "fast", f"Patterns settled, weights have not settled{HIGH}"),
        ("flat", "rising", f"Neither patterns nor weights have settled{HIGH}"),
        ("rising", "rising", f"Neither patterns nor weights have settled{HIGH}"),
    ],
)
def test_no_curve_that_has_not_settled_is_called_earlier(weights, patterns, sentence):
    for per_epoch in (1, 60):
        assert verdict(analyzed(weights, patterns, per_epoch=per_epoch)) == sentence


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (Settled(True, None), "Weights settled, whether patterns settled cannot be determined. ρ does"),
        (Settled(None, False), f"Patterns have not settled, whether weights settled cannot be determined{HIGH}"),
        (Settled(None, None), "Whether patterns and weights settled cannot be determined. ρ does"),
    ],
)
def test_what_cannot_be_told_is_said(found, sentence):
    result = replace(analyzed("falling", "fast", per_epoch=1), settled=found)
    assert verdict(result).startswith(sentence)
    assert verdict(replace(result, rho_range=None)).startswith("ρ is undefined")


def test_it_cannot_be_told_of_constant_and_short_curves_nor_where_weightings_disagree():
    assert has_settled(np.ones(50), 1) is None
    assert has_settled(CURVES["falling"], 150) is None
    assert has_settled(CURVES["falling"], STEPS) is None
    assert has_settled(np.array([1.0]), 1) is None
    one, other = CURVES["falling"], CURVES["rising"]
    series = Series(
        np.arange(STEPS),
        np.ones(STEPS),
        0,
        {"parameter": one, "tensor": other},
        one[:, None],
        {"layer": one, "unit": one},
    )
    assert settled(series, 1, Reading()) == Settled(None, True)


def test_one_late_change_of_many_does_not_unsettle_a_curve_unless_the_threshold_says_never():
    curve = CURVES["fast"].copy()
    curve[-5] = 0.7
    assert has_settled(curve, 1)
    series = Series(np.arange(STEPS), np.ones(STEPS), 0, dict.fromkeys(("parameter", "tensor"), curve), curve[:, None],
                    {"layer": curve, "unit": curve})  # fmt: skip
    assert settled(series, 1, Reading()) == Settled(True, True)
    curve[-1] = 0.7
    assert settled(series, 1, Reading()) == Settled(False, False)


def test_runs_that_have_not_settled_stand_in_warnings_and_in_json(tmp_path):
    paths = [tmp_path / "fell.h5", tmp_path / "rises.h5"]
    for path, patterns in zip(paths, ("fast", "rising"), strict=True):
        regime_proto.synthetic.trajectory(patterns=CURVES[patterns], steps=STEPS, observations_per_epoch=20, path=path)
    found = regime_proto.compare(paths, reference="paper", resamples=0)
    [warning] = [text for text in found.warnings if "settled" in text]
    assert warning.endswith(": rises.h5")
    assert [run["settled"] for run in found.to_json()["runs"]][:3] == [
        {"weights": True, "patterns": True}, {"weights": True, "patterns": False}, None,
    ]  # fmt: skip
    page = report(paths, resamples=0)
    assert warning in page
    assert "Weights settled, patterns have not settled" in page


def test_a_run_whose_change_explodes_at_the_end_is_said_to_diverge():
    for height, exploded in ((1.0, True), (0.1, False)):
        weights = np.full(STEPS, 0.002)
        weights[-3:] = [0.01, 0.05, height]
        result = regime_proto.analyze(
            regime_proto.synthetic.trajectory(weights=weights, patterns=CURVES["fast"], steps=STEPS), resamples=0
        )
        said = "Δw explodes at the end: at step 200, it is 500 times its median, as in a diverging run."
        assert verdict(result).startswith(said) == exploded
        assert result.to_json()["divergence"] == (said if exploded else None)


@pytest.mark.parametrize("curve", CURVES)
def test_no_other_curve_is_said_to_diverge(curve):
    assert analyzed(curve, "fast", per_epoch=1).divergence is None


def test_a_spike_before_the_end_is_no_divergence():
    weights = np.full(STEPS, 0.002)
    weights[100] = 1.0
    trajectory = regime_proto.synthetic.trajectory(weights=weights, patterns=CURVES["fast"], steps=STEPS)
    assert regime_proto.analyze(trajectory, resamples=0).divergence is None


def spoiled(broken):
    """A run whose states are NaN at some observations."""
    trajectory = regime_proto.synthetic.trajectory(weights="linear", patterns="exponential", steps=STEPS)
    valid, changes = trajectory["valid"].values.copy(), trajectory["weight_delta_l1"].values.copy()
    for index in broken:
        valid[index] = 0
        changes[index : index + 2] = np.nan
    return trajectory.assign(valid=("step", valid), weight_delta_l1=(("step", "tensor"), changes))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (range(150, STEPS + 1), ("The run broke: from step 150 to the end, weights or activations hold NaN or Inf. "
         "All results are for the part up to step 149. ")),
        ([STEPS], f"The run broke: from step {STEPS} to the end"),
        ([20, 150, *range(180, STEPS + 1)], "The run broke: from step 180 to the end"),
        ([0], "1 of 201 observations holds NaN or Inf and is left out of the curves. "),
        ([20, 21, 150], "3 of 201 observations hold NaN or Inf and are left out of the curves. "),
    ],
)  # fmt: skip
def test_a_run_that_turns_to_nan_is_said_to_have_broken(broken, said):
    assert verdict(regime_proto.analyze(spoiled(broken), resamples=0)).startswith(said)


def test_a_gap_in_a_recording_is_no_divergence():
    trajectory = spoiled([20])
    changes = trajectory["weight_delta_l1"].values.copy()
    changes[21] = changes[22]
    gapped = trajectory.assign(weight_delta_l1=(("step", "tensor"), changes))
    assert regime_proto.analyze(gapped, resamples=0).divergence is None
