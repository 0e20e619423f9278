"""Reads ``.safetensors`` checkpoints. Needs no framework."""

import json
from pathlib import Path

from regime_proto.adapters.names import unwrap
from regime_proto.adapters.payload import label_of, parsed
from regime_proto.schema.errors import RegimeError

from regime_proto.ordering import Label
from regime_proto.source import State

SUFFIXES = (".safetensors",)

_MAX_HEADER = 100 * 2**20


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
    """Read a checkpoint; bfloat16 comes as ml_dtypes' type."""
    import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, which safetensors needs)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            label, metrics = label_of(parsed(file.metadata() or {}))
    except (SafetensorError, OSError) as error:
        raise RegimeError(f"{path}: damaged or incomplete ({error}); save it again or remove it") from None
    epoch = float("nan") if label.epoch is None else label.epoch
    return State(unwrap(tensors, str(path)), epoch, metrics)


def _metadata(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, _MAX_HEADER)))
        return parsed(header.get("__metadata__", {}))
    except (OSError, ValueError, AttributeError) as error:
        raise RegimeError(f"{path}: damaged or incomplete ({error}); save it again or remove it") from None
