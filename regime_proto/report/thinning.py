"""Thins curves of many points for drawing, without a visible change."""

import numpy as np

from regime_proto.schema.types import Array


def extremes(steps: Array, values: Array, bins: int) -> tuple[Array, Array]:
    """Return the smallest and the largest value of every bin, in order, with their steps.

    The first and the last point are kept. So is every gap, as one NaN and the points on both of its sides.

    Parameters
    ----------
    steps : (point,) number
        In ascending order.
    values : (point,) float64
        NaN in gaps.
    bins : int
        Number of bins, of about equal size. A curve with at most two points per bin is returned unchanged.

    Returns
    -------
    steps, values : (kept,) arrays
    """
    if len(values) <= 2 * bins:
        return steps, values
    known = np.isfinite(values)
    kept = np.zeros(len(values), bool)
    kept[[0, -1]] = True
    kept[_around_gaps(known)] = True
    for part in np.array_split(np.arange(len(values)), bins):
        inside = part[known[part]]
        if len(inside):
            kept[[inside[values[inside].argmin()], inside[values[inside].argmax()]]] = True
    return steps[kept], values[kept]


def _around_gaps(known: Array) -> Array:
    """Return the last known point before each gap, the first unknown one in it, and the first known one after it."""
    turns = np.flatnonzero(known[1:] != known[:-1])
    begins = turns[known[turns]]
    ends = turns[~known[turns]]
    return np.concatenate([begins, begins + 1, ends + 1])
