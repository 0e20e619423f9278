"""The mathematics against known answers, and against the definition worked out one value at a time."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import uniform_filter1d
from scipy.signal import savgol_coeffs, savgol_filter

from regime_proto.analyzer import curves
from regime_proto.analyzer.resampling import local_parabola, parabola_weights

TIME = np.arange(100_000) / 100_000

KNOWN = {
    "linear": (1 - TIME, 0.5000),
    "fast exponential": (np.exp(-TIME / 0.1), 0.1050),
    "faster exponential": (np.exp(-TIME / 0.02), 0.0250),
    "hyperbolic": (1 / (1 + 50 * TIME), 0.0749),
    "root": (1 - np.sqrt(TIME), 0.3569),
}


@pytest.mark.parametrize("name", KNOWN)
def test_area_of_known_curves(name):
    series, expected = KNOWN[name]
    found = curves.area(curves.normalise(series, clip=True), np.ones(len(series)))
    # The table of the protocol is rounded to four places.
    assert found == pytest.approx(expected, abs=1e-4)


def convolved(series, width, ends):
    """A moving average by definition: numpy's centring, zeros beyond the ends."""
    averages = []
    for centre in range(len(series)):
        first = centre - width // 2
        window = [series[index] for index in range(first, first + width) if 0 <= index < len(series)]
        if ends == "same" or len(window) == width:
            averages.append(sum(window) / width)
    return averages


series_and_width = st.integers(1, 30).flatmap(
    lambda length: st.tuples(
        hnp.arrays(np.float64, length, elements=st.floats(0, 1e3, allow_subnormal=False)), st.integers(1, length)
    )
)


@given(series_and_width, st.sampled_from(["same", "valid"]))
def test_smoothing_follows_its_definition(case, ends):
    series, width = case
    found = curves.smooth(series, width, ends=ends)
    np.testing.assert_allclose(found, convolved(series, width, ends), atol=1e-9)
    np.testing.assert_allclose(found, np.convolve(series, np.full(width, 1 / width), mode=ends), atol=1e-9)


@given(series_and_width)
def test_valid_values_sit_at_the_centre_of_their_window_rounded_up(case):
    series, width = case
    positions = np.arange(len(series))[curves.valid_intervals(len(series), width)]
    assert positions.tolist() == [math.ceil(np.mean(range(at, at + width))) for at in range(len(series) - width + 1)]


@given(hnp.arrays(np.float64, st.integers(2, 40), elements=st.floats(0, 1e3)), st.booleans())
def test_normalising_follows_its_definition(series, clip):
    ordered = sorted(series)

    def percentile(share):
        position = share / 100 * (len(ordered) - 1)
        below = math.floor(position)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (position - below) * (ordered[above] - ordered[below])

    low, high = percentile(0.5), percentile(99.5)
    found = curves.normalise(series, clip=clip)
    if high - low <= 1e-9 * high:
        return
    expected = [(value - low) / (high - low) for value in series]
    if clip:
        expected = [min(max(value, 0), 1) for value in expected]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_series_without_scale_is_nan():
    assert np.isnan(curves.normalise(np.ones(5), clip=True)).all()
    assert curves.is_constant(np.array([3.0, 3.0 + 1e-13, 3.0]))
    assert not curves.is_constant(np.array([3.0, 3.0 + 1e-11, 3.0]))
    assert curves.is_constant(np.zeros(5))


def test_area_weighs_values_with_their_steps():
    assert curves.area(np.array([1.0, 0.0]), np.array([1.0, 3.0])) == 0.25


def test_layers_are_smoothed_and_scaled_one_by_one():
    both = np.random.default_rng(0).random((50, 2))
    together = curves.normalise(curves.smooth(both, 4, ends="valid"), clip=True)
    for column in range(2):
        alone = curves.normalise(curves.smooth(both[:, column], 4, ends="valid"), clip=True)
        np.testing.assert_array_equal(together[:, column], alone)


@pytest.mark.parametrize(
    ("per_epoch", "intervals", "expected"),
    [(None, 100, 1), (1, 100, 1), (10, 100, 3), (5, 100, 2), (15, 100, 4), (1000, 100, 100)],
)
def test_window(per_epoch, intervals, expected):
    # round(1.5) is 2 and round(4.5) is 4: Python rounds halves to even.
    assert curves.window(per_epoch, intervals) == expected


def test_a_flat_noisy_series_settles_by_its_padding_only():
    """Zero-padded ends decide the area of a flat series: the reason why every report shows both."""
    flat = 1 + 0.01 * np.random.default_rng(0).standard_normal(6 * 100)
    width = curves.window(100, len(flat))

    def area(ends):
        smoothed = curves.smooth(flat, width, ends=ends)
        return curves.area(curves.normalise(smoothed, clip=True), np.ones(len(smoothed)))

    def expected(ends):
        smoothed = np.array(convolved(flat.tolist(), width, ends))
        low, high = np.percentile(smoothed, [0.5, 99.5])
        return np.clip((smoothed - low) / (high - low), 0, 1).mean()

    assert area("same") == pytest.approx(expected("same"))
    assert area("valid") == pytest.approx(expected("valid"))
    assert area("same") > 0.9 > 0.7 > area("valid")


@pytest.mark.parametrize(
    ("values", "at_least", "expected"),
    [
        ([1, 0.4, 0.6, 0.3, 0.2], 1, 3),
        ([1, 0.4, 0.6, 0.3, 0.2], 3, None),
        ([1, 0.4, 0.6, 0.5, 0.5], 1, None),
        ([0.1, 0.1], 1, 0),
        ([1, 0.1, math.nan], 1, None),
    ],
)
def test_settled_from(values, at_least, expected):
    assert curves.settled_from(np.array(values), 0.5, at_least=at_least) == expected


@pytest.mark.parametrize("shape", [(2,), (7,), (50,), (401, 5)])
@pytest.mark.parametrize("extend", [False, True])
def test_the_moving_average_is_that_of_scipy_to_the_last_bit(shape, extend):
    series = np.square(np.random.default_rng(0).normal(size=shape))
    for width in {1, 2, 3, 6, 7, shape[0]}:
        if width <= len(series):
            expected = uniform_filter1d(series, width, axis=0, mode="nearest" if extend else "constant")
            np.testing.assert_array_equal(curves.moving_average(series, width, extend=extend), expected)


@pytest.mark.parametrize(("points", "window"), [(5, 5), (16, 5), (101, 25), (1024, 257)])
def test_local_parabolas_are_those_of_scipy(points, window):
    series = np.random.default_rng(0).normal(size=points).cumsum()
    np.testing.assert_allclose(parabola_weights(window), savgol_coeffs(window, 2), rtol=0, atol=1e-13)
    expected = savgol_filter(series, window, 2, mode="interp")
    np.testing.assert_allclose(local_parabola(series, window), expected, rtol=0, atol=1e-9)
