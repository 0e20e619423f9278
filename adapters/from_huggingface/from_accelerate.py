"""Reads the folders of accelerate's `save_state`: one or several models, each in a file or in shards of FSDP."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from regime_proto.adapters import from_folder, from_safetensors
from regime_proto.adapters.from_torch import adapter as from_torch
from regime_proto.adapters.from_torch import from_dcp
from regime_proto.checkpoints.payload import Incomplete, Label, Payload

SUFFIXES: tuple[str, ...] = ()
REFINES = ("folder",)

# File that accelerate writes last. It is never opened, since it is a pickle.
_RANDOM_STATES = "random_states_*.pkl"
_MODEL = re.compile(r"(?:model|pytorch_model|pytorch_model_fsdp)(?:_(\d+))?")
_FILES = {".safetensors": from_safetensors, ".bin": from_torch}


def recognise(path: Path) -> str | None:
    """Recognise a folder by random states, or by shards of FSDP, next to weights."""
    if not path.is_dir() or not _models(path):
        return None
    if next(path.glob(_RANDOM_STATES), None) is not None:
        return "random_states_*.pkl in each folder, as accelerate's save_state writes"
    shards = next(path.glob("pytorch_model_fsdp*"), None)
    return None if shards is None else f"{shards.name} in each folder, as accelerate saves a model under FSDP"


def peek(path: Path) -> Label:
    """Return step, epoch and metrics from the weights, once all files exist."""
    labels: list[Label] = [reader.peek(file) for file, reader in _found(path).values()]
    return labels[0]


def read(path: Path) -> Payload:
    """Read all models of a folder, named `model`, `model_1` …, or like their folders."""
    return _together({name: reader.read(file) for name, (file, reader) in _found(path).items()})


def read_lazily(path: Path) -> Payload:
    """Read all models as `read` does, without holding the weights in memory."""
    return _together({name: reader.read_lazily(file) for name, (file, reader) in _found(path).items()})


def _together(payloads: Mapping[str, Payload]) -> Payload:
    groups = {
        ".".join(filter(None, (name, _without_model(key)))): tensors
        for name, payload in payloads.items()
        for key, tensors in payload.groups.items()
    }
    return Payload(groups, next(iter(payloads.values())).facts)


def _without_model(key: str) -> str:
    # Shards of FSDP hold the model under this key again.
    return f"{key}.".removeprefix("model.").rstrip(".")


def _found(path: Path) -> dict[str, tuple[Path, ModuleType]]:
    models = _models(path)
    if not models:
        raise Incomplete(f"{path}: damaged or incomplete (it holds no weights); save it again or remove it")
    return models


def _models(path: Path) -> dict[str, tuple[Path, ModuleType]]:
    """Return the path and the reader of each model in a folder."""
    models: dict[str, tuple[Path, ModuleType]] = {}
    folders: dict[str, tuple[Path, ModuleType]] = {}
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name):
        match = _MODEL.fullmatch(entry.stem if entry.suffix in _FILES else entry.name)
        if entry.is_file() and match and entry.suffix in _FILES:
            models[_name(match[1])] = entry, _FILES[entry.suffix]
        elif entry.is_dir() and match and from_dcp.recognise(entry) is not None:
            models[_name(match[1])] = entry, from_dcp
        elif entry.is_dir() and from_folder.recognise(entry) is not None:
            # A hook of the user has saved each model in its own folder.
            folders[entry.name] = entry, from_folder
    return dict(sorted(models.items() or folders.items()))


def _name(number: str | None) -> str:
    return "model" if number in (None, "0") else f"model_{number}"
