"""Reads ``.safetensors`` checkpoints. Needs no framework."""

import json
import mmap
from pathlib import Path
from typing import Any

from regime_proto.adapters.mapped import dtype_named, map_file, view
from regime_proto.adapters.names import unwrap
from regime_proto.adapters.payload import label_of, parsed
from regime_proto.schema.errors import RegimeError

from regime_proto.ordering import Label
from regime_proto.source import Array, State

SUFFIXES = (".safetensors",)

_MAX_HEADER = 100 * 2**20
_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64",
}  # fmt: skip


def recognise(path: Path) -> bool:
    """Whether the file begins like a safetensors file: a header length, then a JSON object."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) < 9 or (start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _MAX_HEADER)


def peek(path: Path) -> Label:
    """Return step, epoch and metrics from the header's metadata."""
    return label_of(_metadata(path))[0]


def read(path: Path) -> State:
    """Read a checkpoint; its tensors are read-only arrays that view the file, in ml_dtypes' type for bfloat16."""
    from safetensors import SafetensorError, safe_open

    try:
        # It checks the header as a whole: no gaps, no overlaps, nothing behind the last tensor.
        with safe_open(path, framework="np"):
            pass
        file = map_file(path)
        header, begin = _header(file)
        label, metrics = label_of(parsed(header.pop("__metadata__", None) or {}))
        tensors = {name: _tensor(file, entry, begin) for name, entry in header.items()}
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RegimeError(f"{path}: damaged or incomplete ({error}); save it again or remove it") from None
    epoch = float("nan") if label.epoch is None else label.epoch
    return State(unwrap(tensors, str(path)), epoch, metrics)


def _metadata(path: Path) -> dict[str, object]:
    try:
        header, _ = _header(map_file(path))
        return parsed(header.get("__metadata__", None) or {})
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise RegimeError(f"{path}: damaged or incomplete ({error}); save it again or remove it") from None


def _header(file: mmap.mmap) -> tuple[dict[str, Any], int]:
    """Return the header, and where the numbers begin."""
    begin = 8 + min(int.from_bytes(file[:8], "little"), _MAX_HEADER)
    header: dict[str, Any] = json.loads(file[8:begin])
    return header, begin


def _tensor(file: mmap.mmap, entry: dict[str, Any], begin: int) -> Array:
    """Return the array that an entry of the header describes."""
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"dtype {entry['dtype']}; expected one of {', '.join(_DTYPES)}")
    dtype = dtype_named(_DTYPES[entry["dtype"]])
    first, past = entry["data_offsets"]
    array = view(file, dtype, tuple(entry["shape"]), within=(begin + first, begin + past))
    # The format aligns the first tensor only.
    return array if array.flags.aligned else array.copy()
