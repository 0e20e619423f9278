"""Summarises many runs by mean, semi-deviations, median and spread (docs/protocol.md, section 6)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from regime_proto.schema.numbers import finite


@dataclass(frozen=True)
class Centre:
    """Mean, semi-deviations and median of the values of many runs.

    Parameters
    ----------
    runs : int
        Number of defined values; undefined ones are ignored.
    mean : float
        Mean; NaN if no value is defined.
    upper : float
        Upper semi-deviation: the root of the mean of (value − mean)² over the values above the mean, divided by the
        number of those values. This denominator yields the paper's +6.43 and −2.04 for its 18 runs; dividing by 18
        instead would yield 3.03 and 1.80. NaN if there are no values above.
    lower : float
        Lower semi-deviation: the same over the values below the mean.
    median : float
        Median; NaN if no value is defined.
    """

    runs: int
    mean: float
    upper: float
    lower: float
    median: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON object; numbers are finite or None."""
        return {name: finite(value) for name, value in vars(self).items()}


@dataclass(frozen=True)
class Spread:
    """The spread of the values of repeated runs.

    Parameters
    ----------
    runs : int
        Number of defined values; undefined ones are ignored.
    mean : float
        Mean; NaN if no value is defined.
    deviation : float
        Sample standard deviation, with n − 1 in the denominator; NaN for fewer than two values.
    lowest : float
        Lowest value; NaN if no value is defined.
    highest : float
        Highest value; NaN if no value is defined.
    """

    runs: int
    mean: float
    deviation: float
    lowest: float
    highest: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON object; numbers are finite or None."""
        return {name: finite(value) for name, value in vars(self).items()}


def centre(values: Iterable[float]) -> Centre:
    """Return mean, semi-deviations and median of the defined values."""
    array = _defined(values)
    if not len(array):
        return Centre(0, math.nan, math.nan, math.nan, math.nan)
    offsets = array - array.mean()
    return Centre(
        runs=len(array),
        mean=float(array.mean()),
        upper=_root_mean_square(offsets[offsets > 0]),
        lower=_root_mean_square(offsets[offsets < 0]),
        median=float(np.median(array)),
    )


def spread(values: Iterable[float]) -> Spread:
    """Return mean, sample standard deviation and extremes of the defined values."""
    array = _defined(values)
    if not len(array):
        return Spread(0, math.nan, math.nan, math.nan, math.nan)
    deviation = float(array.std(ddof=1)) if len(array) > 1 else math.nan
    return Spread(len(array), float(array.mean()), deviation, float(array.min()), float(array.max()))


def _defined(values: Iterable[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    array = np.array(list(values), np.float64)
    return array[np.isfinite(array)]


def _root_mean_square(offsets: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    return math.sqrt(float(np.square(offsets).mean())) if len(offsets) else math.nan
