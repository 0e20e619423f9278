"""Tensors that are read on use: for states larger than memory.

A view of a memory-mapped file needs none of this: the operating system loads and drops its pages as
needed. `Deferred` is for tensors that must first be copied or assembled.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from regime_proto.schema.types import Array, read_only

T = TypeVar("T")


class Deferred:
    """A placeholder for an array: it offers shape and dtype only, until it is `loaded`.

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
    """Return a `Deferred`, typed as an array, for code that uses only its shape and dtype."""
    return cast(Array, Deferred(shape, dtype, read))


def loaded(array: T) -> T:
    """Return an array; a deferred one is read now, and is read-only."""
    return cast(T, read_only(array.read())) if isinstance(array, Deferred) else array
