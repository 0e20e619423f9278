"""Reads the ``.msgpack`` files of flax.serialization, with the msgpack library and without flax."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from regime_proto.adapters.from_jax.msgpack_values import hold_values
from regime_proto.adapters.mapped import dtype_named
from regime_proto.checkpoints.opening import open_file, read_whole
from regime_proto.checkpoints.param_trees import tree_payload
from regime_proto.checkpoints.payload import Incomplete, Label, NotACheckpoint, Payload, label_of
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

SUFFIXES = (".msgpack",)

_INSTALL = 'pip install "regime-proto[flax]"'
_FIRST_KEY_AT = {0xDE: 3, 0xDF: 5}
# By format code: size of the length of a text; position of the type of an extension; size of a number.
_TEXT_WIDTHS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXTENSIONS = {0xC7: 2, 0xC8: 3, 0xC9: 5}
_NUMBERS = {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, **{code: 1 + 2 ** (code & 3) for code in range(0xCC, 0xD4)}, 0xCB: 9}
_EMPTY_MAP = 0x80
# Extensions of flax: an array, and a NumPy number.
_ARRAYS = (1, 3)
_ARRAY_CODES = (b"\1", b"\3")
_DTYPE = re.compile(r"bool|u?int\d+|b?float\d+\w*|complex\d+")
_PARTS = "__msgpack_chunked_array__"
# Memory for a list is allocated before its values are read. flax uses lists only for shapes.
_LONGEST_LIST = 2**14


def sniff(start: bytes) -> bool:
    """Whether a file is a map with printable keys, in which a flax array follows numbers and such maps."""
    at = _first_key_at(start)
    while at < len(start):
        length, begin = _text_at(start, at)
        at = begin + length
        if not length or at >= len(start) or not start[begin:at].decode("utf-8", "replace").isprintable():
            return False
        code = start[at]
        if code in _EXTENSIONS:
            return start[at + _EXTENSIONS[code] : at + _EXTENSIONS[code] + 1] in _ARRAY_CODES
        if _is_map(start[at:]):
            at += _first_key_at(start[at:])
        elif code <= _EMPTY_MAP or code in _NUMBERS:
            at += _NUMBERS.get(code, 1)
        else:
            return False
    return False


def recognise(path: Path) -> str | None:
    """Recognise a map whose first key is text; an empty file counts as a damaged checkpoint."""
    if not path.is_file():
        return None
    with open_file(path) as file:
        start = file.read(6)
    if not start:
        return "an empty file"
    is_text = _text_at(start, _first_key_at(start)) != (0, 0)
    return "a map of msgpack, as flax.serialization writes" if is_text else None


def _is_map(start: bytes) -> bool:
    return 0x80 < start[0] <= 0x8F or start[0] in _FIRST_KEY_AT


def _first_key_at(start: bytes) -> int:
    """Return the position of the first key of a map; beyond the end if it is not a map."""
    return _FIRST_KEY_AT.get(start[0], 1) if start and _is_map(start) else len(start)


def _text_at(start: bytes, at: int) -> tuple[int, int]:
    """Return the length and the start of a text; (0, 0) if there is none."""
    code = start[at] if at < len(start) else 0
    if 0xA0 <= code <= 0xBF:
        return code - 0xA0, at + 1
    width = _TEXT_WIDTHS.get(code, 0)
    return (int.from_bytes(start[at + 1 : at + 1 + width], "big"), at + 1 + width) if width else (0, 0)


def peek(path: Path) -> Label:
    """Return step, epoch and metrics from the single numbers next to the model."""
    return label_of(read(path).facts)


def read(path: Path) -> Payload:
    """Read a checkpoint; its arrays are read-only, bfloat16 with the dtype of ml_dtypes."""
    try:
        import msgpack
    except ImportError:
        raise RegimeError(f"{path}: cannot be read without msgpack; {_INSTALL}") from None

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
        raise NotACheckpoint("it holds no tree of arrays")
    return tree_payload(tree)


def _array(shape: Any, dtype: Any, content: Any) -> Array:
    """Return an array from the form in which flax writes it."""
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype):
        raise ValueError(f"an array of dtype {dtype!r:.50}")
    found = dtype_named(dtype)
    if any(type(length) is not int or length < 0 for length in shape) or not isinstance(content, bytes):
        raise ValueError(f"an array of shape {shape!r:.50}")
    if math.prod(shape) * found.itemsize != len(content):
        raise ValueError(f"{len(content)} bytes for an array {dtype}{shape!r:.50}")
    return np.frombuffer(content, found).reshape(shape)


def _joined(tree: Any) -> Any:
    """Return a tree in which large arrays, which were saved in parts, are whole."""
    if isinstance(tree, list):
        return [_joined(part) for part in tree]
    if not isinstance(tree, dict):
        return tree
    if _PARTS not in tree:
        return {key: _joined(part) for key, part in tree.items()}
    shape = [tree["shape"][str(axis)] for axis in range(len(tree["shape"]))]
    parts = [tree["chunks"][str(index)] for index in range(len(tree["chunks"]))]
    if len({part.dtype for part in parts}) != 1 or sum(part.size for part in parts) != math.prod(shape):
        raise ValueError(f"the parts of an array of shape {shape!r:.50} do not add up to it")
    whole = np.concatenate(parts).reshape(shape)
    whole.flags.writeable = False
    return whole
