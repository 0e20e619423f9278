"""Moves weights by what means nothing: one unit in the last place, up or down at random."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from regime_proto.schema.types import Array

SEED = 0

# For float32 numbers that are not subnormal, w · (1 − 2⁻²⁴) rounds to the neighbour of w towards zero, and
# w / (1 − 2⁻²⁴) to the one away from it; for float64 it is 1 − 2⁻⁵³.
_FACTORS: Mapping[str, Any] = {"float32": np.float32(1 - 2**-24), "float64": np.float64(1 - 2**-53)}


def can_move(dtype: str) -> bool:
    """Whether numbers of a type, by NumPy's name, are moved."""
    return dtype in _FACTORS


def nudged(weights: Mapping[str, Array], dtypes: Mapping[str, str]) -> dict[str, Array]:
    """Return weights that are moved by one unit in the last place of the type that a graph computes in.

    Whether up or down is drawn for each position along one axis of a tensor (not the first, where there is another).

    Parameters
    ----------
    weights : mapping of str to array
    dtypes : mapping of str to str
        The tensors to move, in the order of the draws, and the type in which each is used: float32 or float64.
    """
    random = np.random.default_rng(SEED)
    return {
        name: _moved(weights[name].astype(dtype, copy=False), _FACTORS[dtype], random) for name, dtype in dtypes.items()
    }


def _moved(array: Array, factor: Any, random: np.random.Generator) -> Array:
    up = random.random(_drawn_shape(array.shape)) < 0.5
    one = type(factor)(1)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        moved = np.multiply(array, np.where(up, one, factor))
        # In the same memory: a state may be large.
        moved = np.divide(moved, np.where(up, factor, one), out=moved if moved.ndim else None)
    return np.asarray(moved)


def _drawn_shape(shape: tuple[int, ...]) -> list[int]:
    """Return a shape that broadcasts to another, long in the longest axis after the first."""
    if not shape:
        return []
    longest = max(range(min(1, len(shape) - 1), len(shape)), key=shape.__getitem__)
    return [length if axis == longest else 1 for axis, length in enumerate(shape)]
