"""Computes the areas under the curves of a run, for one reading (docs/protocol.md, section 4)."""

import numpy as np

from regime_proto.analyzer import curves
from regime_proto.analyzer.readings import Reading
from regime_proto.analyzer.series import Series
from regime_proto.schema.types import Array


def areas(series: Series, width: int, reading: Reading) -> tuple[float, float]:
    """Return AUC_W and AUC_P for one reading; NaN if a series is constant."""
    auc_w = area_of(series.weights[reading.weights], series.lengths, width, reading)
    auc_p = area_of(series.patterns[reading.patterns], series.lengths, width, reading)
    return float(auc_w), float(auc_p)


def area_of(values: Array, lengths: Array, width: int, reading: Reading) -> Array:
    """Return the area under the smoothed and normalised curve of a raw series.

    Parameters
    ----------
    values : (interval, ...) float64
    lengths : (interval,) float64
        Steps of each interval.
    width : int
        Length of the moving average.
    reading : Reading

    Returns
    -------
    (...) float64
        NaN where a series is constant or undefined.
    """
    with np.errstate(invalid="ignore"):
        normalised = curves.normalise(curves.smooth(values, width, ends=reading.ends), clip=reading.clip)
    if reading.ends == "valid":
        lengths = lengths[curves.valid_intervals(len(lengths), width)]
    return np.where(curves.is_constant(values), np.nan, curves.area(normalised, lengths))
