"""How the areas and ρ would spread, had other samples been in the probe, or had chance fallen otherwise in the run.

Both take the raw changes of weights and patterns, make many more of the same kind, and read off each what is read off
the original.
"""

import math
from collections.abc import Callable

import numpy as np

from regime_proto.analyzer.areas import area_of
from regime_proto.analyzer.curves import moving_average
from regime_proto.analyzer.readings import Reading
from regime_proto.analyzer.samples import SampleChanges
from regime_proto.schema.types import Array

# So many values are made at a time.
_BATCH_VALUES = 2 * 2**20

# The trend is a local parabola over this part of the run, on a logarithmic scale that ends at OFFSET means: what decays
# exponentially is straight there. It is found from so many points at most.
TREND_PART = 0.25
OFFSET = 0.05
TREND_POINTS = 1024
# Blocks grow with the run, slower than it, so that both their length and their number do.
BLOCK_POWER = 0.45
# Below this many changes there is no telling trend from noise.
MIN_CHANGES = 16


def areas_of_other_probes(
    changes: SampleChanges, *, lengths: Array, width: int, reading: Reading, resamples: int, seed: int
) -> Array:
    """Return AUC_P for probes drawn, with replacement, from the samples of this one.

    Returns
    -------
    (resample,) float64
        Their spread is that of the original, also where samples are few.
    """
    random = np.random.default_rng(seed)
    samples = changes.samples
    counts = random.multinomial(samples, np.full(samples, 1 / samples), size=resamples).T
    areas = _by_batches(
        len(lengths), resamples, lambda at: area_of(changes.of_choice(counts[:, at]), lengths, width, reading)
    )
    # A draw from |S| samples varies less than one from all that there are, by (|S| - 1) / |S|.
    centre = areas.mean()
    return np.asarray(centre + (areas - centre) * np.sqrt(samples / (samples - 1)))


def areas_of_other_courses(
    weights: Array, patterns: Array, *, lengths: Array, width: int, reading: Reading, resamples: int, seed: int
) -> Array:
    """Return AUC_W and AUC_P for runs of the same trends, with blocks of the deviations from them in another order.

    The trend itself stays in its place: blocks of a series that has a trend, put in another order, are no such run.
    Weights and patterns take the same blocks, so that what moves both goes on doing so.

    Parameters
    ----------
    weights, patterns : (interval,) float64
    lengths : (interval,) float64
        Steps of each interval.

    Returns
    -------
    (resample, 2) float64
        The spread is that of the protocol's numbers under the noise of the run; trends that change within less than a
        tenth of the run count as noise in part, and widen it.
    """
    random = np.random.default_rng(seed)
    intervals = len(weights)
    block = block_length(intervals)
    starts = random.integers(0, intervals, (resamples, -(-intervals // block)))
    courses = [_Course(series, block) for series in (weights, patterns)]

    def areas(at: slice) -> Array:
        order = (starts[at, :, None] + np.arange(block)).reshape(len(starts[at]), -1)[:, :intervals] % intervals
        return np.stack([area_of(course.reordered(order.T), lengths, width, reading) for course in courses], axis=1)

    return _by_batches(intervals, resamples, areas)


def block_length(intervals: int) -> int:
    """Return the length of a block, in intervals."""
    return max(1, round(math.pow(intervals, BLOCK_POWER)))


class _Course:
    """A series as a trend, times one and noise of a level that changes slowly."""

    def __init__(self, series: Array, block: int) -> None:
        window = _odd(len(series) * TREND_PART)
        self._offset = OFFSET * series.mean()
        raised = series + self._offset
        trend = _trend(raised, window)
        trend = trend * moving_average(raised / trend, window, extend=True)
        noise = (raised / trend - 1) / np.sqrt(_left_of_noise(window, block))
        self._trend = trend
        # The running sum of the filter can end up below zero.
        self._level = np.sqrt(np.maximum(moving_average(np.square(noise), window, extend=True), 0.0))
        self._noise = np.divide(noise, self._level, out=np.zeros_like(noise), where=self._level > 0)

    def reordered(self, order: Array) -> Array:
        """Return series whose noise at an interval is that of the interval in `order`, (interval, resample)."""
        raised = self._trend[:, None] * (1 + self._level[:, None] * self._noise[order])
        return np.asarray(np.maximum(raised - self._offset, 0.0))


def _odd(length: float) -> int:
    return max(5, int(length) | 1)


def _trend(series: Array, window: int) -> Array:
    """Return the local parabola, on a logarithmic scale."""
    points = min(len(series), TREND_POINTS)
    edges = np.linspace(0, len(series), points + 1).astype(np.int64)
    means = np.add.reduceat(series, edges[:-1]) / np.diff(edges)
    coarse = local_parabola(np.log(means), min(_odd(window * points / len(series)), (points - 1) | 1))
    centres = (edges[:-1] + edges[1:] - 1) / 2
    return np.asarray(np.exp(np.interp(np.arange(len(series)), centres, coarse)))


def local_parabola(series: Array, window: int) -> Array:
    """Return the parabola of least squares through each point's window, at the point (Savitzky and Golay 1964).

    Parameters
    ----------
    series : (point,) float64
    window : int
        Points of it, odd, not more than there are. The first and the last half take the parabola of the whole window
        that they lie in.
    """
    half = window // 2
    fitted = np.convolve(series, parabola_weights(window), "same")
    offsets = np.arange(window) - half
    first, last = (np.polynomial.Polynomial.fit(offsets, part, 2) for part in (series[:window], series[-window:]))
    fitted[:half], fitted[-half:] = first(offsets[:half]), last(offsets[-half:])
    return fitted


def parabola_weights(window: int) -> Array:
    """Return with which weight each point of a window counts in the parabola of least squares at its centre."""
    half = window // 2
    offsets = np.arange(window) - half
    weights = 3 * half**2 + 3 * half - 1 - 5 * np.square(offsets)
    return np.asarray(3 * weights / ((2 * half - 1) * (2 * half + 1) * (2 * half + 3)))


def _left_of_noise(window: int, block: int) -> float:
    """Return the share of the variance of white noise, summed over a block, that a trend over `window` leaves."""
    kernel = -parabola_weights(window)
    kernel[window // 2] += 1
    return float(np.square(np.convolve(np.ones(block), kernel)).sum() / block)


def _by_batches(intervals: int, resamples: int, areas: Callable[[slice], Array]) -> Array:
    batch = max(1, _BATCH_VALUES // intervals)
    return np.concatenate([areas(slice(start, start + batch)) for start in range(0, resamples, batch)])
