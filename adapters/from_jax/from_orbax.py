"""Reads checkpoint folders of Orbax, which JAX's libraries write: one tree of arrays, or several. Needs no JAX."""

import contextlib
import json
import math
import os
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regime_proto.checkpoints.opening import read_json, read_start
from regime_proto.checkpoints.param_trees import nested, tree_payload
from regime_proto.checkpoints.payload import (
    TOP,
    Incomplete,
    Label,
    NotACheckpoint,
    Payload,
    is_optimizer,
    label_of,
    numbers_in,
)
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

SUFFIXES: tuple[str, ...] = ()

_TREE = "_METADATA"
_CHECKPOINT = "_CHECKPOINT_METADATA"
_DATABASE = "manifest.ocdbt"
_COMMITTED = "commit_success.txt"
_BEING_WRITTEN = ".orbax-checkpoint-tmp"
_METRICS = "metrics"
# Orbax's own names of items, the only sign of items in checkpoints of older versions.
_ITEMS = ("default", "state", "pytree", "params", "model")
_SAVES_TREES = ("StandardCheckpointHandler", "PyTreeCheckpointHandler", "PyTreeHandler")
# Types of plain numbers, as zarr names them; empty if not stated.
_PLAIN = re.compile(r"|[<>|]?[biufc]\d{1,2}|[a-z]+\d{0,3}(_\w{1,20})?")
_ARRAYS = ("jax.Array", "np.ndarray", "scalar")
# An array that was saved as a separate item.
_NO_TREE = [("checkpoint",)]
_LONGEST_DESCRIPTION = 2**20
_ALWAYS_READ = 64 * 2**20
_MOST_PACKED = 1000
# Formats of older versions of Orbax; and one that no version has used.
_DEFLATED, _NEVER_USED = {"gzip", "zlib"}, {"bz2"}
# zlib reads a gzip header or its own.
_ANY_HEADER = 47
_FAILURES = (OSError, ValueError, zlib.error, LookupError, TypeError, AttributeError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class _Entry:
    """An array of a tree: its keys, its tensorstore spec, and whether it has no axes, if known."""

    keys: tuple[str, ...]
    spec: Mapping[str, Any]
    single: bool | None


def recognise(path: Path) -> str | None:
    """Recognise the description of a tree, in the folder itself or in the folders of its items."""
    if not path.is_dir() or _BEING_WRITTEN in path.name:
        return None
    if _is_tree(path):
        return f"{_TREE} in each folder, as Orbax saves a tree of arrays"
    if (path / _CHECKPOINT).is_file():
        return f"{_CHECKPOINT} in each folder, as Orbax saves"
    item = next((name for name in _ITEMS if _is_tree(path / name)), None)
    return None if item is None else f"{item}/{_TREE} in each folder, as Orbax saves"


def peek(path: Path) -> Label:
    """Return step, epoch and metrics from arrays without axes next to the model, and from the saved metrics."""
    with _explained(path):
        size = _size_of(path)
        entries = _entries(path)
        unknown = [entry for entry in entries if entry.single is None]
        single = {entry.keys for entry in entries if entry.single}
        single |= {entry.keys for entry, store in zip(unknown, _opened(unknown, path), strict=True) if not store.rank}
        # Each entry is replaced with its number if it could be a fact.
        leaves = [np.array(at) if entry.keys in single else np.empty(0) for at, entry in enumerate(entries)]
        found = {name: entries[int(at)] for name, at in tree_payload(_nested(entries, leaves)).facts.items()}
        numbers = _read(list(found.values()), path, size)
        facts = numbers_in({name: number[()] for name, number in zip(found, numbers, strict=True)})
        return label_of(_with_metrics(path, facts))


def read(path: Path) -> Payload:
    """Read all arrays of a checkpoint except the optimizer's; bfloat16 has the dtype of ml_dtypes."""
    with _explained(path):
        size = _size_of(path)
        entries = _without_optimizer(_entries(path))
        payload = tree_payload(_nested(entries, _read(entries, path, size)))
        return Payload(payload.groups, _with_metrics(path, payload.facts))


def _with_metrics(path: Path, facts: Mapping[str, float]) -> dict[str, float]:
    """Add to facts the saved metrics, and the step under which Orbax's manager saved the checkpoint."""
    file = path / _METRICS / _METRICS
    metrics = read_json(file) if file.is_file() else {}
    facts = {**facts, **numbers_in(metrics)}
    if path.name.isdecimal() and not _is_tree(path) and label_of(facts).step is None:
        facts["step"] = float(path.name)
    return facts


def _without_optimizer(entries: list[_Entry]) -> list[_Entry]:
    """Leave out the state of the optimizer, which is most of the bytes."""
    leaves = [np.array(at) if entry.single else np.full(1, at) for at, entry in enumerate(entries)]
    groups = tree_payload(_nested(entries, leaves)).groups
    left_out = {int(leaf.item()) for key in groups if is_optimizer(key) for leaf in groups[key].values()}  # type: ignore[union-attr]
    return [entry for at, entry in enumerate(entries) if at not in left_out]


def _is_tree(folder: Path) -> bool:
    file = folder / _TREE
    if not file.is_file():
        return False
    start = read_start(file, 4096)
    return not start or b'"tree_metadata"' in start


def _entries(path: Path) -> list[_Entry]:
    """Return the arrays of a checkpoint: of its only tree, or of several under the names of their items.

    Raises
    ------
    Incomplete
        A part of a tree is missing.
    NotACheckpoint
        There is no tree.
    """
    saved_by = _handlers(path)
    if (path / _TREE).is_file():
        return _entries_in(path)
    items = {item: _entries_in(path / item) for item in _items(path)}
    _require_trees(path, items, saved_by)
    trees = {item: entries for item, entries in items.items() if [entry.keys for entry in entries] != _NO_TREE}
    if not trees:
        raise NotACheckpoint("it holds no tree of arrays")
    if len(trees) == 1 and not any(map(is_optimizer, trees)):
        return next(iter(trees.values()))
    return [_Entry((item, *entry.keys), entry.spec, entry.single) for item in trees for entry in trees[item]]


def _require_trees(path: Path, items: Collection[str], saved_by: Mapping[str, str]) -> None:
    """Raise an error if an item that was saved as a tree is missing, or there is none."""
    missing = [item for item, handler in saved_by.items() if item not in items and handler.endswith(_SAVES_TREES)]
    if missing or not (items or saved_by):
        raise _incomplete(path, f"no {_TREE} in {missing[0]!r:.100}" if any(missing) else f"it holds no {_TREE}")


def _items(path: Path) -> list[str]:
    names = sorted(entry.name for entry in path.iterdir() if (entry / _TREE).is_file())
    return [name for name in names if _BEING_WRITTEN not in name]


def _handlers(path: Path) -> dict[str, str]:
    """Return the handler that saved each item of a checkpoint, if stated; a checkpoint without items is the item `TOP`.

    Raises
    ------
    Incomplete
        It is marked as unfinished.
    """
    file = path / _CHECKPOINT
    if not file.is_file():
        return {}
    description = read_json(file)
    # On file systems that cannot rename folders, a separate file marks a finished checkpoint.
    if description.get("commit_timestamp_nsecs", 0) is None and not (path / _COMMITTED).is_file():
        raise _incomplete(path, f"it is still being written, according to {_CHECKPOINT}")
    handlers = description.get("item_handlers") or {}
    return {item: str(by) for item, by in handlers.items()} if isinstance(handlers, dict) else {TOP: str(handlers)}


def _entries_in(folder: Path) -> list[_Entry]:
    """Return the arrays of one tree; empty entries and text are ignored."""
    metadata = read_json(folder / _TREE)
    in_database = metadata.get("use_ocdbt")
    if in_database is None:
        in_database = (folder / _DATABASE).is_file()
    elif in_database and not (folder / _DATABASE).is_file():
        raise _incomplete(folder, f"it holds no {_DATABASE}")
    entries = []
    for described in metadata["tree_metadata"].values():
        value = described["value_metadata"]
        if value.get("skip_deserialize") or value["value_type"] not in _ARRAYS:
            continue
        keys = tuple(str(key["key"]) for key in described["key_metadata"])
        spec = {
            "driver": "zarr3" if metadata.get("use_zarr3") else "zarr",
            "kvstore": _place(folder, ".".join(keys), in_database=bool(in_database)),
            # Otherwise missing arrays would be read as zeros.
            "fill_missing_data_reads": not metadata.get("store_array_data_equal_to_fill_value", False),
        }
        shape = [] if value["value_type"] == "scalar" else value.get("write_shape")
        entries.append(_Entry(keys, spec, None if shape is None else not shape))
    return entries


def _place(folder: Path, name: str, *, in_database: bool) -> dict[str, Any]:
    """Return the location of an array: in the folder's database, or in its own folder."""
    root = f"{folder.resolve()}/"
    if in_database:
        return {"driver": "ocdbt", "base": {"driver": "file", "path": root}, "path": f"{name}/"}
    if any(part in ("", ".", "..") for part in name.split("/")) or not name.isprintable() or "\\" in name:
        raise RegimeError(
            f"{folder / _TREE}: names {name!r:.100}, which is outside the folder; refused, do not trust this checkpoint"
        )
    if not (folder / name).is_dir():
        raise _incomplete(folder, f"the folder {name!r:.100} is missing, although {_TREE} lists it")
    return {"driver": "file", "path": f"{root}{name}/"}


def _nested(entries: Iterable[_Entry], leaves: Iterable[Array]) -> dict[str, Any]:
    """Return arrays as a tree."""
    return nested((entry.keys, leaf) for entry, leaf in zip(entries, leaves, strict=True))


def _opened(entries: Sequence[_Entry], path: Path) -> list[Any]:
    """Open the arrays with tensorstore, without reading their numbers."""
    if not entries:
        return []
    try:
        import tensorstore
    except ImportError:
        install = 'pip install "regime-proto[flax]"'
        raise RegimeError(f"{path}: cannot be read without tensorstore; {install}") from None
    context = tensorstore.Context()
    _hold_types(entries, path, context)
    opening = [tensorstore.open(dict(entry.spec), read=True, open=True, context=context) for entry in entries]
    return [future.result() for future in opening]


def _hold_types(entries: Sequence[_Entry], path: Path, context: Any) -> None:
    """Raise an error if an array is not of plain numbers: tensorstore allocates one element when it opens an array."""
    import tensorstore

    opening = [tensorstore.KvStore.open(entry.spec["kvstore"], context=context) for entry in entries]
    reading = [
        future.result().read("zarr.json" if entry.spec["driver"] == "zarr3" else ".zarray")
        for future, entry in zip(opening, entries, strict=True)
    ]
    for entry, future in zip(entries, reading, strict=True):
        # tensorstore itself reports a missing description.
        content = future.result().value or b"{}"
        if len(content) > _LONGEST_DESCRIPTION:
            raise RegimeError(
                f"{path}: the description of an array is {len(content):,} bytes long; refused, do not trust this "
                "checkpoint"
            )
        described = json.loads(content)
        kind = described.get("dtype", described.get("data_type", "")) if isinstance(described, dict) else described
        if not isinstance(kind, str) or not _PLAIN.fullmatch(kind):
            name = ".".join(entry.keys)
            raise RegimeError(
                f"{path}: {name!r:.100} has type {kind!r:.60}; expected plain numbers; save it again without it"
            )


def _read(entries: Sequence[_Entry], path: Path, size: int) -> list[Array]:
    """Read all arrays at once, after checking that files of `size` bytes can hold them."""
    stores = _opened(entries, path)
    if sum(map(_declared, stores)) > max(_ALWAYS_READ, _MOST_PACKED * size):
        raise RegimeError(f"{path}: its arrays are larger than its files can hold; do not trust this checkpoint")
    if sum(map(_pieces, stores)) > max(_ALWAYS_READ // _MOST_PACKED, size):
        raise RegimeError(
            f"{path}: its arrays are in more pieces than its files can hold; do not trust this checkpoint"
        )
    for store in stores:
        _hold_pieces(store, path)
    reading = [store.read() for store in stores]
    return [np.asarray(future.result()) for future in reading]


def _hold_pieces(store: Any, path: Path) -> None:
    """Raise an error if a piece of an array unpacks to more than its size; tensorstore would check only in memory."""
    codecs = set(_codecs(store.codec))
    if codecs & _NEVER_USED or (codecs & _DEFLATED and "zarr3" in codecs):
        raise RegimeError(f"{path}: its arrays have a compression that Orbax does not use; save it again with Orbax")
    if not codecs & _DEFLATED:
        return
    most = math.prod(_piece(store)) * int(store.dtype.numpy_dtype.itemsize)
    for key in store.kvstore.list().result():
        if key.startswith(b"."):
            continue
        unpacked = zlib.decompressobj(_ANY_HEADER).decompress(store.kvstore.read(key).result().value, most + 1)
        if len(unpacked) > most:
            raise RegimeError(
                f"{path}: a piece of an array unpacks to more than {most:,} bytes; refused, do not trust this "
                "checkpoint"
            )


def _codecs(codec: Any) -> Iterator[str]:
    """Yield the names of the compressors of an array."""
    pending = [None if codec is None else codec.to_json()]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            yield from (str(part[key]) for key in ("id", "name", "driver") if key in part)
            pending += part.values()
        elif isinstance(part, list):
            pending += part


def _declared(store: Any) -> int:
    """Return the size in bytes of an array, or of one of its pieces if that is larger."""
    elements = max(int(math.prod(store.shape)), math.prod(_piece(store)))
    return elements * int(store.dtype.numpy_dtype.itemsize)


def _pieces(store: Any) -> int:
    counts = (-(-int(length) // max(1, step)) for length, step in zip(store.shape, _piece(store), strict=True))
    return math.prod(counts)


def _piece(store: Any) -> tuple[int, ...]:
    return tuple(store.chunk_layout.read_chunk.shape or store.shape)


def _size_of(path: Path) -> int:
    """Return the total size in bytes of the files of a checkpoint.

    Raises
    ------
    RegimeError
        An entry is neither a file nor a folder, or is a link to another place.
    """
    root = path.resolve()

    def size_below(folder: str) -> int:
        total = 0
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
                    raise RegimeError(f"{entry.path}: leads out of the checkpoint; copy the file itself to this place")
                if entry.is_dir(follow_symlinks=False):
                    total += size_below(entry.path)
                elif entry.is_file():
                    total += entry.stat().st_size
                elif not entry.is_dir():
                    raise RegimeError(f"{entry.path}: neither a file nor a folder; remove it")
        return total

    return size_below(str(root))


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Convert errors of files and of tensorstore to errors of regime."""
    try:
        yield
    except RegimeError:
        raise
    except RecursionError:
        raise RegimeError(f"{path}: damaged (nested too deeply); save it again or remove it") from None
    except json.JSONDecodeError as error:
        raise _incomplete(path, f"its description is not JSON: {error}") from None
    except _FAILURES as error:
        # tensorstore appends the whole request.
        text = str(error).partition("[tensorstore_spec")[0] if isinstance(error, ValueError) else repr(error)
        reason = " ".join(text.split())[:200]
        if isinstance(error, FileNotFoundError) or reason.startswith("NOT_FOUND"):
            raise _incomplete(path, reason) from None
        raise RegimeError(f"{path}: damaged or incomplete ({reason}); save it again or remove it") from None


def _incomplete(path: Path, reason: str) -> Incomplete:
    return Incomplete(f"{path}: damaged or incomplete ({reason}); save it again or remove it")
