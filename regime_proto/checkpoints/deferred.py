"""Tensors that are read when they are used: for states that are larger than memory.

A tensor that views a mapped file is such already: its pages are the system's, which takes them back when it wants to.
`Deferred` stands for one that has to be copied or put together first.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from regime_proto.schema.types import Array

T = TypeVar("T")


class Deferred:
    """Stands for an array of which only shape and type are looked at, until it is `loaded`.

    Parameters
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    read : callable
        Returns the array, a new one each time.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], read: Callable[[], Array]) -> None:
        self.shape, self.dtype, self.read = shape, dtype, read

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.size * self.dtype.itemsize


def deferred(shape: tuple[int, ...], dtype: np.dtype[Any], read: Callable[[], Array]) -> Array:
    """Return a `Deferred` for where arrays are expected of which only shape and type are looked at."""
    return cast(Array, Deferred(shape, dtype, read))


def loaded(array: T) -> T:
    """Return an array, read now if it is deferred."""
    return cast(T, array.read()) if isinstance(array, Deferred) else array
