"""Bootstrap resampling of the areas and ρ, over the probe samples and over the noise of the run.

Both kinds resample the raw changes of weights and patterns, and compute the same numbers from each resample as from the
original.
"""

import math
from collections.abc import Callable

import numpy as np

from regime_proto.analyzer.areas import area_of
from regime_proto.analyzer.curves import moving_average
from regime_proto.analyzer.readings import Reading
from regime_proto.analyzer.samples import SampleChanges
from regime_proto.schema.types import Array

# Number of values that are resampled at a time.
_BATCH_VALUES = 2 * 2**20

# The trend is a local parabola over this fraction of the run, on a logarithmic scale, on which exponential decay is a
# straight line. OFFSET times the mean is added before taking the logarithm. The fit uses at most TREND_POINTS points.
TREND_PART = 0.25
OFFSET = 0.05
TREND_POINTS = 1024
# The length of blocks grows more slowly than the run, so that their number grows too.
BLOCK_POWER = 0.45
# With fewer changes, trend and noise cannot be separated.
MIN_CHANGES = 16


def areas_of_other_probes(
    changes: SampleChanges, *, lengths: Array, width: int, reading: Reading, resamples: int, seed: int
) -> Array:
    """Return AUC_P for probes whose samples are drawn with replacement from this probe.

    Returns
    -------
    (resample,) float64
        Their spread estimates that of the original AUC_P, even with few samples.
    """
    random = np.random.default_rng(seed)
    samples = changes.samples
    counts = random.multinomial(samples, np.full(samples, 1 / samples), size=resamples).T
    areas = _by_batches(
        len(lengths), resamples, lambda at: area_of(changes.of_choice(counts[:, at]), lengths, width, reading)
    )
    # The variance of draws from |S| samples is smaller than that of draws from the population, by (|S| - 1) / |S|.
    centre = areas.mean()
    return np.asarray(centre + (areas - centre) * np.sqrt(samples / (samples - 1)))


def areas_of_other_courses(
    weights: Array, patterns: Array, *, lengths: Array, width: int, reading: Reading, resamples: int, seed: int
) -> Array:
    """Return AUC_W and AUC_P for runs with the same trends, but with resampled blocks of the deviations from them.

    Only the deviations are resampled, since resampling blocks of the series itself would destroy its trend. Weights and
    patterns use the same blocks, so that noise common to both stays common.

    Parameters
    ----------
    weights, patterns : (interval,) float64
    lengths : (interval,) float64
        Steps of each interval.

    Returns
    -------
    (resample, 2) float64
        Their spread estimates how the noise of the run affects AUC_W and AUC_P. Trends that change within less than a
        tenth of the run partly count as noise, and widen the spread.
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
    """A series as trend × (1 + noise), where the level of the noise changes slowly."""

    def __init__(self, series: Array, block: int) -> None:
        window = _odd(len(series) * TREND_PART)
        self._offset = OFFSET * series.mean()
        raised = series + self._offset
        trend = _trend(raised, window)
        trend = trend * moving_average(raised / trend, window, extend=True)
        noise = (raised / trend - 1) / np.sqrt(_left_of_noise(window, block))
        self._trend = trend
        # The running sum of the filter can be slightly negative.
        self._level = np.sqrt(np.maximum(moving_average(np.square(noise), window, extend=True), 0.0))
        self._noise = np.divide(noise, self._level, out=np.zeros_like(noise), where=self._level > 0)

    def reordered(self, order: Array) -> Array:
        """Return series, (interval, resample), whose noise at each interval is taken from the interval in `order`."""
        raised = self._trend[:, None] * (1 + self._level[:, None] * self._noise[order])
        return np.asarray(np.maximum(raised - self._offset, 0.0))


def _odd(length: float) -> int:
    return max(5, int(length) | 1)


def _trend(series: Array, window: int) -> Array:
    """Return the trend of a series: a local parabola fitted on a logarithmic scale."""
    points = min(len(series), TREND_POINTS)
    edges = np.linspace(0, len(series), points + 1).astype(np.int64)
    means = np.add.reduceat(series, edges[:-1]) / np.diff(edges)
    coarse = local_parabola(np.log(means), min(_odd(window * points / len(series)), (points - 1) | 1))
    centres = (edges[:-1] + edges[1:] - 1) / 2
    return np.asarray(np.exp(np.interp(np.arange(len(series)), centres, coarse)))


def local_parabola(series: Array, window: int) -> Array:
    """Return, at each point, the least-squares parabola through the window around it (Savitzky and Golay 1964).

    Parameters
    ----------
    series : (point,) float64
    window : int
        Length of the window: odd, and at most the length of the series. The points of the first and the last half
        window use the parabola of the first and the last whole window.
    """
    half = window // 2
    fitted = np.convolve(series, parabola_weights(window), "same")
    offsets = np.arange(window) - half
    first, last = (np.polynomial.Polynomial.fit(offsets, part, 2) for part in (series[:window], series[-window:]))
    fitted[:half], fitted[-half:] = first(offsets[:half]), last(offsets[-half:])
    return fitted


def parabola_weights(window: int) -> Array:
    """Return the weights of the points of a window for the value of the least-squares parabola at its centre."""
    half = window // 2
    offsets = np.arange(window) - half
    weights = 3 * half**2 + 3 * half - 1 - 5 * np.square(offsets)
    return np.asarray(3 * weights / ((2 * half - 1) * (2 * half + 1) * (2 * half + 3)))


def _left_of_noise(window: int, block: int) -> float:
    """Return the fraction of the variance of white noise, summed over a block, that is left by removing the trend."""
    kernel = -parabola_weights(window)
    kernel[window // 2] += 1
    return float(np.square(np.convolve(np.ones(block), kernel)).sum() / block)


def _by_batches(intervals: int, resamples: int, areas: Callable[[slice], Array]) -> Array:
    batch = max(1, _BATCH_VALUES // intervals)
    return np.concatenate([areas(slice(start, start + batch)) for start in range(0, resamples, batch)])
