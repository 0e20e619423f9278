"""Intervals of AUC_W, AUC_P and ρ, on runs whose true spread is known because they can be made again and again."""

import numpy as np
import pytest
from noisy_runs import TRENDS, coverage, noisy
from runs import synthetic

import regime_proto
from regime_proto.analyzer.areas import area_of
from regime_proto.analyzer.readings import PRESETS
from regime_proto.analyzer.resampling import areas_of_other_courses, areas_of_other_probes
from regime_proto.analyzer.samples import SampleChanges, read_sample_changes
from regime_proto.analyzer.series import read_series
from regime_proto.analyzer.uncertainty import interval
from regime_proto.schema.errors import RegimeError


# Both presets smooth alike where the width is 1.
@pytest.mark.parametrize(
    ("shape", "intervals", "width", "correlation", "level", "preset"),
    [
        ("exponential", 72, 1, 0.0, 0.2, "paper"),
        ("exponential", 300, 10, 0.5, 0.2, "strict"),
        ("fast", 300, 10, 0.0, 0.2, "paper"),
        ("flat", 300, 10, 0.5, 0.2, "strict"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("exponential", 72, 1, 0.0, 0.2, "strict"),
                ("exponential", 300, 10, 0.5, 0.2, "paper"),
                ("fast", 300, 10, 0.0, 0.2, "strict"),
                ("flat", 300, 10, 0.5, 0.2, "paper"),
                ("linear", 1000, 30, 0.5, 0.3, "paper"),
                ("linear", 1000, 30, 0.5, 0.3, "strict"),
            ]
        ),
    ],
)
def test_intervals_by_the_noise_of_a_run_hold_its_true_numbers(shape, intervals, width, correlation, level, preset):
    held, ratio = coverage(
        TRENDS[shape], width, PRESETS[preset], repeats=300, simulations=100, resamples=100,
        intervals=intervals, correlation=correlation, level=level,
    )  # fmt: skip
    assert (held >= 0.8).all()
    # Too wide where the trend is steeper than what can be told from noise, never much too narrow.
    assert ((ratio > 0.75) & (ratio < 4)).all()


def test_little_noise_about_a_steep_trend_gives_a_small_error():
    # Blocks of the series itself, trend and all, give twenty times the true error here.
    random = np.random.default_rng(0)
    time = np.arange(1000) / 1000
    runs = np.abs(np.exp(-time / 0.1) * (1 + 0.05 * random.standard_normal((200, 1000))))
    reading, lengths = PRESETS["strict"], np.ones(1000)
    true = area_of(runs.T, lengths, 10, reading)
    drawn = areas_of_other_courses(runs[0], runs[0], lengths=lengths, width=10, reading=reading, resamples=200, seed=0)
    assert drawn[:, 1].std() == pytest.approx(true.std(), rel=0.5)
    assert drawn[:, 1].mean() == pytest.approx(true.mean(), abs=3 * true.std())


@pytest.mark.parametrize("samples", [6, 26])
def test_intervals_by_the_choice_of_the_probe_hold_the_number_of_all_samples(samples):
    random = np.random.default_rng(2)
    reading, intervals = PRESETS["paper"], 200
    time = np.arange(intervals) / intervals

    def flips(count):
        scale, decay = random.lognormal(0, 0.5, count), random.uniform(0.03, 0.4, count)
        return np.stack([0.1 * scale * np.exp(-time[:, None] / decay) for _ in range(2)], axis=1)

    def changes(count):
        parts = flips(count).mean(axis=1) / count
        return SampleChanges((parts,), (np.full(count, 1 / count),))

    lengths = np.ones(intervals)
    population = float(area_of(changes(20_000).parts[0].sum(axis=1), lengths, 6, reading))
    held = 0
    for seed in range(150):
        probe = changes(samples)
        found = float(area_of(probe.parts[0].sum(axis=1), lengths, 6, reading))
        drawn = areas_of_other_probes(probe, lengths=lengths, width=6, reading=reading, resamples=100, seed=seed)
        one = interval(found, drawn)
        held += one.low <= population <= one.high
    assert held / 150 > (0.75 if samples == 6 else 0.85)


def spoiled(units):
    """A trajectory whose samples count differently many units in its layers."""
    trajectory = synthetic(steps=40, samples=4, layers=3, units=64, noise=0.3)
    random = np.random.default_rng(3)
    trajectory["flips"].data[1:] = random.integers(0, 8, (40, 3, 4))
    trajectory["layer_units"].data[:] = units
    return trajectory


@pytest.mark.parametrize(
    "units",
    [
        np.full((3, 4), 64),
        np.array([[64, 32, 8, 16]] * 3),
        np.array([[64, 32, 8, 16], [64, 64, 64, 64], [8, 4, 1, 2]]),
        np.array([[64, 32, 8, 16], [0, 0, 0, 0], [8, 0, 8, 8]]),
    ],
    ids=["equal", "padded", "padded-in-part", "empty-layer"],
)
def test_changes_by_sample_add_up_to_the_pattern_change_of_any_choice(units):
    trajectory = spoiled(units)
    changes = read_sample_changes(trajectory)
    np.testing.assert_allclose(changes.of_choice(np.ones((4, 1)))[:, 0], read_series(trajectory).patterns["layer"])
    counts = np.array([[2], [0], [1], [1]])
    flips = trajectory["flips"].to_numpy()[1:] @ counts[:, 0]
    total = units @ counts[:, 0]
    expected = (flips[:, total > 0] / total[total > 0]).mean(axis=1)
    np.testing.assert_allclose(changes.of_choice(counts)[:, 0], expected)


def test_what_a_result_says_of_its_uncertainty():
    trajectory = synthetic(steps=100, samples=4, noise=0.2, seed=5)
    trajectory["flips"].data[1:] += np.random.default_rng(0).integers(0, 500, (100, 3, 4), np.uint32)
    result = regime_proto.analyze(trajectory)
    found = result.to_json()["uncertainty"]
    assert (found["level"], found["resamples"]) == (0.95, 200)
    assert found["probe"]["auc_w"] is None
    for source in ("probe", "course"):
        for name in ("auc_p", "rho"):
            assert found[source][name]["low"] < result.to_json()[name] < found[source][name]["high"]
            assert found[source][name]["error"] > 0
    again = regime_proto.analyze(trajectory).to_json()["uncertainty"]
    assert again == found


def test_what_cannot_be_told_is_none():
    constant = synthetic(weights="constant", steps=50, units=64)
    found = regime_proto.analyze(constant).uncertainty
    assert found.course is None
    assert found.probe.rho is None
    assert regime_proto.analyze(synthetic(steps=15, units=64, noise=0.1)).uncertainty.course is None
    assert regime_proto.analyze(synthetic(steps=30, samples=1, units=64)).uncertainty.probe is None
    assert regime_proto.analyze(constant, resamples=0).uncertainty is None
    with pytest.raises(RegimeError, match="resamples 3: expected at least 20, or 0"):
        regime_proto.analyze(constant, resamples=3)


def test_the_trend_of_a_long_run_is_found_from_fewer_points():
    intervals = 50_000
    curves = noisy(TRENDS["exponential"], np.random.default_rng(0), intervals=intervals, correlation=0, level=0.2)
    reading, lengths = PRESETS["paper"], np.ones(intervals)
    drawn = areas_of_other_courses(*curves, lengths=lengths, width=300, reading=reading, resamples=20, seed=0)
    true = [float(area_of(curve, lengths, 300, reading)) for curve in curves]
    assert drawn.mean(axis=0) == pytest.approx(true, rel=0.1)
