"""Reads the folders of Orbax, in which JAX's libraries save: a tree of arrays, or several. Needs no JAX."""

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
# Orbax's own names of items; those of older versions have nothing else beside them that tells.
_ITEMS = ("default", "state", "pytree", "params", "model")
_SAVES_TREES = ("StandardCheckpointHandler", "PyTreeCheckpointHandler", "PyTreeHandler")
# The types of plain numbers, as zarr names them; empty where nothing is said.
_PLAIN = re.compile(r"|[<>|]?[biufc]\d{1,2}|[a-z]+\d{0,3}(_\w{1,20})?")
_ARRAYS = ("jax.Array", "np.ndarray", "scalar")
# An array that was saved as an item of its own.
_NO_TREE = [("checkpoint",)]
_LONGEST_DESCRIPTION = 2**20
_ALWAYS_READ = 64 * 2**20
_MOST_PACKED = 1000
# Of older versions of Orbax; and what none has used.
_DEFLATED, _NEVER_USED = {"gzip", "zlib"}, {"bz2"}
# Of zlib: a header of gzip or of its own.
_ANY_HEADER = 47
_FAILURES = (OSError, ValueError, zlib.error, LookupError, TypeError, AttributeError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class _Entry:
    """An array of a tree: its keys there, what tensorstore opens, and whether it has no axes, if that is known."""

    keys: tuple[str, ...]
    spec: Mapping[str, Any]
    single: bool | None


def recognise(path: Path) -> str | None:
    """Tell the description of a tree, in the folder itself or in those of its items."""
    if not path.is_dir() or _BEING_WRITTEN in path.name:
        return None
    if _is_tree(path):
        return f"{_TREE} in each folder, as Orbax saves a tree of arrays"
    if (path / _CHECKPOINT).is_file():
        return f"{_CHECKPOINT} in each folder, as Orbax saves"
    item = next((name for name in _ITEMS if _is_tree(path / name)), None)
    return None if item is None else f"{item}/{_TREE} in each folder, as Orbax saves"


def peek(path: Path) -> Label:
    """Return step, epoch and metrics: the arrays without axes that stand beside the model, and the saved metrics."""
    with _explained(path):
        size = _size_of(path)
        entries = _entries(path)
        unknown = [entry for entry in entries if entry.single is None]
        single = {entry.keys for entry in entries if entry.single}
        single |= {entry.keys for entry, store in zip(unknown, _opened(unknown, path), strict=True) if not store.rank}
        # Each number that could be a fact stands for its entry.
        leaves = [np.array(at) if entry.keys in single else np.empty(0) for at, entry in enumerate(entries)]
        found = {name: entries[int(at)] for name, at in tree_payload(_nested(entries, leaves)).facts.items()}
        numbers = _read(list(found.values()), path, size)
        facts = numbers_in({name: number[()] for name, number in zip(found, numbers, strict=True)})
        return label_of(_with_metrics(path, facts))


def read(path: Path) -> Payload:
    """Read all arrays of a checkpoint but the optimizer's, bfloat16 in ml_dtypes' type."""
    with _explained(path):
        size = _size_of(path)
        entries = _without_optimizer(_entries(path))
        payload = tree_payload(_nested(entries, _read(entries, path, size)))
        return Payload(payload.groups, _with_metrics(path, payload.facts))


def _with_metrics(path: Path, facts: Mapping[str, float]) -> dict[str, float]:
    """Return facts with the metrics that were saved, and the step by which the manager of checkpoints named one."""
    file = path / _METRICS / _METRICS
    metrics = read_json(file) if file.is_file() else {}
    facts = {**facts, **numbers_in(metrics)}
    if path.name.isdecimal() and not _is_tree(path) and label_of(facts).step is None:
        facts["step"] = float(path.name)
    return facts


def _without_optimizer(entries: list[_Entry]) -> list[_Entry]:
    """Leave out what the optimizer keeps: most of the bytes."""
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
        A tree is not there as a whole.
    NotACheckpoint
        There is none.
    """
    saved_by = _handlers(path)
    if (path / _TREE).is_file():
        return _entries_in(path)
    items = {item: _entries_in(path / item) for item in _items(path)}
    _require_trees(path, items, saved_by)
    trees = {item: entries for item, entries in items.items() if [entry.keys for entry in entries] != _NO_TREE}
    if not trees:
        raise NotACheckpoint("no tree of arrays in it")
    if len(trees) == 1 and not any(map(is_optimizer, trees)):
        return next(iter(trees.values()))
    return [_Entry((item, *entry.keys), entry.spec, entry.single) for item in trees for entry in trees[item]]


def _require_trees(path: Path, items: Collection[str], saved_by: Mapping[str, str]) -> None:
    """Raise an error if an item that was saved as a tree is not there, or nothing is."""
    missing = [item for item, handler in saved_by.items() if item not in items and handler.endswith(_SAVES_TREES)]
    if missing or not (items or saved_by):
        raise _incomplete(path, f"no {_TREE} in {missing[0]!r:.100}" if any(missing) else f"no {_TREE} in it")


def _items(path: Path) -> list[str]:
    names = sorted(entry.name for entry in path.iterdir() if (entry / _TREE).is_file())
    return [name for name in names if _BEING_WRITTEN not in name]


def _handlers(path: Path) -> dict[str, str]:
    """Return what saved each item of a checkpoint, as far as it says so; one without items is the item `TOP`.

    Raises
    ------
    Incomplete
        It says that it is not finished.
    """
    file = path / _CHECKPOINT
    if not file.is_file():
        return {}
    description = read_json(file)
    # Where a folder cannot be renamed, a file of its own says that all is there.
    if description.get("commit_timestamp_nsecs", 0) is None and not (path / _COMMITTED).is_file():
        raise _incomplete(path, f"{_CHECKPOINT} says that it is still being written")
    handlers = description.get("item_handlers") or {}
    return {item: str(by) for item, by in handlers.items()} if isinstance(handlers, dict) else {TOP: str(handlers)}


def _entries_in(folder: Path) -> list[_Entry]:
    """Return the arrays of one tree; what is empty, and text, is passed over."""
    metadata = read_json(folder / _TREE)
    in_database = metadata.get("use_ocdbt")
    if in_database is None:
        in_database = (folder / _DATABASE).is_file()
    elif in_database and not (folder / _DATABASE).is_file():
        raise _incomplete(folder, f"no {_DATABASE} in it")
    entries = []
    for described in metadata["tree_metadata"].values():
        value = described["value_metadata"]
        if value.get("skip_deserialize") or value["value_type"] not in _ARRAYS:
            continue
        keys = tuple(str(key["key"]) for key in described["key_metadata"])
        spec = {
            "driver": "zarr3" if metadata.get("use_zarr3") else "zarr",
            "kvstore": _place(folder, ".".join(keys), in_database=bool(in_database)),
            # Otherwise what is missing would be zeros.
            "fill_missing_data_reads": not metadata.get("store_array_data_equal_to_fill_value", False),
        }
        shape = [] if value["value_type"] == "scalar" else value.get("write_shape")
        entries.append(_Entry(keys, spec, None if shape is None else not shape))
    return entries


def _place(folder: Path, name: str, *, in_database: bool) -> dict[str, Any]:
    """Return where an array lies: in the folder's database, or in a folder of its own."""
    root = f"{folder.resolve()}/"
    if in_database:
        return {"driver": "ocdbt", "base": {"driver": "file", "path": root}, "path": f"{name}/"}
    if any(part in ("", ".", "..") for part in name.split("/")) or not name.isprintable() or "\\" in name:
        raise RegimeError(f"{folder / _TREE}: names {name!r:.100}, outside the folder: refused")
    if not (folder / name).is_dir():
        raise _incomplete(folder, f"no folder {name!r:.100} in it, although {_TREE} says so")
    return {"driver": "file", "path": f"{root}{name}/"}


def _nested(entries: Iterable[_Entry], leaves: Iterable[Array]) -> dict[str, Any]:
    """Return arrays as a tree."""
    return nested((entry.keys, leaf) for entry, leaf in zip(entries, leaves, strict=True))


def _opened(entries: Sequence[_Entry], path: Path) -> list[Any]:
    """Return the arrays as tensorstore opens them; nothing of their numbers is read."""
    if not entries:
        return []
    try:
        import tensorstore
    except ImportError:
        install = 'pip install "regime-proto[flax]"'
        raise RegimeError(f"{path}: cannot be read without tensorstore: {install}") from None
    context = tensorstore.Context()
    _hold_types(entries, path, context)
    opening = [tensorstore.open(dict(entry.spec), read=True, open=True, context=context) for entry in entries]
    return [future.result() for future in opening]


def _hold_types(entries: Sequence[_Entry], path: Path, context: Any) -> None:
    """Raise an error if an array is not of plain numbers: tensorstore takes memory for one of them when it opens it."""
    import tensorstore

    opening = [tensorstore.KvStore.open(entry.spec["kvstore"], context=context) for entry in entries]
    reading = [
        future.result().read("zarr.json" if entry.spec["driver"] == "zarr3" else ".zarray")
        for future, entry in zip(opening, entries, strict=True)
    ]
    for entry, future in zip(entries, reading, strict=True):
        # Of one that is missing tensorstore itself says so.
        content = future.result().value or b"{}"
        if len(content) > _LONGEST_DESCRIPTION:
            raise RegimeError(f"{path}: the description of an array is {len(content):,} bytes long: refused")
        described = json.loads(content)
        kind = described.get("dtype", described.get("data_type", "")) if isinstance(described, dict) else described
        if not isinstance(kind, str) or not _PLAIN.fullmatch(kind):
            name = ".".join(entry.keys)
            raise RegimeError(f"{path}: {name!r:.100} is of the type {kind!r:.60}, not of plain numbers: refused")


def _read(entries: Sequence[_Entry], path: Path, size: int) -> list[Array]:
    """Return arrays, all of them read at once. Files of `size` bytes cannot hold any number of them."""
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
    """Raise an error if a piece of an array unpacks to more than it is; tensorstore finds out when it is in memory."""
    codecs = set(_codecs(store.codec))
    if codecs & _NEVER_USED or (codecs & _DEFLATED and "zarr3" in codecs):
        raise RegimeError(f"{path}: its arrays are compressed as Orbax does not compress them: refused; save it again")
    if not codecs & _DEFLATED:
        return
    most = math.prod(_piece(store)) * int(store.dtype.numpy_dtype.itemsize)
    for key in store.kvstore.list().result():
        if key.startswith(b"."):
            continue
        unpacked = zlib.decompressobj(_ANY_HEADER).decompress(store.kvstore.read(key).result().value, most + 1)
        if len(unpacked) > most:
            raise RegimeError(f"{path}: a piece of an array unpacks to more than {most:,} bytes: refused")


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
    """Return the bytes of an array, or of one of its pieces if that is larger."""
    elements = max(int(math.prod(store.shape)), math.prod(_piece(store)))
    return elements * int(store.dtype.numpy_dtype.itemsize)


def _pieces(store: Any) -> int:
    counts = (-(-int(length) // max(1, step)) for length, step in zip(store.shape, _piece(store), strict=True))
    return math.prod(counts)


def _piece(store: Any) -> tuple[int, ...]:
    return tuple(store.chunk_layout.read_chunk.shape or store.shape)


def _size_of(path: Path) -> int:
    """Return the bytes of all files of a checkpoint.

    Raises
    ------
    RegimeError
        There is something that is no file, or a link that leads elsewhere.
    """
    root = path.resolve()

    def size_below(folder: str) -> int:
        total = 0
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
                    raise RegimeError(f"{entry.path}: leads out of the checkpoint: refused; put the file itself there")
                if entry.is_dir(follow_symlinks=False):
                    total += size_below(entry.path)
                elif entry.is_file():
                    total += entry.stat().st_size
                elif not entry.is_dir():
                    raise RegimeError(f"{entry.path}: neither a file nor a folder: refused")
        return total

    return size_below(str(root))


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Make errors of files, and tensorstore's, ours."""
    try:
        yield
    except RegimeError:
        raise
    except RecursionError:
        raise RegimeError(f"{path}: damaged (nested too deeply); save it again or remove it") from None
    except json.JSONDecodeError as error:
        raise _incomplete(path, f"its description is no JSON: {error}") from None
    except _FAILURES as error:
        # tensorstore adds the whole of what was asked for.
        text = str(error).partition("[tensorstore_spec")[0] if isinstance(error, ValueError) else repr(error)
        reason = " ".join(text.split())[:200]
        if isinstance(error, FileNotFoundError) or reason.startswith("NOT_FOUND"):
            raise _incomplete(path, reason) from None
        raise RegimeError(f"{path}: damaged or incomplete ({reason}); save it again or remove it") from None


def _incomplete(path: Path, reason: str) -> Incomplete:
    return Incomplete(f"{path}: damaged or incomplete ({reason}); save it again or remove it")
