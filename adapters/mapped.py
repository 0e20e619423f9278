"""Maps files into memory, and creates arrays that view them without a copy."""

import mmap
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from regime_proto.checkpoints.opening import descriptor_of
from regime_proto.schema.types import Array


def map_file(path: Path) -> mmap.mmap:
    """Map a file for reading. Arrays that view it keep it open.

    Raises
    ------
    OSError
        The file cannot be opened.
    NotAFile
        It is not a regular file.
    ValueError
        It is empty.
    """
    descriptor, _ = descriptor_of(path)
    try:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)


@cache
def dtype_named(name: str) -> np.dtype[Any]:
    """Return the NumPy dtype of a name, or that of ml_dtypes if NumPy has none (bfloat16, float8)."""
    if hasattr(np, name):
        return np.dtype(name)
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return dtype


def view(
    file: mmap.mmap | bytes,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    *,
    within: tuple[int, int],
    offset: int = 0,
    strides: tuple[int, ...] | None = None,
) -> Array:
    """Return a read-only array that views a part of a mapped file, or of the content of a file.

    Parameters
    ----------
    file : mmap or bytes
    dtype : numpy.dtype
    shape : tuple of int
    within : tuple of int
        First byte of the part, and the first byte after it.
    offset : int
        Position of the first element in the part, in elements.
    strides : tuple of int, optional
        Strides in elements. Default: row-major.

    Raises
    ------
    ValueError
        The array would extend beyond the part, or the part beyond the file.
    """
    start, stop = within
    strides = _row_major(shape) if strides is None else strides
    numbers = (offset, *within, *shape, *strides)
    # NumPy integers would be accepted as well, but their arithmetic overflows.
    if len(shape) != len(strides) or set(map(type, numbers)) != {int} or min(numbers) < 0:
        raise ValueError(f"a tensor of shape {shape}, strides {strides} and offset {offset}")
    start, stop = within
    past = offset
    if 0 not in shape:
        past += 1
        for size, stride in zip(shape, strides, strict=True):
            past += (size - 1) * stride
    if not start <= start + past * dtype.itemsize <= stop <= len(file):
        raise ValueError(f"a tensor extends to byte {start + past * dtype.itemsize} of {min(stop, len(file))}")
    in_bytes = [stride * dtype.itemsize for stride in strides]
    return np.ndarray(shape, dtype, buffer=file, offset=start + offset * dtype.itemsize, strides=in_bytes)


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * size)
    return tuple(reversed(strides))[: len(shape)] if shape else ()
