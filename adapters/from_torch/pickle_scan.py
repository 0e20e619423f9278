"""Scans the pickles of torch files before torch loads them, to check that they need a plausible amount of resources.

torch runs no code of a pickle, but obeys it in everything else: it hashes keys that nest the same tuple over and over,
recurses into tuples of any depth, and allocates any number of bytes. The scan follows the same opcodes with numbers
and tuples only. An opcode that torch does not know ends the scan, since torch refuses it too.
"""

import math
import mmap
import os
import pickle
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from regime_proto.checkpoints.archives import hold_unpacked, opened_zip, read_entry
from regime_proto.checkpoints.limits import DESCRIPTION_BYTES, OPCODES, hold_inflation
from regime_proto.checkpoints.opening import open_file
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.limits import TooLarge

# Python's own limits, where they exist, are lower; C's hash of tuples has none.
_DEEPEST = 100
# Limit of hashed tuple elements, which take about a second.
_MOST_HASHED = 10_000_000
_MOST_ASKED = 2**20
# Pickles: magic number, format version, system information, content, keys of the storages.
_PICKLES_OF_A_STREAM = 5
_LONGEST_TEXT = 200
_ITEM_BYTES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "ComplexDouble": 16,
    "ComplexFloat": 8, "QInt32": 4,
}  # fmt: skip
_REBUILDS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_qtensor")
_OF_A_TYPE = "torch._tensor._rebuild_from_type_v2"
_SIZE = "torch.Size"
# The size of what these create depends on their arguments. For other modules only replacements are called.
_MAKERS = ("torch.", "builtins.", "__builtin__.")
_NO_MAKERS = ("torch._utils.", "torch.device", "builtins.complex", _SIZE)


class Unsafe(Exception):
    """A pickle requests something that no checkpoint needs."""


class _Name(str):
    """A global."""

    __slots__ = ()


class _Tuple:
    """A tuple: its items, its nesting depth, and the number of elements that hashing it visits."""

    __slots__ = ("depth", "hashed", "items")

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.depth, self.hashed = 1, 1 + len(items)
        for item in items:
            if type(item) is _Tuple:
                self.depth = max(self.depth, 1 + item.depth)
                self.hashed += item.hashed
        if self.depth > _DEEPEST or self.hashed > _MOST_HASHED:
            raise Unsafe("tuples nested beyond measure")


class _Storage:
    """The numbers that tensors view: their count, and the bytes of each."""

    __slots__ = ("count", "item_bytes")

    def __init__(self, count: int, item_bytes: int) -> None:
        self.count, self.item_bytes = count, item_bytes


class _Other:
    """Represents anything else in a pickle."""


_OTHER = _Other()
_EMPTY = _Tuple([])
_TRUE, _FALSE = True, False


def check(path: Path) -> None:
    """Raise an error if torch would take too much time or memory for a file.

    Raises
    ------
    RegimeError
        The file is malicious or damaged, or exceeds a limit.
    OSError, ValueError, zipfile.BadZipFile
        The file is damaged.
    """
    with open_file(path) as file:
        check_opened(file, path)


def check_content(content: bytes, where: str) -> None:
    """Check the content of a file as `check` does."""
    check_opened(BytesIO(content), where)


def check_opened(file: BinaryIO, where: object) -> None:
    """Check an open file as `check` does."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(4)
    try:
        if start == b"PK\3\4":
            with opened_zip(file, where) as archive:
                hold_unpacked(archive, where, size)
                for content in _pickles(archive, where):
                    Scan(content, size).run()
        elif start[:1] == b"\x80":
            _check_stream(file, size)
        else:
            raise RegimeError(f"{where}: damaged, or not a torch file; save it again or remove it")
    except Unsafe as error:
        raise RegimeError(f"{where}: refused: the pickle holds {error}; do not trust this file") from None
    except (IndexError, KeyError, UnicodeDecodeError):
        raise RegimeError(f"{where}: damaged (in its pickle); save it again or remove it") from None
    except TooLarge as error:
        raise TooLarge(f"{where}: {error}" if str(where) not in str(error) else str(error)) from None


def _pickles(archive: zipfile.ZipFile, where: object) -> Any:
    """Yield every entry that torch may treat as the pickle; it does not distinguish upper and lower case."""
    for info in archive.infolist():
        if info.filename.lower().endswith(".pkl"):
            DESCRIPTION_BYTES.hold(where, info.file_size, "bytes of a pickle")
            yield read_entry(archive, info)


def _check_stream(file: BinaryIO, size: int) -> None:
    """Scan the pickles at the start of a file from before torch 1.6; the numbers follow them."""
    content: bytes | mmap.mmap
    content = file.getvalue() if isinstance(file, BytesIO) else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    at: int | None = 0
    for _ in range(_PICKLES_OF_A_STREAM):
        if at is None:
            return
        at = Scan(content, size, at).run()


class Scan:
    """Follows the opcodes of a pickle.

    Parameters
    ----------
    content : bytes or mmap
    size : int
        Size in bytes of the file that holds the pickle and the tensors.
    at : int
        Where the pickle begins.

    Attributes
    ----------
    numbers : list of (int, int)
        Positions of numbers in `content`, from the first byte to the one after the last. Pickles that differ only there
        have the same structure.
    """

    def __init__(self, content: bytes | mmap.mmap, size: int, at: int = 0) -> None:
        self.content, self.size, self.at = content, size, at
        self.numbers: list[tuple[int, int]] = []
        self.stack: list[Any] = []
        self.stacks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self._hashed = 0
        self._viewed = 0

    def run(self) -> int | None:
        """Follow the pickle; return where it ends, or None if torch refuses one of its opcodes."""
        content, most = self.content, OPCODES.value
        for _ in range(most):
            act = _ACTIONS.get(content[self.at])
            self.at += 1
            if act is None:
                return None
            act(self)
            if act is _stop:
                return self.at
        OPCODES.hold("its pickle", most + 1, "opcodes")
        return None

    def argument(self, length: int) -> bytes:
        """Return the given number of bytes after an opcode."""
        start, self.at = self.at, self.at + length
        if self.at > len(self.content):
            raise IndexError
        return self.content[start : self.at]

    def number(self, length: int) -> int:
        """Return a whole number that follows an opcode."""
        return int.from_bytes(self.argument(length), "little")

    def line(self) -> str:
        """Return a line that follows an opcode."""
        end = self.content.find(b"\n", self.at, self.at + _LONGEST_TEXT)
        if end < 0:
            raise IndexError
        start, self.at = self.at, end + 1
        return self.content[start:end].decode()

    def to_mark(self) -> list[Any]:
        """Return the values since the last mark."""
        items, self.stack = self.stack, self.stacks.pop()
        return items

    def hash(self, values: Any) -> None:
        """Count the cost of hashing values."""
        for value in values:
            if type(value) is _Tuple:
                self._hashed += value.hashed
                if self._hashed > _MOST_HASHED:
                    raise Unsafe("keys that take forever to hash")

    def call(self, function: Any, arguments: Any) -> Any:
        """Return the replacement for the result of a call, after checking that the file can hold as much."""
        if type(function) is not _Name or type(arguments) is not _Tuple:
            return _OTHER
        items = arguments.items
        self.hash([arguments])
        if function == _OF_A_TYPE and len(items) > 2:
            return self.call(items[0], items[2])
        if function == _SIZE:
            return items[0] if items else _OTHER
        if function.startswith(_REBUILDS):
            self.view(items)
        elif function.startswith(_MAKERS) and not function.startswith(_NO_MAKERS):
            self.room(_product(arguments), self.size)
        return _OTHER

    def build(self, state: Any) -> None:
        """Check the state that a pickle assigns to a value."""
        if type(state) is _Tuple and state.items and type(state.items[0]) is _Storage:
            self.view(state.items)

    def room(self, asked: int, most: int) -> None:
        """Refuse an allocation beyond the possible size."""
        if asked > max(_MOST_ASKED, most):
            raise Unsafe(
                f"a call that requests {asked:.3g} elements"
                if asked < 2**900
                else "a call that requests unlimited memory"
            )

    def view(self, items: list[Any]) -> None:
        """Check that a tensor is within its storage, and does not view its numbers excessively often."""
        storage, offset, size, stride = items[:4]
        if type(storage) is not _Storage:
            return
        if type(size) is not _Tuple or type(stride) is not _Tuple or len(size.items) != len(stride.items):
            raise Unsafe("a tensor of unusual shape")
        numbers = (offset, *size.items, *stride.items)
        if not all(isinstance(number, int) and 0 <= number < 2**63 for number in numbers):
            raise Unsafe("a tensor of unusual shape")
        elements = math.prod(size.items)
        steps = zip(size.items, stride.items, strict=True)
        past = offset + 1 + sum((length - 1) * step for length, step in steps) if elements else offset
        if past > storage.count:
            raise Unsafe("a tensor that extends beyond its storage")
        self._viewed += elements * storage.item_bytes
        hold_inflation("its tensors", self._viewed, self.size)

    def storage(self, pid: Any) -> Any:
        """Return the replacement for a storage, after checking that the file holds all of its numbers."""
        if type(pid) is not _Tuple or len(pid.items) < 5 or pid.items[0] != "storage":
            return _OTHER
        _, kind, _, _, count, *view = pid.items
        if type(count) is not int:
            raise Unsafe("a storage of unusual length")
        item_bytes = _ITEM_BYTES.get(str(kind).rpartition(".")[2].removesuffix("Storage"), 1)
        if not 0 <= count * item_bytes <= self.size:
            raise Unsafe("a storage that is longer than the file")
        if view and type(view[0]) is _Tuple:
            _, _, count = view[0].items
        return _Storage(count if type(count) is int else 0, item_bytes)


def _product(value: _Tuple) -> int:
    """Return the product of all numbers in a tuple."""
    product = 1
    for item in value.items:
        if type(item) is _Tuple:
            product *= _product(item)
        elif type(item) is int and item > 1:
            product *= item
        if product > 2**1000:
            break
    return product


def _stop(_: Scan) -> None:
    pass


def _constant(value: Any) -> Callable[[Scan], None]:
    return lambda scan: scan.stack.append(value)


def _whole(length: int, *, signed: bool = False) -> Callable[[Scan], None]:
    def act(scan: Scan) -> None:
        scan.numbers.append((scan.at, scan.at + length))
        scan.stack.append(int.from_bytes(scan.argument(length), "little", signed=signed))

    return act


def _float(scan: Scan) -> None:
    scan.numbers.append((scan.at, scan.at + 8))
    scan.argument(8)
    scan.stack.append(_OTHER)


def _long(scan: Scan) -> None:
    scan.stack.append(int.from_bytes(scan.argument(scan.number(1)), "little", signed=True))


def _text(length_bytes: int) -> Callable[[Scan], None]:
    def act(scan: Scan) -> None:
        length = scan.number(length_bytes)
        text = scan.argument(length)
        scan.stack.append(text.decode("latin-1") if length <= _LONGEST_TEXT else _OTHER)

    return act


def _global(scan: Scan) -> None:
    module, name = scan.line(), scan.line()
    scan.stack.append(_Name(f"{module.replace('__builtin__', 'builtins')}.{name}"))


def _mark(scan: Scan) -> None:
    scan.stacks.append(scan.stack)
    scan.stack = []


def _tuple(scan: Scan) -> None:
    items = scan.to_mark()
    scan.stack.append(_Tuple(items))


def _tuple_of(length: int) -> Callable[[Scan], None]:
    def act(scan: Scan) -> None:
        items = scan.stack[-length:]
        if len(items) < length:
            raise IndexError
        scan.stack[-length:] = [_Tuple(items)]

    return act


def _get(length: int) -> Callable[[Scan], None]:
    return lambda scan: scan.stack.append(scan.memo[scan.number(length)])


def _put(length: int) -> Callable[[Scan], None]:
    def act(scan: Scan) -> None:
        scan.memo[scan.number(length)] = scan.stack[-1]

    return act


def _append(scan: Scan) -> None:
    scan.hash([scan.stack.pop()])


def _appends(scan: Scan) -> None:
    scan.hash(scan.to_mark())


def _set_item(scan: Scan) -> None:
    scan.stack.pop()
    scan.hash([scan.stack.pop()])


def _set_items(scan: Scan) -> None:
    scan.hash(scan.to_mark()[::2])


def _reduce(scan: Scan) -> None:
    arguments = scan.stack.pop()
    scan.stack[-1] = scan.call(scan.stack[-1], arguments)


def _build(scan: Scan) -> None:
    state = scan.stack.pop()
    scan.build(state)


def _persistent(scan: Scan) -> None:
    scan.stack[-1] = scan.storage(scan.stack[-1])


_ACTIONS: dict[int, Callable[[Scan], None]] = {
    opcode[0]: act
    for opcode, act in {
        pickle.STOP: _stop,
        pickle.PROTO: lambda scan: scan.argument(1) and None,
        pickle.MARK: _mark,
        pickle.NONE: _constant(None),
        pickle.NEWTRUE: _constant(_TRUE),
        pickle.NEWFALSE: _constant(_FALSE),
        pickle.EMPTY_TUPLE: _constant(_EMPTY),
        pickle.EMPTY_LIST: _constant(_OTHER),
        pickle.EMPTY_DICT: _constant(_OTHER),
        pickle.EMPTY_SET: _constant(_OTHER),
        pickle.BININT: _whole(4, signed=True),
        pickle.BININT1: _whole(1),
        pickle.BININT2: _whole(2),
        pickle.BINFLOAT: _float,
        pickle.LONG1: _long,
        pickle.BINUNICODE: _text(4),
        pickle.SHORT_BINSTRING: _text(1),
        pickle.GLOBAL: _global,
        pickle.TUPLE: _tuple,
        pickle.TUPLE1: _tuple_of(1),
        pickle.TUPLE2: _tuple_of(2),
        pickle.TUPLE3: _tuple_of(3),
        pickle.BINGET: _get(1),
        pickle.LONG_BINGET: _get(4),
        pickle.BINPUT: _put(1),
        pickle.LONG_BINPUT: _put(4),
        pickle.APPEND: _append,
        pickle.APPENDS: _appends,
        pickle.SETITEM: _set_item,
        pickle.SETITEMS: _set_items,
        pickle.REDUCE: _reduce,
        pickle.NEWOBJ: _reduce,
        pickle.BUILD: _build,
        pickle.BINPERSID: _persistent,
    }.items()
}
