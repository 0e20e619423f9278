"""Averages over adjacent intervals, so that a page shows a few hundred columns for a run of any length."""

import numpy as np

from regime_proto.schema.types import Array


def bin_edges(count: int, bins: int) -> Array:
    """Return the starts of bins of about equal length, followed by `count`; one bin per interval if there are few."""
    return np.linspace(0, count, min(count, bins) + 1).astype(np.int64)


def bin_means(values: Array, edges: Array) -> Array:
    """Return the mean over every bin, ignoring NaN; NaN if a bin holds nothing else.

    Parameters
    ----------
    values : (interval, ...) float64
    edges : (bin + 1,) int64

    Returns
    -------
    (bin, ...) float64
    """
    known = np.isfinite(values)
    sums = np.add.reduceat(np.where(known, values, 0.0), edges[:-1], axis=0)
    counts = np.add.reduceat(known, edges[:-1], axis=0, dtype=np.int64)
    means: Array = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return means
