"""Weight change between two states: Σ|Δ| and √ΣΔ² per tensor (PROTOCOL: Eq. 2)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from regime_proto.source import Array, widest

# Two operands and the difference stay in the second-level cache.
BLOCK = 262_144


def weight_deltas(
    state: Mapping[str, Array], previous: Mapping[str, Array], names: Sequence[str]
) -> tuple[Array, Array]:
    """Return the change of every tensor.

    Returns
    -------
    l1, l2 : (tensor,) float64
        Σ|Δ| and √ΣΔ²; differences are formed in float32 or wider, sums kept in float64.
    """
    sums = [delta_sums(widest(state[name]), widest(previous[name])) for name in names]
    l1, squares = np.array(sums, np.float64).reshape(-1, 2).T
    return l1, np.sqrt(squares)


def delta_sums(values: Array, previous: Array) -> tuple[float, float]:
    """Return Σ|Δ| and ΣΔ² of two arrays of one shape, block by block."""
    values, previous = values.reshape(-1), previous.reshape(-1)
    l1 = squares = 0.0
    for start in range(0, values.size, BLOCK):
        block = slice(start, start + BLOCK)
        with np.errstate(invalid="ignore", over="ignore"):
            delta = np.abs(values[block] - previous[block])
            # numpy sums float32 pairwise: over one block its error stays near 1e-8.
            block_l1, block_squares = float(delta.sum()), float(np.square(delta).sum())
        if block_l1 and not 1e-30 < block_squares < 1e30:
            wide = delta.astype(np.float64)
            block_l1, block_squares = float(wide.sum()), float(np.square(wide).sum())
        l1 += block_l1
        squares += block_squares
    return l1, squares


def non_finite(state: Mapping[str, Array], names: Sequence[str]) -> list[str]:
    """Return the names of the tensors that hold NaN or Inf."""
    return [name for name in names if not _finite(widest(state[name]))]


def _finite(values: Array) -> bool:
    flat = values.reshape(-1)
    return all(
        bool(np.isfinite(flat[start : start + BLOCK]).all()) for start in range(0, flat.size, BLOCK)
    )


def norm_is_finite(l1: Array) -> bool:
    """Whether every sum is finite, and with it every element of both states."""
    return math.isfinite(float(l1.sum()))
