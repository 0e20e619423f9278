"""Reads the zip files of ``torch.save`` without torch, if they hold only tensors and plain data.

This takes a tenth of the milliseconds that torch needs. Anything unusual raises `NotPlain`, and the caller reads the
file with torch. No name in a pickle is ever looked up: a fixed table maps names to replacements.
"""

import io
import mmap
import pickle
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime_proto.adapters.from_torch.pickle_scan import Scan, Unsafe
from regime_proto.adapters.mapped import dtype_named, map_file, view
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array


class NotPlain(Exception):
    """The file holds more than tensors and plain data, or is not an intact zip file of torch."""


def load(path: Path) -> Any:
    """Return the content of a torch file; its tensors become read-only arrays that view the file.

    Raises
    ------
    NotPlain
        Only torch can read the file, or report what is wrong with it.
    """
    try:
        file = map_file(path)
    except (OSError, ValueError) as error:
        raise NotPlain(str(error) or type(error).__name__) from error
    return unpack(file)


def unpack(file: mmap.mmap | bytes) -> Any:
    """Return the content of a torch file in memory; its tensors become read-only arrays that view it.

    Raises
    ------
    NotPlain
        See `load`.
    """
    try:
        records = _records(file)
        prefix = next(iter(records)).partition("/")[0] + "/"
        if not all(name.startswith(prefix) for name in records) or f"{prefix}constants.pkl" in records:
            raise NotPlain("not an archive of torch.save")
        order = records.get(f"{prefix}byteorder")
        if sys.byteorder != "little" or (order is not None and file[slice(*order)] != b"little"):
            raise NotPlain("not little-endian")
        start, stop = records[f"{prefix}data.pkl"]
        if stop - start > _MAX_PICKLE:
            raise NotPlain("its pickle is large")
        content = file[start:stop]
        _check(content, len(file))
        return _Unpickler(content, file, records, f"{prefix}data/").load()
    except NotPlain:
        raise
    except Exception as error:
        raise NotPlain(str(error) or type(error).__name__) from error


# The archive, by APPNOTE.TXT of PKWARE.
_END = struct.Struct("<4s4H2LH")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_HEADER = struct.Struct("<4s5H3L2H")
_USUAL_FLAGS = 0x0808  # names in UTF-8, sizes in a descriptor after the data
_ZIP64 = 0xFFFFFFFF


def _directory(file: mmap.mmap | bytes) -> tuple[int, int, int]:
    """Return the number of records in the directory of an archive, its first byte and its length."""
    end = len(file) - _END.size
    signature, disk, first_disk, _, count, size, start, comment = _END.unpack_from(file, end)
    # Files of 4 GiB and more (zip64) are left to torch, since they are read rarely.
    if signature != b"PK\5\6" or disk or first_disk or comment or start == _ZIP64 or start + size > end:
        raise NotPlain("not a plain zip file")
    return count, start, size


def _records(file: mmap.mmap | bytes) -> dict[str, tuple[int, int]]:
    """Return the first byte and the byte after the last of every record; all must be stored uncompressed."""
    count, start, size = _directory(file)
    directory, at = file[start : start + size], 0
    records: dict[str, tuple[int, int]] = {}
    for _ in range(count):
        signature, _, _, flags, method, _, _, _, packed, length, *lengths, _, _, _, header = _ENTRY.unpack_from(
            directory, at
        )
        at += _ENTRY.size
        name = directory[at : at + lengths[0]].decode()
        at += sum(lengths)
        if signature != b"PK\1\2" or flags & ~_USUAL_FLAGS or method or packed != length or _ZIP64 in (length, header):
            raise NotPlain(f"record {name!r} is compressed or unusual")
        signature, _, _, method, *_, name_length, extra_length = _HEADER.unpack_from(file, header)
        first = header + _HEADER.size + name_length + extra_length
        if signature != b"PK\3\4" or method or first + length > start or name in records:
            raise NotPlain(f"record {name!r} is damaged, or its name is not unique")
        records[name] = first, first + length
    if at != size:
        raise NotPlain("a directory of a different size from the one stated")
    return records


# The pickle. A regular expression checks it first, because C's unpickler obeys any opcode: it allocates memory for
# any index of the memo, and looks up registered extensions. These are the opcodes that protocol 2, which torch writes,
# needs for dicts, lists, tuples, numbers, strings, globals and calls; strings are skipped by their length.
_RUN = re.compile(
    rb"(?:[()\]}aestubNQR\x85-\x89]|[Kqh].|M..|J....|G.{8}|[rj]..[\x00-\x0f]\x00"
    rb"|\x8a(?:\x00|\x01.|\x02..|\x03...|\x04....|\x05.{5}|\x06.{6}|\x07.{7}|\x08.{8})|c[\w.]+\n[\w.]+\n)*+(?:X(....)|\.\Z)",
    re.DOTALL,
)
_MAX_PICKLE = 2**22

# Checkpoints of a run differ only in numbers. Pickles found to be sound, by length, and the bytes that must match.
_SOUND: dict[int, tuple[NDArray[np.uint8], bytes]] = {}
_MAX_SOUND, _MAX_SOUND_BYTES = 16, 2**20


def _check(content: bytes, size: int) -> None:
    """Raise `NotPlain` unless a pickle in a file of `size` bytes is plain, and nested no deeper than is plausible."""
    found = np.frombuffer(content, np.uint8)
    known = _SOUND.get(len(content))
    if known is not None and (found & known[0]).tobytes() == known[1]:
        return
    _check_opcodes(content)
    scan = Scan(content, size)
    try:
        scan.run()
    except (Unsafe, RegimeError) as error:
        raise NotPlain(str(error)) from None
    if len(content) <= _MAX_SOUND_BYTES:
        counts = np.full(len(content), 0xFF, np.uint8)
        for first, past in scan.numbers:
            counts[first:past] = 0
        _SOUND[len(content)] = counts, (found & counts).tobytes()
        for other in list(_SOUND)[:-_MAX_SOUND]:
            _SOUND.pop(other, None)


def _check_opcodes(content: bytes) -> None:
    if content[:2] != b"\x80\x02":
        raise NotPlain("its pickle is unusual")
    position = 2
    while (run := _RUN.match(content, position)) is not None:
        length = run[1]
        if length is None:
            return
        position = run.end() + int.from_bytes(length, "little")
    raise NotPlain("it holds more than tensors and plain data")


class _Inert:
    """An object that a pickle cannot change: it has no attributes to set, and no parts to extract."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise NotPlain("it sets the state of an object without state")


class _Function(_Inert):
    """Replaces a callable of torch."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> object:
        return self._function(*arguments)


class _Storage(_Inert):
    """The numbers that tensors view: a part of the file, without a dtype if torch stores it as bytes."""

    __slots__ = ("dtype", "file", "within")

    def __init__(self, file: mmap.mmap | bytes, dtype: np.dtype[Any] | None, within: tuple[int, int]) -> None:
        self.file, self.dtype, self.within = file, dtype, within


class _Dict(dict[Any, Any]):
    """Replaces an OrderedDict; ignores attributes such as the ``_metadata`` of a state dict."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    """Knows only the names in `_GLOBALS`; their replacements are strings or a `_Function`."""

    def __init__(
        self, content: bytes, file: mmap.mmap | bytes, records: dict[str, tuple[int, int]], prefix: str
    ) -> None:
        super().__init__(io.BytesIO(content))
        self._file, self._numbers, self._prefix = file, records, prefix

    def find_class(self, module: str, name: str) -> Any:
        known = _GLOBALS.get((module, name))
        if known is None:
            raise NotPlain(f"it names {module}.{name}")
        return known if isinstance(known, str) else _Function(known)

    def persistent_load(self, pid: Any) -> _Storage:
        kind, name, key, _, count = pid
        dtype = None if name == _BYTES else _dtype(name)
        start, stop = self._numbers[self._prefix + key]
        size = count * (1 if dtype is None else dtype.itemsize)
        if kind != "storage" or type(count) is not int or not 0 <= size <= stop - start:
            raise NotPlain(f"storage {key} is longer than its record")
        return _Storage(self._file, dtype, (start, start + size))


def _dtype(name: str) -> np.dtype[Any]:
    if name not in DTYPES:
        raise NotPlain(f"dtype {name}")
    return dtype_named(name)


def _tensor(
    storage: object, offset: int, size: Any, stride: Any, _grad: object = None, _hooks: object = None,
    metadata: object = None, *, dtype: np.dtype[Any] | None = None,
) -> Array:  # fmt: skip
    # Metadata means that the numbers must be negated or conjugated.
    if type(storage) is not _Storage or type(size) is not tuple or type(stride) is not tuple or metadata:
        raise NotPlain("an unusual tensor")
    dtype = dtype if storage.dtype is None else storage.dtype
    if dtype is None:
        raise NotPlain("a tensor of bytes")
    array = view(storage.file, dtype, size, within=storage.within, offset=offset, strides=stride)
    if not array.flags.aligned:
        raise NotPlain("a tensor that is not aligned")
    return array


def _tensor_of_bytes(
    storage: object, offset: int, size: Any, stride: Any, grad: object, hooks: object, dtype: str,
    metadata: object = None,
) -> Array:  # fmt: skip
    return _tensor(storage, offset, size, stride, grad, hooks, metadata, dtype=_dtype(dtype))


def _parameter(tensor: object, *_: object) -> Array:
    if not isinstance(tensor, np.ndarray):
        raise NotPlain("a parameter without numbers")
    return tensor


def _size(sizes: object) -> object:
    return sizes


def _ordered_dict() -> _Dict:
    return _Dict()


_BYTES = "bytes"
DTYPES = (
    "bfloat16", "bool", "complex64", "complex128", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2",
    "float8_e5m2fnuz", "float8_e8m0fnu", "float16", "float32", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64",
)  # fmt: skip
_STORAGES = {
    "BFloat16": "bfloat16", "Bool": "bool", "Byte": "uint8", "Char": "int8", "ComplexDouble": "complex128",
    "ComplexFloat": "complex64", "Double": "float64", "Float": "float32", "Half": "float16", "Int": "int32",
    "Long": "int64", "Short": "int16",
}  # fmt: skip
_GLOBALS: dict[tuple[str, str], str | Callable[..., object]] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_bytes,
    ("torch.storage", "UntypedStorage"): _BYTES,
    **{("torch", f"{name}Storage"): dtype for name, dtype in _STORAGES.items()},
    **{("torch", dtype): dtype for dtype in DTYPES},
}
