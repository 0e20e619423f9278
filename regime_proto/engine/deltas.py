"""Weight change between two states: Σ|Δ| and √ΣΔ² per tensor (PROTOCOL: Eq. 2)."""

from collections.abc import Mapping, Sequence

import numpy as np

from regime_proto.source import Array, widest

# Long enough that threads seldom hand the interpreter over, short enough for the third-level cache.
BLOCK = 1_048_576
FOLD = 8
LONG = 65_536


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
    delta = np.empty(min(BLOCK, values.size), np.result_type(values, previous))
    l1 = squares = 0.0
    for start in range(0, values.size, BLOCK):
        block = slice(start, min(start + BLOCK, values.size))
        out = delta[: block.stop - start]
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            np.abs(np.subtract(values[block], previous[block], out=out), out=out)
            block_l1 = _sum(out)
            block_squares = _sum(np.square(out, out=out))
        if block_l1 and not 1e-30 < block_squares < 1e30:
            # The squares left the range of float32.
            wide = values[block].astype(np.float64) - previous[block]
            block_squares = float(np.square(wide).sum())
        l1 += block_l1
        squares += block_squares
    return l1, squares


def _sum(values: Array) -> float:
    """Return the sum of non-negative values, in float64.

    Long arrays are first folded eightfold in their own type: that halves the time, and the rounding of tens of
    thousands of short sums averages out to some 1e-10.
    """
    folded = len(values) - len(values) % FOLD if len(values) >= LONG else 0
    columns = np.add.reduce(values[:folded].reshape(FOLD, -1), axis=0)
    return float(columns.sum(dtype=np.float64) + values[folded:].sum(dtype=np.float64))


def non_finite(state: Mapping[str, Array], names: Sequence[str]) -> list[str]:
    """Return the names of the tensors that hold NaN or Inf."""
    return [name for name in names if not _finite(widest(state[name]))]


def _finite(values: Array) -> bool:
    flat = values.reshape(-1)
    return all(bool(np.isfinite(flat[start : start + BLOCK]).all()) for start in range(0, flat.size, BLOCK))
