"""Reads the ``.msgpack`` files that flax.serialization writes, with the library of that format and without flax."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from regime_proto.adapters.mapped import dtype_named
from regime_proto.adapters.msgpack_values import hold_values
from regime_proto.schema.errors import RegimeError

from regime_proto.opening import open_file, read_whole
from regime_proto.payload import Incomplete, Label, NotACheckpoint, Payload, label_of
from regime_proto.source import Array
from regime_proto.trees import tree_payload

SUFFIXES = (".msgpack",)

_INSTALL = 'pip install "regime-proto[flax]"'
_FIRST_KEY_AT = {0xDE: 3, 0xDF: 5}
# flax's own: an array, and a number of numpy's.
_ARRAYS = (1, 3)
_DTYPE = re.compile(r"bool|u?int\d+|b?float\d+\w*|complex\d+")
_PARTS = "__msgpack_chunked_array__"
# Room for a list is made before its values are there. flax has no lists but shapes.
_LONGEST_LIST = 2**14


def recognise(path: Path) -> str | None:
    """Tell a map whose first key is text; empty files count as damaged."""
    if not path.is_file():
        return None
    with open_file(path) as file:
        start = file.read(6)
    if not start:
        return "an empty file"
    at = _FIRST_KEY_AT.get(start[0], 1 if 0x80 < start[0] <= 0x8F else len(start))
    is_text = len(start) > at and (0xA0 <= start[at] <= 0xBF or 0xD9 <= start[at] <= 0xDB)
    return "a map of msgpack, as flax.serialization writes" if is_text else None


def peek(path: Path) -> Label:
    """Return what the single numbers beside the model say."""
    return label_of(read(path).facts)


def read(path: Path) -> Payload:
    """Read a checkpoint; its arrays cannot be written to, bfloat16 is of ml_dtypes' type."""
    try:
        import msgpack
    except ImportError:
        raise RegimeError(f"{path}: cannot be read without msgpack: {_INSTALL}") from None

    def extension(code: int, data: bytes) -> Array | None:
        return _array(*msgpack.unpackb(data, max_array_len=_LONGEST_LIST)) if code in _ARRAYS else None

    try:
        content = read_whole(path)
        hold_values(content, path, _ARRAYS)
        tree = _joined(msgpack.unpackb(content, ext_hook=extension, strict_map_key=False, max_array_len=_LONGEST_LIST))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        kind = Incomplete if not path.stat().st_size or "incomplete input" in str(error) else RegimeError
        reason = str(error) or type(error).__name__
        raise kind(f"{path}: damaged or incomplete ({reason!s:.200}); save it again or remove it") from None
    if not isinstance(tree, Mapping):
        raise NotACheckpoint("no tree of arrays in it")
    return tree_payload(tree)


def _array(shape: Any, dtype: Any, content: Any) -> Array:
    """Return an array as flax writes it."""
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype):
        raise ValueError(f"an array of dtype {dtype!r:.50}")
    found = dtype_named(dtype)
    if any(type(length) is not int or length < 0 for length in shape) or not isinstance(content, bytes):
        raise ValueError(f"an array of shape {shape!r:.50}")
    if math.prod(shape) * found.itemsize != len(content):
        raise ValueError(f"{len(content)} bytes for an array {dtype}{shape!r:.50}")
    return np.frombuffer(content, found).reshape(shape)


def _joined(tree: Any) -> Any:
    """Return a tree whose large arrays, which were saved in parts, are whole."""
    if isinstance(tree, list):
        return [_joined(part) for part in tree]
    if not isinstance(tree, dict):
        return tree
    if _PARTS not in tree:
        return {key: _joined(part) for key, part in tree.items()}
    shape = [tree["shape"][str(axis)] for axis in range(len(tree["shape"]))]
    parts = [tree["chunks"][str(index)] for index in range(len(tree["chunks"]))]
    if len({part.dtype for part in parts}) != 1 or sum(part.size for part in parts) != math.prod(shape):
        raise ValueError(f"the parts of an array of shape {shape!r:.50} do not make it up")
    whole = np.concatenate(parts).reshape(shape)
    whole.flags.writeable = False
    return whole
