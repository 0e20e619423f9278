"""Reads the ``.metadata`` of torch's distributed checkpoints: the tensors, and the location of their pieces.

The file is a pickle, which torch loads without restrictions. Here it is interpreted as data: no name in it is ever
looked up; a fixed table maps names to replacements.
"""

import math
import pickle
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regime_proto.checkpoints.limits import DESCRIPTION_BYTES, OPCODES
from regime_proto.checkpoints.opening import open_file
from regime_proto.checkpoints.payload import Incomplete
from regime_proto.schema.errors import RegimeError

FILE_NAME = ".metadata"

# Limit of NumPy; torch has no limit that a model could reach.
_MOST_AXES = 64


@dataclass(frozen=True)
class Piece:
    """A part of a tensor, or an object: its location in a file, and its position in the tensor."""

    file: str
    start: int
    length: int
    offsets: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Entry:
    """An entry of a checkpoint.

    Parameters
    ----------
    path : tuple of str
        Keys of the entry in the saved nested dicts; the last one is its name.
    pieces : tuple of Piece
    size : tuple of int
        Shape of the tensor; empty for an object.
    dtype : str, optional
        None for an object that is not a tensor.
    """

    path: tuple[str, ...]
    pieces: tuple[Piece, ...]
    size: tuple[int, ...] = ()
    dtype: str | None = None


def entries_of(path: Path) -> list[Entry]:
    """Return the entries that the ``.metadata`` at `path` describes.

    Raises
    ------
    Incomplete
        The end of the file is missing.
    RegimeError
        The file is damaged, names globals that no checkpoint needs, or has an unknown version.
    """
    try:
        metadata = _fields(_interpreted(_content(path)), "Metadata")
        version = metadata.get("version") or "1"
        if not isinstance(version, str) or version.partition(".")[0] != "1":
            raise RegimeError(f"{path}: format version {version!s:.20}; expected 1; update regime")
        pieces = _pieces(metadata["storage_data"])
        paths = metadata.get("planner_data") or {}
        described = metadata["state_dict_metadata"]
        return [_entry(name, what, paths.get(name), pieces.get(name, {})) for name, what in described.items()]
    except _Refused as error:
        raise RegimeError(f"{path}: refused: {error}; do not trust this file") from None
    except _Transformed as error:
        raise RegimeError(f"{path}: {error}; save it again without storage writer extensions") from None
    except _CutOff:
        raise Incomplete(f"{path}: damaged or incomplete (its end is missing); save it again or remove it") from None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise RegimeError(f"{path}: damaged ({error!r:.200}); save it again or remove it") from None


def _content(path: Path) -> bytes:
    with open_file(path) as file:
        DESCRIPTION_BYTES.hold(path, path.stat().st_size, "bytes of metadata")
        return file.read()


class _Refused(Exception):
    """The pickle does something that the metadata of a checkpoint never does."""


class _Transformed(Exception):
    """The files hold transformed data instead of the saved bytes."""


class _CutOff(Exception):
    """The end of the pickle is missing."""


@dataclass(eq=False)
class _Record:
    """Replacement for an object of one of torch's classes."""

    kind: str
    state: Any = field(default=None)


def _entry(name: str, what: object, path: object, pieces: Mapping[tuple[int, ...], Piece]) -> Entry:
    keys: tuple[str, ...] = (name,)
    if isinstance(path, tuple) and path and all(isinstance(key, str | int) for key in path):
        keys = tuple(map(str, path))
    if isinstance(what, _Record) and what.kind == "BytesStorageMetadata":
        return Entry(keys, tuple(pieces.values()))
    fields = _fields(what, "TensorStorageMetadata")
    size, dtype = _whole(fields["size"]), fields["properties"].state[0]
    if not isinstance(dtype, str):
        raise ValueError(f"tensor {name!r} has no dtype")
    chunks = [_fields(chunk, "ChunkStorageMetadata") for chunk in fields["chunks"]]
    placed = []
    for chunk in chunks:
        offsets, sizes = _whole(chunk["offsets"]), _whole(chunk["sizes"])
        if offsets not in pieces:
            raise ValueError(f"tensor {name!r} has no piece at {offsets}")
        piece = pieces[offsets]
        placed.append(Piece(piece.file, piece.start, piece.length, offsets, sizes))
    return Entry(keys, tuple(placed), size, dtype)


def _pieces(storage: Mapping[object, object]) -> dict[str, dict[tuple[int, ...], Piece]]:
    """Return the pieces of every entry by their offsets in the tensor."""
    found: dict[str, dict[tuple[int, ...], Piece]] = {}
    for index, info in storage.items():
        at, where = _fields(index, "MetadataIndex"), _fields(info, "_StorageInfo")
        if where.get("transform_descriptors"):
            raise _Transformed("its files are transformed (perhaps compressed)")
        file, name = where["relative_path"], at["fqn"]
        if not isinstance(file, str) or not isinstance(name, str):
            raise ValueError("an entry without a name or a file")
        if Path(file).name != file or not file.isprintable():
            raise _Refused(f"it names {file!r:.100}, outside the folder")
        start, length = _whole((where["offset"], where["length"]))
        offsets = _whole(at.get("offset") or ())
        found.setdefault(name, {})[offsets] = Piece(file, start, length, offsets)
    return found


def _fields(record: object, kind: str) -> dict[str, Any]:
    if not isinstance(record, _Record) or record.kind != kind or not isinstance(record.state, dict):
        raise ValueError(f"found {getattr(record, 'kind', type(record).__name__)}; expected {kind}")
    return record.state


def _whole(numbers: object) -> tuple[int, ...]:
    if not isinstance(numbers, tuple) or any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("sizes that are not whole numbers")
    if len(numbers) > _MOST_AXES or math.prod(numbers) >= 2**63:
        raise ValueError("an impossibly large tensor")
    return numbers


def _tuple(numbers: object = ()) -> tuple[object, ...]:
    return numbers if isinstance(numbers, tuple) else tuple(numbers) if isinstance(numbers, list) else ()


def _dict() -> dict[str, object]:
    return {}


def _nothing(*_: object) -> None:
    return None


_METADATA = "torch.distributed.checkpoint.metadata"
_OLD_METADATA = "torch.distributed._shard.sharded_tensor.metadata"
_RECORDS = {
    **{
        (_METADATA, name): name
        for name in (
            "Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata", "BytesStorageMetadata",
            "MetadataIndex", "StorageMeta",
        )
    },
    (_OLD_METADATA, "TensorProperties"): "TensorProperties",
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): "_StorageInfo",
}  # fmt: skip
_CALLED: dict[tuple[str, str], Callable[..., object]] = {
    ("torch", "Size"): _tuple,
    ("collections", "OrderedDict"): _dict,
    ("torch.serialization", "_get_layout"): _nothing,
    (_METADATA, "_MEM_FORMAT_ENCODING"): _nothing,
    (_OLD_METADATA, "MEM_FORMAT_ENCODING"): _nothing,
    # Path at which the checkpoint was saved.
    **{
        (module, f"{system}Path"): _nothing
        for module in ("pathlib", "pathlib._local")
        for system in ("Posix", "Windows", "PurePosix", "PureWindows")
    },
}
_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "SHORT_BINBYTES", "BINBYTES",
}  # fmt: skip
_EMPTY: dict[str, Callable[[], object]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _interpreted(content: bytes) -> object:
    """Return the content of a pickle: dicts, lists, tuples, literals, and a `_Record` for each object."""
    if not content.endswith(pickle.STOP):
        raise _CutOff
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    most = OPCODES.value
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        name: str = opcode.name
        if count > most:
            OPCODES.hold("the pickle", count, "opcodes")
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            break
        if name == "MARK":
            stack.append(_MARK)
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name == "TUPLE":
            stack.append(tuple(_to_mark(stack)))
        else:
            _apply(name, argument, stack)
    return stack.pop()


def _apply(name: str, argument: Any, stack: list[Any]) -> None:
    """Carry out an opcode that creates or changes an object."""
    if name in ("APPEND", "APPENDS"):
        items = _to_mark(stack) if name == "APPENDS" else [stack.pop()]
        _only(list, stack[-1]).extend(items)
    elif name in ("SETITEM", "SETITEMS"):
        items = _to_mark(stack) if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
        # Hashing nested tuples may take forever, or overflow the stack.
        if any(not isinstance(key, str | int | _Record) for key in items[::2]):
            raise _Refused("a dict with unusual keys")
        _only(dict, stack[-1]).update(zip(items[::2], items[1::2], strict=True))
    elif name in ("GLOBAL", "STACK_GLOBAL"):
        module, attribute = argument.split(" ", 1) if name == "GLOBAL" else (stack.pop(-2), stack.pop())
        stack.append(_named(module, attribute))
    elif name == "NEWOBJ":
        stack.pop()
        stack.append(_Record(_only(_Class, stack.pop()).kind))
    elif name == "REDUCE":
        arguments = _only(tuple, stack.pop())
        stack.append(_only(_Called, stack.pop()).function(*arguments))
    elif name == "BUILD":
        state = stack.pop()
        _only(_Record, stack[-1]).state = state
    else:
        raise _Refused(f"a pickle with {name}")


@dataclass(frozen=True)
class _Class:
    kind: str


@dataclass(frozen=True)
class _Called:
    function: Callable[..., object]


def _named(module: object, name: object) -> object:
    """Return the replacement of a global; a dtype becomes its name."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise _Refused("a global without a name")
    key = (module, name)
    if key in _RECORDS:
        return _Class(_RECORDS[key])
    if key in _CALLED:
        return _Called(_CALLED[key])
    if module == "torch" and name.islower() and name.isidentifier():
        return name
    raise _Refused(f"the pickle names {f'{module}.{name}'!r:.100}, which no checkpoint needs")


def _only(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise _Refused(f"a pickle that uses a {type(value).__name__} as a {kind.__name__.strip('_').lower()}")
    return value


def _to_mark(stack: list[Any]) -> list[Any]:
    at = next((at for at in range(len(stack) - 1, -1, -1) if stack[at] is _MARK), None)
    if at is None:
        raise ValueError("no mark")
    items = stack[at + 1 :]
    del stack[at:]
    return items
