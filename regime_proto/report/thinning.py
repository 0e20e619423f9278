"""Curves of many points, thinned for drawing without a visible change."""

import numpy as np

from regime_proto.schema.types import Array


def extremes(steps: Array, values: Array, bins: int) -> tuple[Array, Array]:
    """Return the smallest and the largest value of every bin, in their order, with the steps where they are.

    The first and the last point stay, and so does every gap: one NaN for it, and the points on both of its sides.

    Parameters
    ----------
    steps : (point,) number
        In ascending order.
    values : (point,) float64
        NaN in gaps.
    bins : int
        Parts of about as many points each; curves that have no more than two points for each are returned whole.

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
