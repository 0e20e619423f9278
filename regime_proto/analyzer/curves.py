"""The protocol's mathematics on plain arrays: smooth, normalise, area, thresholds (docs/protocol.md, section 4).

Every function takes the interval axis first: ``(interval, ...)``.
"""

import numpy as np

from regime_proto.schema.types import Array

WINDOW_FRACTION = 0.30
PERCENTILES = (0.5, 99.5)
CONSTANT = 1e-12
THRESHOLDS = (0.5, 0.25, 0.1, 0.05)


def window(observations_per_epoch: float | None, intervals: int) -> int:
    """Return the length of the moving average, in observations; 1 if the epoch is unknown."""
    if observations_per_epoch is None:
        return 1
    return min(max(1, round(WINDOW_FRACTION * observations_per_epoch)), intervals)


def smooth(series: Array, width: int, *, ends: str) -> Array:
    """Return the simple moving average over `width` intervals.

    Parameters
    ----------
    series : (interval, ...) float64
    width : int
    ends : {"same", "valid"}
        ``same`` pads with zeros and keeps the length; ``valid`` keeps whole windows only.
    """
    if width == 1:
        return series
    averaged = moving_average(series, width)
    return averaged if ends == "same" else averaged[valid_intervals(len(series), width)]


def moving_average(series: Array, width: int, *, extend: bool = False) -> Array:
    """Return the mean over `width` intervals around each, by a running sum whose cost does not grow with `width`.

    Parameters
    ----------
    series : (interval, ...) float64
    width : int
        For an even number, the window has one more interval before the centre than after it.
    extend : bool
        Pad the ends with the first and the last value instead of zeros.
    """
    count, before = len(series), width // 2
    padded = np.zeros((count + width - 1, *series.shape[1:]))
    padded[before : before + count] = series
    if extend:
        padded[:before], padded[before + count :] = series[0], series[-1]
    sums = np.empty((count, *series.shape[1:]))
    sums[0] = np.cumsum(padded[:width], axis=0)[-1]
    np.subtract(padded[width:], padded[: count - 1], out=sums[1:])
    np.cumsum(sums, axis=0, out=sums)
    sums /= width
    return sums


def valid_intervals(intervals: int, width: int) -> slice:
    """Return the intervals at the centres of the whole windows, rounded up."""
    return slice(width // 2, width // 2 + intervals - width + 1)


def is_constant(series: Array) -> Array:
    """Whether an unsmoothed series has no scale: its range is zero up to rounding."""
    result: Array = np.ptp(series, axis=0) <= CONSTANT * np.abs(series).max(axis=0)
    return result


def normalise(smoothed: Array, *, clip: bool) -> Array:
    """Scale the 0.5th percentile to 0 and the 99.5th to 1; NaN where they are equal."""
    low, high = np.percentile(smoothed, PERCENTILES, axis=0)
    span = np.where(high > low, high - low, np.nan)
    scaled = (smoothed - low) / span
    result: Array = np.clip(scaled, 0.0, 1.0) if clip else scaled
    return result


def area(normalised: Array, weights: Array) -> Array:
    """Return the mean over the intervals, weighted with their lengths in steps (the AUC)."""
    mean: Array = np.tensordot(weights / weights.sum(), normalised, axes=(0, 0))
    return mean


def ratio(weight_area: float, pattern_area: float) -> float:
    """Return ρ = AUC_W / AUC_P, NaN where it is undefined."""
    return weight_area / pattern_area if pattern_area else float("nan")


def settled_from(normalised: Array, threshold: float, *, at_least: int) -> int | None:
    """Return the first index from which a curve stays below a threshold to the end.

    Parameters
    ----------
    normalised : (interval,) float64
    threshold : float
    at_least : int
        Return None unless at least this many values stay below.
    """
    above = np.flatnonzero(~(normalised < threshold))
    first = int(above[-1]) + 1 if len(above) else 0
    return first if len(normalised) - first >= max(1, at_least) else None
