"""Fewer points to draw a long curve by, which show the same: the smallest and the largest of every bin."""

import itertools

import numpy as np

from regime_proto.analyzer.series import Array
from regime_proto.report.binning import bin_edges

POINTS = 2000


def extremes(steps: Array, values: Array, bins: int = POINTS // 2) -> tuple[Array, Array]:
    """Return the smallest and the largest value of every bin, in their order, with the first and the last point.

    Parameters
    ----------
    steps, values : (interval,)
        A bin with NaN only keeps one of them, so that gaps stay gaps.
    bins : int
        Of about equal numbers of intervals; a curve of twice as many points or fewer is returned as it is.

    Returns
    -------
    steps, values : (point,)
    """
    if len(values) <= 2 * bins:
        return steps, values
    kept = [0, len(values) - 1]
    edges = bin_edges(len(values), bins)
    for start, stop in itertools.pairwise(edges):
        part = values[start:stop]
        if np.isnan(part).all():
            kept.append(int(start))
        else:
            kept += [int(start + np.nanargmin(part)), int(start + np.nanargmax(part))]
    chosen = np.unique(kept)
    return steps[chosen], values[chosen]
