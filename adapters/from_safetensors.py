"""Reads ``.safetensors`` checkpoints. Needs no framework."""

import mmap
from pathlib import Path
from typing import Any

from regime_proto.adapters.mapped import dtype_named, map_file, view
from regime_proto.checkpoints.deferred import deferred, loaded
from regime_proto.checkpoints.opening import open_file, parse_json
from regime_proto.checkpoints.payload import TOP, Incomplete, Label, Payload, label_of, parsed
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

SUFFIXES = (".safetensors",)

_MAX_HEADER = 100 * 2**20
_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64",
}  # fmt: skip


class _CutOff(ValueError):
    """The end of a file is missing."""


def sniff(start: bytes) -> bool:
    """Whether a file begins with a plausible header length, followed by a JSON object."""
    return start[8:10] == b'{"' and 2 <= int.from_bytes(start[:8], "little") <= _MAX_HEADER


def recognise(path: Path) -> str | None:
    """Recognise a file by the length of its header, followed by a JSON object."""
    if not path.is_file():
        return None
    with open_file(path) as file:
        start = file.read(9)
    if len(start) < 9:
        return "an incomplete safetensors file"
    sound = start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _MAX_HEADER
    return "a safetensors header" if sound else None


def peek(path: Path) -> Label:
    """Return step, epoch and metrics from the header's metadata."""
    try:
        file = map_file(path)
        header, begin = _header(file, path)
        _refuse_cut_off(file, header, begin)
        return label_of(parsed(header.get("__metadata__", None) or {}))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path, error) from None


def read(path: Path) -> Payload:
    """Read a checkpoint; its tensors are read-only arrays that view the file, bfloat16 with a dtype of ml_dtypes."""
    payload = read_lazily(path)
    return Payload({TOP: {name: loaded(tensor) for name, tensor in payload.groups[TOP].items()}}, payload.facts)


def read_lazily(path: Path) -> Payload:
    """Read a checkpoint as `read` does, but copy tensors that cannot view the file only when they are used."""
    from safetensors import SafetensorError, safe_open

    try:
        file = map_file(path)
        header, begin = _header(file, path)
        _refuse_cut_off(file, header, begin)
        # Checks the whole header: no gaps, no overlaps, nothing after the last tensor.
        with safe_open(path, framework="np"):
            pass
        facts = parsed(header.pop("__metadata__", None) or {})
        tensors = {name: _tensor(file, entry, begin) for name, entry in header.items()}
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path, error) from None
    return Payload({TOP: tensors}, facts)


def _header(file: mmap.mmap, where: Path) -> tuple[dict[str, Any], int]:
    """Return the header, and the offset of the first number."""
    begin = 8 + min(int.from_bytes(file[:8], "little"), _MAX_HEADER)
    if begin > len(file):
        raise _CutOff("its header is cut off")
    header: dict[str, Any] = parse_json(file[8:begin], where)
    return header, begin


def _tensor(file: mmap.mmap, entry: dict[str, Any], begin: int) -> Array:
    """Return the array that an entry of the header describes."""
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"dtype {entry['dtype']}; expected one of {', '.join(_DTYPES)}")
    dtype = dtype_named(_DTYPES[entry["dtype"]])
    first, past = entry["data_offsets"]
    array = view(file, dtype, tuple(entry["shape"]), within=(begin + first, begin + past))
    # The format aligns the first tensor only.
    return array if array.flags.aligned else deferred(array.shape, dtype, array.copy)


def _refuse_cut_off(file: mmap.mmap, header: dict[str, Any], begin: int) -> None:
    past = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    if begin + past > len(file):
        raise _CutOff(f"{len(file)} of {begin + past} bytes")


def _damaged(path: Path, error: object) -> RegimeError:
    """Return the error for a file; a file without its end may still be being written."""
    kind = Incomplete if isinstance(error, _CutOff) or path.stat().st_size == 0 else RegimeError
    return kind(f"{path}: damaged or incomplete ({error}); save it again or remove it")
