"""Reads folders that hold one set of weights, in one file or in shards: ``step1000/model.safetensors``."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from regime_proto.adapters import from_safetensors
from regime_proto.adapters.from_torch import adapter as from_torch
from regime_proto.checkpoints.locations import first_bytes
from regime_proto.checkpoints.opening import read_json
from regime_proto.checkpoints.payload import TOP, Incomplete, Inconsistent, Label, Payload
from regime_proto.plugins.protocols import FIRST_BYTES
from regime_proto.schema.errors import RegimeError

SUFFIXES: tuple[str, ...] = ()

_INDEX = (".safetensors.index.json", ".bin.index.json")
# If a folder holds several of these files, the first in this order is the model.
_USUAL = ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin", "model.bin", "model.pt")
# Largest number of files whose content is examined.
_FEW = 50
_OTHER = (
    "optim", "sched", "rng", "random", "scaler", "training_args", "adapter_", "sampler", "custom_checkpoint",
    # DeepSpeed's parts of tensors.
    "zero_pp_rank",
)  # fmt: skip


def recognise(path: Path) -> str | None:
    """Recognise a folder by an index of shards, or by a file of weights."""
    found = index_in(path) or weights_in(path)
    return None if found is None else f"a folder with {found.name}"


def peek(path: Path) -> Label:
    """Return step, epoch and metrics from the weights, once all files exist."""
    labels: list[Label] = [_reader(file).peek(file) for file in files_in(path)]
    return labels[0]


def read(path: Path) -> Payload:
    """Read the weights of a folder, from one file or from all shards."""
    return _together(path, {file: _reader(file).read(file) for file in files_in(path)})


def read_lazily(path: Path) -> Payload:
    """Read the weights as `read` does, without holding them in memory."""
    return _together(path, {file: _reader(file).read_lazily(file) for file in files_in(path)})


def _together(path: Path, payloads: Mapping[Path, Payload]) -> Payload:
    first = next(iter(payloads.values()))
    if len(payloads) == 1:
        return first
    tensors: dict[str, Any] = {}
    for file, payload in payloads.items():
        held = payload.groups.get(TOP, {})
        twice = next((name for name in held if name in tensors), None)
        if twice is not None:
            raise Inconsistent(
                f"{file}: tensor {twice!r} is also in another shard, so the index belongs to a different save; save "
                "it again or remove it"
            )
        tensors |= held
    expected = weight_map(path)
    missing = next((name for name in expected if name not in tensors), None)
    if missing is not None:
        raise Inconsistent(
            f"{path / expected[missing]}: tensor {missing!r} is missing, although the index lists it; shards of two "
            "saves may be mixed; save it again or remove it"
        )
    return Payload({TOP: tensors}, first.facts)


def shards(path: Path) -> dict[str, list[str]]:
    """Return the tensors that the index assigns to each shard; empty for a single file."""
    held: dict[str, list[str]] = {}
    for name, file in weight_map(path).items():
        held.setdefault(file, []).append(name)
    return held


def files_in(folder: Path) -> list[Path]:
    """Return the files that hold the weights of a folder.

    Raises
    ------
    Incomplete
        There are no weights, or shards are missing.
    """
    if index_in(folder) is None:
        single = weights_in(folder)
        if single is None:
            raise Incomplete(f"{folder}: damaged or incomplete (it holds no weights); save it again or remove it")
        return [single]
    files = [folder / name for name in dict.fromkeys(weight_map(folder).values())]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise Incomplete(
            f"{folder}: damaged or incomplete ({len(missing)} of {len(files)} shards missing, the first is "
            f"{missing[0]}); save it again or remove it"
        )
    return files


def index_in(folder: Path) -> Path | None:
    """Return the index of shards in a folder; an index of safetensors takes precedence."""
    names = [path for ending in _INDEX for path in sorted(folder.glob(f"*{ending}"))]
    return next((path for path in names if not path.name.startswith(_OTHER)), None)


def weight_map(folder: Path) -> dict[str, str]:
    """Return the file name of each tensor that the index of a folder lists."""
    index = index_in(folder)
    if index is None:
        return {}
    try:
        entries = {str(name): str(file) for name, file in read_json(index)["weight_map"].items()}
        if not entries:
            raise ValueError("it names no tensor")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Incomplete(f"{index}: damaged or incomplete ({error!r}); save it again or remove it") from None
    elsewhere = next((file for file in entries.values() if Path(file).name != file), None)
    if elsewhere is not None:
        raise RegimeError(f"{index}: names {elsewhere!r}, which is outside the folder; refused, do not trust this file")
    return entries


def weights_in(folder: Path) -> Path | None:
    """Return the single file of weights in a folder; None if there is none, or several are possible."""
    usual = next((folder / name for name in _USUAL if (folder / name).is_file()), None)
    # Next to shards of torch, a single file holds something else.
    if usual is not None or next(folder.glob("*.distcp"), None) is not None:
        return usual
    suffixes = (".safetensors", *from_torch.SUFFIXES)
    paths = [path for path in folder.glob("*") if not _is_other(path.name)]
    candidates = [path for path in paths if path.suffix in suffixes and path.is_file()]
    if not candidates and len(paths) <= _FEW:
        candidates = [path for path in paths if path.is_file() and _by_content(path) is not None]
    return candidates[0] if len(candidates) == 1 else None


def _is_other(name: str) -> bool:
    """Whether the name of a file shows that it holds something else, such as the state of an optimizer."""
    return any(word in name.lower() for word in _OTHER)


def _reader(file: Path) -> ModuleType:
    if file.suffix == ".safetensors":
        return from_safetensors
    return from_torch if file.suffix in from_torch.SUFFIXES else _by_content(file) or from_torch


def _by_content(file: Path) -> ModuleType | None:
    start = first_bytes(file, FIRST_BYTES)
    return next((reader for reader in (from_safetensors, from_torch) if reader.sniff(start)), None)
