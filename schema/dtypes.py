"""Types of numbers in checkpoints: NumPy's own, and those of ml_dtypes (bfloat16, float8)."""

from typing import Any

import numpy as np

from regime_proto.schema.types import Array

# The value of numpy.dtype.isbuiltin for types that another library registered.
_REGISTERED = 2


def is_numpys(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype of real numbers is NumPy's own; some dtypes of ml_dtypes have the same kind."""
    return dtype.kind in "fiub" and dtype.isbuiltin != _REGISTERED


def is_real(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype holds real numbers, NumPy's own or one of ml_dtypes (bfloat16, float8)."""
    return dtype.kind in "fiub" or dtype.isbuiltin == _REGISTERED


def widest(array: Array) -> Array:
    """Return `array` in float32 or wider: numpy cannot compute with bfloat16."""
    if array.dtype.kind in "fc" and array.dtype.itemsize >= 4:
        return array
    return array.astype(np.float32)


def is_floating(dtype: str) -> bool:
    """Whether numbers of the named type can be trained, including the types of ml_dtypes (bfloat16, float8)."""
    return dtype.startswith(("float", "bfloat", "complex"))
