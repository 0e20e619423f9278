"""Reads PyTorch checkpoints (``.pt .pth .ckpt .bin``) and exports ``torch.nn.Module`` and ``.pt2`` files."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from regime_proto.adapters.advice.torch_files import is_script, of_module, of_script
from regime_proto.adapters.first_bytes import ZIP, first_entry
from regime_proto.adapters.from_torch import zip_file
from regime_proto.adapters.from_torch.stubs import Stub, is_stub
from regime_proto.adapters.needed import needed
from regime_proto.checkpoints.limits import ALWAYS_ALLOWED_BYTES, hold_inflation
from regime_proto.checkpoints.opening import open_file
from regime_proto.checkpoints.payload import (
    DEEPEST,
    Incomplete,
    Label,
    NotACheckpoint,
    Payload,
    is_other,
    label_of,
    payload_of,
)
from regime_proto.engine.live_model import Engine, LiveModel
from regime_proto.program.probe import Probe
from regime_proto.program.program import Program
from regime_proto.schema.errors import RegimeError

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
MODELS = "a torch.nn.Module"

_EXPORTED = ".pt2"
_DEEPEST = 3
# Keys of a dict that may hold the model, whatever its class.
_MODULES = ("model", "net", "network", "module")
INSTALL = 'pip install "regime-proto[torch]"'
# Name of the first entry of an archive; and the magic number of the older format, which is a pickle of its own.
_PICKLE, _MAGIC, _MAGIC_WITHIN = "/data.pkl", b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", 32
# The end record of a zip file; a comment of up to 65,535 bytes may follow.
_END, _END_WITHIN = b"PK\5\6", 65_557


def sniff(start: bytes) -> bool:
    """Whether a file is a zip archive whose first entry is torch's pickle, or begins with torch's magic number."""
    return (first_entry(start) or "").endswith(_PICKLE) or _MAGIC in start[:_MAGIC_WITHIN]


def recognise(path: Path) -> str | None:
    """Recognise a zip archive or a pickle by its first bytes; an empty file counts as a damaged checkpoint."""
    if not path.is_file():
        return None
    with open_file(path) as file:
        start = file.read(10)
    if start == b"":
        return "an empty file"
    if start.startswith(ZIP):
        return "a zip archive, as torch.save writes"
    # These bytes may also be the length of a safetensors header.
    is_pickle = start[:1] == b"\x80" and start[8:] != b'{"'
    return "a pickle, as old versions of torch.save wrote" if is_pickle else None


def peek(path: Path) -> Label:
    """Return step, epoch and metrics from the payload."""
    return label_of(read(path).facts)


def read(path: Path) -> Payload:
    """Read a checkpoint; its arrays are mapped from the file if the format allows it."""
    content, is_plain = _loaded(path)
    if is_plain:
        return payload_of(content)
    held = dict(_objects(content)) or {key: content[key] for key in _MODULES if is_stub(content.get(key))}
    instead = _instead(path, held) if held else ""
    try:
        return replace(payload_of(content), instead=instead)
    except NotACheckpoint as error:
        raise NotACheckpoint(instead or str(error)) from None


def read_lazily(path: Path) -> Payload:
    """Read a checkpoint as `read` does, but require a file that can be mapped into memory."""
    require_mapped(path)
    return read(path)


def require_mapped(path: Path) -> None:
    """Raise an error for a file that can only be read whole.

    Raises
    ------
    RegimeError
        The file has the format from before torch 1.6, a stream of pickles.
    """
    with open_file(path) as file:
        is_stream = not file.read(len(ZIP)).startswith(ZIP)
    if is_stream:
        raise RegimeError(
            f"{path}: has the format from before torch 1.6, which can only be read whole; load it and torch.save it "
            "again, or pass --parts off"
        )


def _objects(content: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Stub]]:
    """Yield the pickled modules in nested dicts, with their keys."""
    for key, value in content.items():
        if is_stub(value) and value.is_module:
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping) and depth < _DEEPEST:
            yield from _objects(value, f"{prefix}{key}.", depth + 1)


def _instead(path: Path, held: Mapping[str, Stub]) -> str:
    """Return advice for a file that holds modules, or objects under the keys of models."""
    models = [key for key in held if not is_other(key)]
    first = next(iter(models or held))
    return of_module(path, type(held[first]).__name__, weights=None if models else first)


def accepts(model: object) -> bool:
    """Whether `model` is a torch module, or the path of a ``.pt2`` file."""
    if isinstance(model, Path):
        return model.suffix.lower() == _EXPORTED
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def export(model: object, probe: Probe) -> Program:
    """Export a torch module, or convert a program of `torch.export`; see `exporter`."""
    try:
        from regime_proto.adapters.from_torch import exporter
    except ImportError:
        raise RegimeError(f"{model}: a PyTorch model, which needs PyTorch; {INSTALL}") from None
    return exporter.export_file(model, probe) if isinstance(model, Path) else exporter.export(model, probe)


def leads(model: object) -> bool:
    """Whether this process is the first of those that train a model together."""
    return bool(_live().leads(model))


def follow(model: object, probe: Probe | None) -> LiveModel | Engine:
    """Follow a torch module in training; see `follower`."""
    followed: LiveModel | Engine = _live().follow(model, probe)
    return followed


def draw(model: object, loader: object, samples: int, seed: int) -> Probe:
    """Draw a probe from a data loader; see `live.draw_probe`."""
    drawn: Probe = _live().draw(model, loader, samples, seed)
    return drawn


def _live() -> Any:
    with needed("to record a PyTorch model", INSTALL):
        from regime_proto.adapters.from_torch import follower
    return follower


def load(path: Path) -> Mapping[str, Any]:
    """Return the payload of a checkpoint, with tensors as arrays."""
    return _loaded(path)[0]


def _loaded(path: Path) -> tuple[Mapping[str, Any], bool]:
    """Return the payload of a checkpoint, and whether it holds only tensors and plain data."""
    is_plain = True
    try:
        payload = zip_file.load(path)
    except zip_file.NotPlain as reason:
        _refuse_cut_off(path)
        if is_script(path):
            raise RegimeError(of_script(path)) from None
        payload, is_plain = _load_with_torch(path, str(reason)), False
    if isinstance(payload, np.ndarray):
        raise RegimeError(f"{path}: holds a tensor, not a dict of tensors; save model.state_dict() instead")
    if not isinstance(payload, Mapping):
        raise RegimeError(of_module(path, type(payload).__name__))
    # A tensor may view a few numbers any number of times.
    size = _bytes_of(payload)
    if size > ALWAYS_ALLOWED_BYTES:
        hold_inflation(f"{path}: its tensors", size, path.stat().st_size)
    return payload, is_plain


def _bytes_of(content: Mapping[Any, Any], depth: int = 0) -> int:
    """Return the size in bytes of the arrays in nested dicts, once each is a contiguous copy."""
    size = 0
    for value in content.values():
        if isinstance(value, np.ndarray):
            size += value.nbytes
        elif depth < DEEPEST and isinstance(value, Mapping):
            size += _bytes_of(value, depth + 1)
    return size


def _refuse_cut_off(path: Path) -> None:
    with open_file(path) as file:
        start = file.read(4)
        size = file.seek(0, 2)
        file.seek(max(0, size - _END_WITHIN))
        if not start or (start == b"PK\x03\x04" and _END not in file.read()):
            raise Incomplete(f"{path}: damaged or incomplete (its end is missing); save it again or remove it")


def _load_with_torch(path: Path, reason: str) -> Any:
    try:
        from regime_proto.adapters.from_torch import safe_pickle
    except ImportError:
        shown = " ".join(reason.split())[:200]
        raise RegimeError(f"{path}: cannot be read without PyTorch ({shown}); {INSTALL}") from None
    return safe_pickle.load(path)
