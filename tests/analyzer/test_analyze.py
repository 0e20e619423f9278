"""From a trajectory to a result."""

import json
import math

import numpy as np
import pytest
import runs
from hypothesis import given, settings
from hypothesis import strategies as st

import regime_proto
from regime_proto.analyzer.readings import ALL_READINGS, Reading
from regime_proto.analyzer.series import read_series
from regime_proto.schema.epochs import from_epochs, observations_per_epoch, with_start


def synthetic(**options):
    # In every sample of a synthetic run as many units flip, so two tell what eight do.
    return runs.synthetic(**{"observations_per_epoch": 1.0, "samples": 2, **options})


def analyze(trajectory, **options):
    """Analyze without intervals, which tests/test_uncertainty.py is about."""
    return regime_proto.analyze(trajectory, resamples=0, **options)


def test_known_curves_give_their_areas():
    result = analyze(synthetic(weights="linear", patterns="step", steps=1000))
    assert result.auc_w == pytest.approx(0.5, abs=1e-3)
    assert result.auc_p == pytest.approx(0.5, abs=1e-3)
    assert result.rho == pytest.approx(1.0, abs=3e-3)
    assert result.window == 1


def test_masks_of_whole_units_follow_the_curve():
    time = np.arange(400) / 399
    heights = np.exp(-time / 0.1)
    result = analyze(synthetic(patterns="exponential", steps=400, units=2048, layers=1))
    low, high = np.percentile(heights, [0.5, 99.5])
    assert result.auc_p == pytest.approx(np.clip((heights - low) / (high - low), 0, 1).mean(), abs=1e-3)


def test_weightings_differ_as_defined():
    trajectory = synthetic(steps=20, layers=2, samples=8)
    sizes = trajectory["tensor_size"].values
    l1 = trajectory["weight_delta_l1"].values.copy()
    l1[1:, 1] *= np.linspace(1, 3, 20)
    flips = trajectory["flips"].values.copy()
    flips[1:, 1] //= 2
    trajectory = trajectory.assign(
        weight_delta_l1=(("step", "tensor"), l1), flips=(("step", "layer", "sample"), flips),
        layer_units=(("layer", "sample"), [[100] * 8, [300] * 8]),
    )  # fmt: skip
    series = read_series(trajectory)
    np.testing.assert_allclose(series.weights["parameter"], l1[1:].sum(axis=1) / sizes.sum())
    np.testing.assert_allclose(series.weights["tensor"], (l1[1:] / sizes).mean(axis=1))
    per_layer = flips[1:].sum(axis=2) / [800, 2400]
    np.testing.assert_allclose(series.patterns["layer"], per_layer.mean(axis=1))
    np.testing.assert_allclose(series.patterns["unit"], flips[1:].sum(axis=(1, 2)) / 3200)


def test_a_run_read_in_blocks_gives_the_same_numbers_bit_for_bit(monkeypatch):
    random = np.random.default_rng(0)
    sums = random.lognormal(size=(101, 40))
    trajectory = synthetic(steps=100, noise=0.3).drop_dims("tensor")
    trajectory = trajectory.assign(
        weight_delta_l1=(("step", "tensor"), sums), tensor_size=("tensor", random.integers(0, 50, 40))
    )
    whole = read_series(trajectory)
    monkeypatch.setattr("regime_proto.analyzer.series._BLOCK_VALUES", 300)
    blocks = read_series(trajectory)
    np.testing.assert_array_equal(blocks.layers, whole.layers)
    for weighting, change in whole.weights.items():
        np.testing.assert_array_equal(blocks.weights[weighting], change)


def test_range_spans_all_readings_and_the_presets_are_among_them():
    trajectory = synthetic(steps=300, noise=0.3, observations_per_epoch=50.0)
    paper = analyze(trajectory)
    strict = analyze(trajectory, preset="strict")
    assert len(paper.readings) == len(set(ALL_READINGS)) == 16
    assert paper.rho == paper.readings[Reading("same", True, "parameter", "layer")]
    assert strict.rho == paper.readings[Reading("valid", True, "parameter", "layer")]
    assert paper.rho != strict.rho
    assert paper.rho_range == (min(paper.readings.values()), max(paper.readings.values())) == strict.rho_range


def test_strict_curves_are_undefined_where_no_whole_window_fits():
    strict = analyze(synthetic(steps=100, observations_per_epoch=20.0), preset="strict")
    assert strict.window == 6
    defined = np.flatnonzero(np.isfinite(strict.curves["weight_normalised"]))
    assert defined[0] == 3
    assert defined[-1] == 100 - 3
    assert strict.auc_w == pytest.approx(float(strict.curves["weight_normalised"].mean()))


def test_uneven_steps_weigh_with_their_distance():
    trajectory = synthetic(weights=np.array([1.0, 0.5, 0.25, 0.0]), patterns="step", steps=4)
    uneven = trajectory.assign_coords(step=[0, 1, 2, 4, 14])
    result = analyze(uneven, batches_per_epoch=1)
    low, high = np.percentile([1.0, 0.5, 0.25, 0.0], [0.5, 99.5])
    scaled = np.clip((np.array([1.0, 0.5, 0.25, 0.0]) - low) / (high - low), 0, 1)
    assert result.auc_w == pytest.approx(np.average(scaled, weights=[1, 1, 2, 10]))
    assert result.stride is None
    assert result.to_json()["stride"] is None


def test_thresholds_name_the_first_step_that_stays_below():
    heights = np.array([1.0, 0.9, 0.3, 0.6, 0.3, 0.2, 0.08, 0.0, 0.0, 0.0])
    result = analyze(synthetic(weights=heights, patterns=np.r_[1, np.zeros(9)], steps=10))
    by_tau = {threshold.tau: threshold for threshold in result.thresholds}
    # Change number i, from 0, ends at step i + 1.
    assert by_tau[0.5].step_w == 5
    assert by_tau[0.25].step_w == 6
    assert by_tau[0.1].step_w == 7
    assert by_tau[0.5].step_p == 2
    assert by_tau[0.5].ratio == 2.5


def test_a_returning_curve_never_settles():
    result = analyze(synthetic(patterns="returning"))
    assert {threshold.step_p for threshold in result.thresholds} == {None}
    assert {threshold.ratio for threshold in result.thresholds} == {None}


@pytest.mark.parametrize("which", ["weights", "patterns"])
def test_a_constant_series_has_no_area_and_says_so(which):
    result = analyze(synthetic(**{which: "constant"}))
    assert math.isnan(result.auc_w if which == "weights" else result.auc_p)
    assert math.isnan(result.rho)
    assert result.rho_range is None
    assert any(f"{which.removesuffix('s')} change is constant" in warning for warning in result.warnings)
    encoded = json.dumps(result.to_json(), allow_nan=False)
    assert json.loads(encoded)["rho"] is None


def test_invalid_observations_are_left_out_with_a_warning():
    trajectory = synthetic(steps=30, noise=0.1)
    valid, l1 = trajectory["valid"].values.copy(), trajectory["weight_delta_l1"].values.copy()
    valid[4] = 0
    l1[4:6, 1] = np.nan
    spoiled = trajectory.assign(valid=("step", valid), weight_delta_l1=(("step", "tensor"), l1))
    result = analyze(spoiled)
    assert result.curves["step"].values.tolist() == [1, 2, 3, *range(6, 31)]
    assert result.observations == 31
    assert math.isfinite(result.rho)
    [warning] = result.warnings
    assert "1 of 31 observations" in warning
    assert "layer.bias at step 4" in warning


@pytest.mark.parametrize(("steps", "warned"), [(2, True), (19, True), (20, False)])
def test_few_changes_are_warned_of(steps, warned):
    warnings = analyze(synthetic(steps=steps, noise=0.1)).warnings
    assert (
        f"only {steps} changes: each curve is scaled by its own extremes, so AUC and ρ mean little with so few"
        in warnings
    ) == warned


def test_an_invalid_first_observation_names_its_tensor():
    trajectory = synthetic(steps=5)
    valid, l1 = trajectory["valid"].values.copy(), trajectory["weight_delta_l1"].values.copy()
    valid[0] = 0
    l1[1, 0] = np.nan
    spoiled = trajectory.assign(valid=("step", valid), weight_delta_l1=(("step", "tensor"), l1))
    assert "layer.weight at step 0" in analyze(spoiled).warnings[0]


def test_nothing_valid_is_an_error():
    trajectory = synthetic(steps=3)
    spoiled = trajectory.assign(valid=("step", [1, 0, 1, 0]))
    with pytest.raises(regime_proto.RegimeError, match=r"no two consecutive observations are valid"):
        analyze(spoiled)


def test_steps_restrict_the_analysis():
    trajectory = synthetic(steps=100)
    part = analyze(trajectory, steps="20:60")
    assert part.observations == 41
    assert part.curves["step"].values.tolist() == list(range(21, 61))
    assert analyze(trajectory, steps=":").rho == analyze(trajectory).rho


@pytest.mark.parametrize(
    ("steps", "message"),
    [("5", "expected A:B"), ("9:3", "is after"), ("a:b", "expected A:B"), ("500:", "0 of 101.*run from 0 to 100")],
)
def test_wrong_steps(steps, message):
    with pytest.raises(regime_proto.RegimeError, match=message):
        analyze(synthetic(steps=100), steps=steps)


def test_unknown_preset():
    with pytest.raises(regime_proto.RegimeError, match=r"preset 'papper': expected one of paper, strict"):
        analyze(synthetic(), preset="papper")


def test_unknown_epoch_means_no_smoothing_and_a_warning():
    result = analyze(synthetic(steps=50, observations_per_epoch=None))
    assert result.window == 1
    assert any("not smoothed" in warning and "--batches-per-epoch" in warning for warning in result.warnings)
    given_it = analyze(synthetic(steps=50, observations_per_epoch=None), batches_per_epoch=10)
    assert given_it.window == 3
    assert not given_it.warnings


def test_batches_per_epoch_is_divided_by_the_stride():
    assert observations_per_epoch([0, 10, 20], "step", 100) == 10
    assert observations_per_epoch([0, 5, 20], "step", 100) == 10
    assert observations_per_epoch([1, 2, 3], "epoch", 100) == 1
    with pytest.raises(regime_proto.RegimeError, match=r"only count its files.*pass --step-pattern REGEX, when"):
        observations_per_epoch([0, 1], "ordinal", 100)
    for wrong in (0, float("inf"), float("nan")):
        with pytest.raises(regime_proto.RegimeError, match=r"above 0"):
            observations_per_epoch([0, 1], "step", wrong)


@given(st.integers(1, 20), st.integers(3, 8), st.integers(0, 5))
def test_epochs_tell_the_observations_per_epoch(per_epoch, epochs, extra):
    whole = np.repeat(np.arange(epochs), per_epoch).astype(float)
    begun = np.concatenate([whole, np.full(min(extra, per_epoch), float(epochs))])
    assert from_epochs(begun) == pytest.approx(per_epoch)
    fractional = np.arange(epochs * per_epoch) / per_epoch
    assert from_epochs(fractional) == pytest.approx(per_epoch)


@given(st.integers(1, 20), st.integers(3, 8), st.data())
def test_missing_epochs_at_either_end_change_nothing(per_epoch, epochs, data):
    fractional = np.arange(1, epochs * per_epoch + 1) / per_epoch
    whole = np.ceil(fractional)
    known = data.draw(st.integers(0, per_epoch)), data.draw(st.integers(0, per_epoch))
    for told in (fractional, whole):
        cut = told.copy()
        cut[: known[0]] = cut[len(cut) - known[1] :] = np.nan
        found = from_epochs(cut)
        assert found is None or found == pytest.approx(per_epoch)
        assert from_epochs(np.concatenate([[np.nan], told])) == from_epochs(told)


@pytest.mark.parametrize(
    "epochs",
    [[np.nan, 1, 2], [1, np.nan, 2, np.nan, 3], [np.nan] * 4, [1, 1, 1], [0, 0, 1, 1], [3, 2, 1]],
)
def test_epochs_that_tell_nothing(epochs):
    assert from_epochs(np.array(epochs, float)) is None


@pytest.mark.parametrize(
    ("first", "kind", "is_filled"), [(0, "step", True), (1, "step", False), (0, "ordinal", False), (0, "epoch", True)]
)
def test_only_the_start_of_a_training_is_taken_for_epoch_0(first, kind, is_filled):
    steps, epochs = first + np.arange(3), np.array([np.nan, np.nan, 0.5])
    found = with_start(steps, epochs, kind)
    np.testing.assert_array_equal(found, [0.0 if is_filled else np.nan, np.nan, 0.5])
    assert np.isnan(epochs[0])


NOISY_RUNS = given(st.integers(2, 60), st.integers(0, 2**16), st.floats(1, 40))


@settings(max_examples=10)
@NOISY_RUNS
def test_numbers_stay_in_their_bounds(steps, seed, per_epoch):
    assert_in_bounds(steps, seed, per_epoch)


@pytest.mark.slow
@NOISY_RUNS
def test_numbers_of_many_runs_stay_in_their_bounds(steps, seed, per_epoch):
    assert_in_bounds(steps, seed, per_epoch)


def assert_in_bounds(steps, seed, per_epoch):
    trajectory = synthetic(steps=steps, seed=seed, noise=0.5, layers=2, units=64, observations_per_epoch=per_epoch)
    result = regime_proto.analyze(trajectory, resamples=20)
    for auc in (result.auc_w, result.auc_p):
        assert math.isnan(auc) or 0 <= auc <= 1
    json.dumps(result.to_json(), allow_nan=False)
    if result.rho_range is not None:
        assert result.rho_range[0] <= result.rho_range[1]
