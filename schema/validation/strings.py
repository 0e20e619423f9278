"""Texts: their stored length, and whether they are UTF-8.

HDF5 keeps a string of variable length in a heap, apart from where it is used. Many strings may share one entry, which
is multiplied only when they are read. The lengths are read as those of byte sequences, because a text would end at its
first NUL.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from h5py import h5s, h5t

from regime_proto.schema.header import is_unicode

# The number of strings that are checked together.
_BLOCK = 256
# Length and address in memory.
_SEQUENCE = np.dtype([("length", "u8"), ("address", "u8")])


def is_variable(kind: Any) -> bool:
    """Whether a type is a string of variable length."""
    return isinstance(kind, h5t.TypeStringID) and kind.is_variable_str()


def attribute_bytes(attribute: Any) -> int:
    """Return the size of an attribute's value, in bytes."""
    count = math.prod(attribute.shape or ())
    if not is_variable(attribute.get_type()):
        return count * int(attribute.get_type().get_size())
    if not count:
        return 0
    lengths = np.zeros(attribute.shape, _SEQUENCE)
    attribute.read(lengths.view("V16"), h5t.vlen_create(h5t.NATIVE_UINT8))
    return int(lengths["length"].sum())


def dataset_bytes(dataset: Any, limit: int) -> int:
    """Return the total size of the strings in a dataset, in bytes; counting stops after `limit` bytes."""
    count, total = math.prod(dataset.shape), 0
    space = dataset.get_space()
    for start in range(0, count, _BLOCK):
        numbers = np.arange(start, min(start + _BLOCK, count))
        if dataset.shape:
            points = np.stack(np.unravel_index(numbers, dataset.shape), axis=1).astype(np.uint64)
            space.select_elements(points)
        lengths = np.zeros(len(numbers), _SEQUENCE)
        dataset.read(h5s.create_simple((len(numbers),)), space, lengths.view("V16"), h5t.vlen_create(h5t.NATIVE_UINT8))
        total += int(lengths["length"].sum())
        if total > limit:
            break
    return total


def is_utf8(value: Any) -> bool:
    """Whether the text or texts that h5py returned were UTF-8."""
    if isinstance(value, np.ndarray | list | tuple):
        return all(map(is_utf8, value.ravel().tolist() if isinstance(value, np.ndarray) else value))
    if isinstance(value, bytes):
        return _decodes(value)
    # Other bytes become halves of characters (surrogates).
    return not isinstance(value, str) or is_unicode(value)


def _decodes(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def are_utf8(names: Iterable[bytes]) -> bool:
    """Whether names are UTF-8."""
    return all(map(_decodes, names))
