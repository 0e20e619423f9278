"""Reads files of Keras (``.keras``, ``.weights.h5``, and ``.h5`` in the older layout) as arrays, without Keras.

No model is ever loaded from a file, since that may run code.
"""

import io
import mmap
import re
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from regime_proto.adapters.first_bytes import HDF5, first_entry
from regime_proto.adapters.mapped import map_file
from regime_proto.checkpoints.archives import open_zip, read_entry
from regime_proto.checkpoints.opening import open_file, parse_json, require_file
from regime_proto.checkpoints.payload import TOP, Incomplete, Label, NotACheckpoint, Payload, label_of
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array
from regime_proto.schema.validation.structure import Objects, chunk_problems, structure_problems

SUFFIXES = (".keras", ".h5")

_WEIGHTS = "model.weights.h5"
_ENTRIES = ("metadata.json", "config.json", _WEIGHTS)
_ARCHIVE, _HDF5 = b"PK\3\4", b"\x89HDF"
# Step count of the optimizer. A loss-scaling optimizer contains another one; its own count stays 0.
_COUNTS = ("optimizer/inner_optimizer/vars/0", "optimizer/vars/0")
_OPTIMIZERS = ("optimizer", "optimizer_weights")
_OLDER = "model_weights"
# Header before a part of an archive; its last bytes are the lengths of the two fields after it.
_HEADER_BYTES, _NAMES_AT = 30, 26
_VERSION = re.compile(r"\d[\w.+-]{0,19}")
_LONGEST_METADATA = 10_000


def sniff(start: bytes) -> bool:
    """Whether a file is HDF5, or a zip archive whose first entry is one of Keras."""
    return start.startswith(HDF5) or first_entry(start) in _ENTRIES


def recognise(path: Path) -> str | None:
    """Recognise a Keras archive or weights file; an empty file counts as a damaged checkpoint."""
    if not path.is_file() or _is_shard(path):
        return None
    with open_file(path) as file:
        start = file.read(4)
    if not start:
        return "an empty file"
    try:
        if start == _ARCHIVE:
            return _described(path)
        if start != _HDF5:
            return None
        with _opened(path) as file:
            if _OLDER in file or "layer_names" in file.attrs:
                return "Keras weights in the older HDF5 layout"
            return "Keras weights in HDF5" if any("/vars/" in name for name in _names(file)) else None
    except RegimeError:
        return "a damaged Keras file" if path.suffix == ".keras" or ".weights." in path.name else None


def peek(path: Path) -> Label:
    """Return the step, which is the iteration count of the optimizer, if it was saved."""
    with _opened(path, only=_COUNTS) as file:
        if not _is_older(file):
            return label_of(_facts(file))
    with _opened(path) as file:
        return label_of(_older_facts(file))


def read(path: Path) -> Payload:
    """Read the weights under their paths in the file, without those of the optimizer."""
    with _opened(path, whole=True) as file:
        tensors = {_spelled(name): _array(file[name]) for name in _names(file)}
        facts = _older_facts(file) if _is_older(file) else _facts(file)
    if not tensors:
        raise NotACheckpoint("it holds no weights of layers")
    return Payload({TOP: tensors}, facts)


def _is_shard(path: Path) -> bool:
    """Whether a file is one of several shards of a model's weights."""
    front, shard, _ = path.name.partition("_0")
    return bool(shard) and (path.parent / f"{front}.weights.json").is_file()


def _described(path: Path) -> str | None:
    with _archive(path) as archive:
        if _WEIGHTS not in archive.namelist():
            return None
        try:
            with archive.open("metadata.json") as metadata:
                found = str(parse_json(metadata.read(_LONGEST_METADATA), path)["keras_version"])
        except (KeyError, ValueError, TypeError, RecursionError):
            found = ""
        return f"an archive of Keras {found}" if _VERSION.fullmatch(found) else "a Keras archive"


@contextmanager
def _opened(path: Path, *, whole: bool = False, only: Sequence[str] | None = None) -> Iterator[h5py.File]:
    """Open the HDF5 file of weights, after checking its structure.

    Parameters
    ----------
    path : Path
    whole : bool
        Read a part of an archive completely, which verifies its checksum.
    only : sequence of str, optional
        Paths of the datasets that will be read.
    """
    try:
        with _content(path, whole=whole) as content, h5py.File(content, "r") as file:
            objects = Objects(file)
            structure = structure_problems(objects, entry_bytes=objects.file_size, opaque=True, only=only)
            problem = next(structure, None) or next(chunk_problems(objects), None)
            if problem is not None:
                raise RegimeError(
                    f"{path}: refused: {problem.where} is {problem.found}; expected {problem.expected}; the file is "
                    "damaged, or was not written by Keras"
                )
            yield file
    except (OSError, KeyError, ValueError, RuntimeError, EOFError, struct.error, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        kind = Incomplete if "truncated" in reason or not path.stat().st_size else RegimeError
        raise kind(f"{path}: damaged or incomplete ({reason}); save it again or remove it") from None


@contextmanager
def _content(path: Path, *, whole: bool) -> Iterator[Path | io.IOBase]:
    if path.suffix != ".keras":
        require_file(path)
        yield path
        return
    with _archive(path) as archive:
        info = archive.getinfo(_WEIGHTS)
        if whole or info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            yield io.BytesIO(read_entry(archive, info))
        else:
            yield _Part(map_file(path), info)


class _Part(io.RawIOBase):
    """An uncompressed part of an archive as a file, of which only the requested bytes are read."""

    def __init__(self, archive: mmap.mmap, info: zipfile.ZipInfo) -> None:
        names = archive[info.header_offset + _NAMES_AT : info.header_offset + _HEADER_BYTES]
        start = info.header_offset + _HEADER_BYTES + sum(struct.unpack("<2H", names))
        self._content = memoryview(archive)[start : start + info.file_size]
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to another position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._content)}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read bytes until the buffer is full."""
        found = self._content[self._at : self._at + len(buffer)]
        if not found:
            # HDF5 would retry forever.
            raise OSError("its end is missing")
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with open_zip(path) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise Incomplete(f"{path}: damaged or incomplete ({error}); save it again or remove it") from None


def _is_older(file: h5py.File) -> bool:
    # Without following links.
    return _OLDER.encode() in list(file.id)


def _names(file: h5py.File) -> list[str]:
    """Return the paths of numeric datasets, except those of the optimizer."""
    found: list[str] = []

    def look(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and name.partition("/")[0] not in _OPTIMIZERS and item.dtype.kind in "fiubV":
            found.append(name)

    file.visititems(look)
    return found


def _spelled(name: str) -> str:
    """Return the path of a dataset as the name of a tensor."""
    parts = name.removesuffix(":0").split("/")
    if parts[0] == _OLDER:
        # The older layout repeats the name of the layer.
        parts = parts[2:] if len(parts) > 3 else parts[1:]
    return ".".join(parts)


def _array(dataset: h5py.Dataset) -> Array:
    """Return the numbers of a dataset; bfloat16 numbers are stored as bytes."""
    array: Array = dataset[()] if dataset.shape else np.asarray(dataset[()])
    if array.dtype.kind == "V":
        import ml_dtypes

        if dataset.attrs.get("dtype") != "bfloat16" or array.dtype.itemsize != 2:
            raise ValueError(f"{dataset.name} has an unknown dtype")
        return array.view(ml_dtypes.bfloat16)
    return array


def _facts(file: h5py.File) -> dict[str, float]:
    """Return the step count of the optimizer, reading only `_COUNTS`."""
    return _count(next((file[path] for path in _COUNTS if path in file), None))


def _older_facts(file: h5py.File) -> dict[str, float]:
    """Return the step count of the optimizer in a file of the older layout, whose whole structure was checked."""
    groups = file.get("optimizer_weights", {}).values()
    found = (group[name] for group in groups for name in ("iteration", "iterations", "iter") if name in group)
    return _count(next(found, None))


def _count(found: object) -> dict[str, float]:
    if not isinstance(found, h5py.Dataset) or found.shape or found.dtype.kind not in "iu":
        return {}
    return {"iteration": float(found[()])}
