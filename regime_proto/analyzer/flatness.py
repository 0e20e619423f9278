"""Checks whether Δw can show when the weights settled; with some optimisers, all steps have equal length."""

import numpy as np

from regime_proto.analyzer import curves
from regime_proto.analyzer.readings import Reading
from regime_proto.analyzer.series import Series

# A curve is flat if its lowest value is more than this fraction of its highest.
FLAT = 2 / 3
# Noise is averaged over at least this fraction of the run before a curve is called flat.
PART = 0.05
MIN_CHANGES = 20


def flatness(series: Series, width: int, reading: Reading) -> float | None:
    """Return the ratio of the lowest to the highest smoothed Δw, without the tenth of values at either end.

    Parameters
    ----------
    width : int
        Length of the moving average.

    Returns
    -------
    float or None
        1 for a constant Δw; None for fewer than 20 changes.
    """
    weights = series.weights[reading.weights]
    if len(weights) < MIN_CHANGES:
        return None
    smoothed = curves.smooth(weights, max(width, round(PART * len(weights))), ends="valid")
    low, high = np.percentile(smoothed, (10, 90))
    return float(low / high) if high > 0 else None


def describe_flat(series: Series, width: int, reading: Reading) -> str | None:
    """Return one line that says that Δw is flat and what follows; None if it is not flat."""
    found = flatness(series, width, reading)
    if found is None or found <= FLAT or curves.is_constant(series.weights[reading.weights]):
        return None
    instead = (
        "look at the distance from the start instead"
        if series.distance is not None
        else "measure the distance from the start as well (weight_distance_l2)"
    )
    return (
        f"Δw is nearly flat: over most of the run, it stays within a factor of {1 / found:.2f}. This is typical of "
        "Adam and similar optimizers, whose steps have about the same length for any gradient, and of gradients that "
        f"are mostly noise. AUC_W and ρ then say little about when the weights settled; {instead}"
    )
