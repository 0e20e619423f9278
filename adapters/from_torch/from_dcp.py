"""Reads torch's distributed checkpoints (DCP): folders of ``.metadata`` and ``__0_0.distcp``, as FSDP saves them.

One process is enough, whatever the number of processes that saved them.
"""

import contextlib
import math
import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime_proto.adapters.from_torch import dcp_metadata, zip_file
from regime_proto.adapters.from_torch.dcp_metadata import Entry, Piece
from regime_proto.adapters.mapped import dtype_named, map_file
from regime_proto.checkpoints.deferred import deferred, loaded
from regime_proto.checkpoints.limits import hold_inflation
from regime_proto.checkpoints.opening import read_start
from regime_proto.checkpoints.payload import (
    TOP,
    Incomplete,
    Label,
    NotACheckpoint,
    NotDense,
    Payload,
    label_of,
    numbers_in,
)
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

SUFFIXES: tuple[str, ...] = ()
REFINES = ("folder",)

# Most bytes of a checkpoint belong to its optimizer, which is not needed here.
_NOT_READ = ("optim", "sched", "dataloader")
_OPTIMIZER = "param_groups"
_LARGEST_NUMBER = 2**14
_MEGATRON = b"sharded_backend"
_NAMED_WITHIN = 2**20
# Limit for the cells into which the edges of pieces cut a tensor; pieces on a grid are one cell each.
_MOST_CELLS = 2**22


def recognise(path: Path) -> str | None:
    """Recognise shard files; those of Megatron are excluded."""
    if not path.is_dir() or next(path.glob("*.distcp"), None) is None:
        return None
    description = path / "metadata.json"
    if description.is_file() and _MEGATRON in read_start(description, _NAMED_WITHIN):
        return None
    return ".distcp files in each folder, as torch.distributed.checkpoint saves"


def peek(path: Path) -> Label:
    """Return step, epoch and metrics from the numbers next to the tensors, once all files exist."""
    tensors, numbers = _entries(path)
    return label_of(_facts(numbers, _Files(path, (*tensors, *numbers))))


def read(path: Path) -> Payload:
    """Read the tensors of a folder, except those of the optimizer, each assembled from its pieces."""
    payload = read_lazily(path)
    groups = {
        key: {name: loaded(tensor) for name, tensor in tensors.items()} for key, tensors in payload.groups.items()
    }
    return Payload(groups, payload.facts)


def read_lazily(path: Path) -> Payload:
    """Read a folder as `read` does, but assemble each tensor only when it is used."""
    tensors, numbers = _entries(path)
    files = _Files(path, (*tensors, *numbers))
    groups: dict[str, dict[str, Array | NotDense]] = {}
    for entry in tensors:
        known = entry.dtype in zip_file.DTYPES
        tensor = _deferred(entry, files) if known else NotDense(f"of {entry.dtype}")
        groups.setdefault(".".join(entry.path[:-1]) or TOP, {})[entry.path[-1]] = tensor
    return Payload(groups, _facts(numbers, files))


class _Files:
    """The files of a checkpoint, mapped into memory, and checked to hold all pieces of the entries."""

    def __init__(self, folder: Path, entries: Iterable[Entry]) -> None:
        self.folder = folder
        self._maps: dict[str, mmap.mmap] = {}
        ends: dict[str, int] = {}
        for piece in (piece for entry in entries for piece in entry.pieces):
            ends[piece.file] = max(ends.get(piece.file, 0), piece.start + piece.length)
        self._bytes = self._assembled = 0
        for name, end in ends.items():
            file = folder / name
            size = file.stat().st_size if file.is_file() else 0
            if size < end:
                raise Incomplete(f"{file}: damaged or incomplete ({size} bytes of {end}); save it again or remove it")
            self._bytes += size
            # A mapped file keeps its content, even if its path is replaced before a tensor is used.
            self._maps[name] = map_file(file)

    def hold(self, count: int) -> None:
        """Count the bytes of a tensor towards the limit, since all pieces may be the same part of a file."""
        self._assembled += count
        hold_inflation(self.folder, self._assembled, self._bytes)

    def content(self, piece: Piece) -> Any:
        """Return the saved content of a piece, with tensors as arrays."""
        # A copy, since a tensor in the file may not be aligned.
        content = self._maps[piece.file][piece.start : piece.start + piece.length]
        try:
            return zip_file.unpack(content)
        except zip_file.NotPlain as reason:
            return _with_torch(content, f"{self.folder / piece.file}, byte {piece.start}", str(reason))


def _with_torch(content: bytes, where: str, reason: str) -> Any:
    try:
        from regime_proto.adapters.from_torch import safe_pickle
    except ImportError:
        install = 'pip install "regime-proto[torch]"'
        raise RegimeError(f"{where}: cannot be read without PyTorch ({reason:.100}); {install}") from None
    return safe_pickle.load_part(content, where)


def _entries(path: Path) -> tuple[list[Entry], list[Entry]]:
    """Return the tensors of a checkpoint that may belong to the model, and the numbers next to them."""
    file = path / dcp_metadata.FILE_NAME
    if not file.is_file():
        # torch writes this file last.
        raise Incomplete(f"{path}: damaged or incomplete (no {file.name} in it); save it again or remove it")
    entries = dcp_metadata.entries_of(file)
    optimizers = {
        entry.path[:depth]
        for entry in entries
        for depth, key in enumerate(entry.path)
        if key.partition(".")[0] == _OPTIMIZER
    }
    wanted = [entry for entry in entries if not _is_left_out(entry, optimizers)]
    tensors = [entry for entry in wanted if entry.dtype is not None]
    nested = any(len(entry.path) > 1 for entry in tensors)
    numbers = [entry for entry in wanted if _may_be_number(entry, nested=nested)]
    if not tensors:
        raise NotACheckpoint("only an optimizer state" if optimizers else "it holds no tensors of a model")
    return tensors, numbers


def _is_left_out(entry: Entry, optimizers: set[tuple[str, ...]]) -> bool:
    above = [key.lower() for key in entry.path[:-1]]
    return any(word in key for key in above for word in _NOT_READ) or any(
        entry.path[:depth] in optimizers for depth in range(len(entry.path))
    )


def _may_be_number(entry: Entry, *, nested: bool) -> bool:
    """Whether an entry may be a number such as the step; in a flat dict of tensors, it is a parameter."""
    small = all(piece.length <= _LARGEST_NUMBER for piece in entry.pieces)
    return len(entry.path) == 1 and small and (entry.dtype is None or (nested and not entry.size))


def _facts(numbers: Iterable[Entry], files: _Files) -> dict[str, float]:
    found: dict[str, Any] = {}
    for entry in numbers:
        # Anything that torch does not load safely is not a number.
        with contextlib.suppress(RegimeError):
            value = files.content(entry.pieces[0])
            found[entry.path[0]] = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
    return numbers_in(found)


def _deferred(entry: Entry, files: _Files) -> Array:
    """Return a tensor that is assembled when it is used."""
    name, dtype = ".".join(entry.path), dtype_named(str(entry.dtype))
    pieces = [piece for piece in entry.pieces if math.prod(piece.sizes)]
    # A malicious file could declare a few bytes to be a tensor that fills the memory.
    if any(math.prod(piece.sizes) * dtype.itemsize > piece.length for piece in pieces):
        raise RegimeError(f"{files.folder}: tensor {name!r} is larger than its pieces; do not trust this file")
    files.hold(math.prod(entry.size) * dtype.itemsize)
    if not _is_covered(entry.size, pieces):
        raise RegimeError(f"{files.folder}: the pieces of tensor {name!r} leave gaps or overlap; save it again")
    return deferred(entry.size, dtype, lambda: _assembled(entry, pieces, dtype, files))


def _assembled(entry: Entry, pieces: Sequence[Piece], dtype: np.dtype[Any], files: _Files) -> Array:
    """Return a tensor assembled from its pieces."""
    name = ".".join(entry.path)
    whole = np.empty(entry.size, dtype)
    for piece in pieces:
        part = files.content(piece)
        if not isinstance(part, np.ndarray) or part.shape != piece.sizes or part.dtype != dtype:
            found = f"{part.dtype}{list(part.shape)}" if isinstance(part, np.ndarray) else type(part).__name__
            raise RegimeError(
                f"{files.folder / piece.file}: a piece of tensor {name!r} is {found}; expected "
                f"{dtype}{list(piece.sizes)}; files of two saves may be mixed, so save it again or remove it"
            )
        if piece.sizes == entry.size:
            return part
        whole[_within(piece)] = part
    return whole


def _is_covered(size: tuple[int, ...], pieces: list[Piece]) -> bool:
    """Whether every element of a tensor is in exactly one piece."""
    if any(len(piece.sizes) != len(size) or len(piece.offsets) != len(size) for piece in pieces):
        return False
    if math.prod(size) != sum(math.prod(piece.sizes) for piece in pieces):
        return False
    if len(pieces) <= 1:
        return not pieces or pieces[0].sizes == size
    edges = [_edges(pieces, axis) for axis in range(len(size))]
    if any(axis[0] != 0 or axis[-1] != length for axis, length in zip(edges, size, strict=True)):
        return False
    return _hold_each_cell_once(pieces, edges)


def _edges(pieces: list[Piece], axis: int) -> NDArray[Any]:
    """Return the positions along an axis where the pieces of a tensor begin and end."""
    return np.unique([(piece.offsets[axis], piece.offsets[axis] + piece.sizes[axis]) for piece in pieces])


def _hold_each_cell_once(pieces: list[Piece], edges: list[NDArray[Any]]) -> bool:
    """Whether each cell into which the edges of pieces cut a tensor is in exactly one piece."""
    shape = [len(axis) - 1 for axis in edges]
    if math.prod(shape) > _MOST_CELLS:
        return False
    held = np.zeros(shape, np.uint8)
    for piece in pieces:
        cells = tuple(
            slice(*np.searchsorted(axis, (first, first + count)))
            for axis, first, count in zip(edges, piece.offsets, piece.sizes, strict=True)
        )
        if held[cells].any():
            return False
        held[cells] = 1
    return bool(held.all())


def _within(piece: Piece) -> tuple[slice, ...]:
    return tuple(slice(first, first + count) for first, count in zip(piece.offsets, piece.sizes, strict=True))
