"""Reads PyTorch checkpoints (``.pt .pth .ckpt .bin``) and exports ``torch.nn.Module``."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from regime_proto.adapters import torch_zip
from regime_proto.adapters.names import unwrap
from regime_proto.adapters.payload import NotDense, label_of
from regime_proto.schema.errors import RegimeError

from regime_proto.engine.graph.program import Program
from regime_proto.ordering import Label, NotACheckpoint
from regime_proto.probe import Probe
from regime_proto.source import Array, State

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")

_INSTALL = 'pip install "regime-proto[torch]"'

# In the order of preference; weights averaged over time (EMA) are another sequence.
_PAYLOAD_KEYS = (
    "model_state_dict", "state_dict", "model", "model_state", "net", "network", "module", "weights", "params",
)  # fmt: skip
_NOT_WEIGHTS = ("ema", "optim", "sched", "scaler", "loop", "callback", "rng")


def recognise(path: Path) -> bool:
    """Whether the file begins like one of torch's: a zip archive or a pickle; empty ones count as damaged."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(4)
    return start in (b"", b"PK\x03\x04") or start[:1] == b"\x80"


def peek(path: Path) -> Label:
    """Return the step, epoch and metrics in the payload."""
    payload = _load(path)
    _weights(payload, path)
    return label_of(payload)[0]


def read(path: Path) -> State:
    """Read a checkpoint; the arrays are mapped from the file where its format allows it."""
    payload = _load(path)
    weights = _weights(payload, path)
    label, metrics = label_of(payload)
    tensors = unwrap({name: _array(name, tensor, path) for name, tensor in weights.items()}, str(path))
    return State(tensors, float("nan") if label.epoch is None else label.epoch, metrics)


def accepts(model: object) -> bool:
    """Whether `model` is a torch module."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def export(model: object, probe: Probe) -> Program:
    """Export a torch module; see `torch_export.export`."""
    from regime_proto.adapters import torch_export

    return torch_export.export(model, probe)


def _load(path: Path) -> Mapping[str, Any]:
    """Return the payload of a checkpoint; its tensors are arrays."""
    try:
        payload = torch_zip.load(path)
    except torch_zip.NotPlain as reason:
        payload = _load_with_torch(path, str(reason))
    if not isinstance(payload, Mapping):
        kind = "tensor" if isinstance(payload, np.ndarray) else type(payload).__name__
        raise RegimeError(f"{path}: holds a {kind}, not a dict of tensors; save model.state_dict() instead")
    return payload


def _load_with_torch(path: Path, reason: str) -> Any:
    try:
        from regime_proto.adapters import torch_pickle
    except ImportError:
        shown = " ".join(reason.split())[:200]
        raise RegimeError(f"{path}: cannot be read without PyTorch ({shown}): {_INSTALL}") from None
    return torch_pickle.load(path)


def _weights(payload: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the tensors of the model in a payload.

    Raises
    ------
    NotACheckpoint
        The payload is an optimizer's, or holds no tensors.
    RegimeError
        More than one entry could be meant.
    """
    if "param_groups" in payload and "state" in payload:
        raise NotACheckpoint("an optimizer state")
    own = _tensors(payload)
    if own:
        return own
    nested = {
        str(key): tensors
        for key, value in payload.items()
        if isinstance(value, Mapping)
        and not any(word in str(key).lower() for word in _NOT_WEIGHTS)
        and (tensors := _tensors(value))
    }
    for key in _PAYLOAD_KEYS:
        if key in nested:
            return nested[key]
    if len(nested) > 1:
        raise RegimeError(f"{path}: weights under several keys ({', '.join(nested)}); expected one of them")
    if not nested:
        raise NotACheckpoint(f"no dict of tensors in it (keys: {', '.join(map(str, list(payload)[:5]))})")
    return next(iter(nested.values()))


def _tensors(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in payload.items() if isinstance(value, np.ndarray | NotDense)}


def _array(name: str, tensor: Array | NotDense, path: Path) -> Array:
    if isinstance(tensor, NotDense):
        raise RegimeError(f"{path}: tensor {name!r} is {tensor.kind}; expected dense numbers")
    return tensor
