"""Replacements for the globals in a torch pickle: inert stubs, and plain data for plain containers.

torch's safe reader calls only the replacements listed here, with arguments that the file chooses. Each of them
therefore accepts any arguments, looks nothing up, calls nothing, stores no more than the file holds, and has no state
that one file could change for the next.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from regime_proto.schema.types import Array

# No checkpoint needs these. A stub would make them harmless too, but the user should be warned about such a file.
_HOSTILE_MODULES = {
    "asyncio", "code", "codeop", "commands", "ctypes", "importlib", "multiprocessing", "nt", "os", "pickle",
    "posix", "pty", "runpy", "shutil", "signal", "socket", "subprocess", "sys", "webbrowser",
}  # fmt: skip
_HOSTILE_BUILTINS = {"__import__", "breakpoint", "compile", "delattr", "eval", "exec", "open", "setattr"}
# Attributes by which an instance of torch.nn.Module is recognised.
_OF_MODULES = {"_parameters", "_modules"}
_LONGEST_AXIS = 2**48
_PLAIN_DTYPE = re.compile(r"[biufc]\d{1,2}")


class Refused(Exception):
    """A pickle requests something that is refused; the message names it."""


class Kind(type):
    """The type of stubs."""

    # torch's reader sets items only on dicts, and checks by equality whether a type is dict. User classes may be
    # derived from dict, so stubs accept items.
    def __eq__(cls, other: object) -> bool:
        return cls is other or other is dict

    __hash__ = type.__hash__


class Stub(metaclass=Kind):
    """Replaces a class or function of user code: accepts anything, does nothing, stores items like a dict."""

    __slots__ = ("is_module", "items")

    def __new__(cls, *_args: object, **_kwargs: object) -> "Stub":
        """Create an instance; a pickle may or may not call ``__init__`` afterwards."""
        made = super().__new__(cls)
        made.is_module, made.items = False, {}
        return made

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        self.is_module: bool
        self.items: dict[Any, Any]

    def __setstate__(self, state: object) -> None:
        self.is_module = isinstance(state, dict) and state.keys() >= _OF_MODULES

    def __setitem__(self, key: object, value: object) -> None:
        self.items[key] = value


def is_hostile(name: str) -> bool:
    """Whether a global, given as ``module.name``, does something that no checkpoint needs."""
    module, _, attribute = name.rpartition(".")
    root = module.partition(".")[0]
    return root in _HOSTILE_MODULES or (root in ("builtins", "__builtin__") and attribute in _HOSTILE_BUILTINS)


def stand_in(name: str) -> Any:
    """Return the replacement of a global, given as ``module.name``: its own stub, unless it is a known container."""
    module, _, attribute = name.rpartition(".")
    return _KNOWN.get(name) or Kind(attribute, (Stub,), {"__module__": module, "__slots__": ()})


def is_stub(value: object) -> bool:
    """Whether a value is an instance of a stub."""
    return type(type(value)) is Kind


def _attribute(owner: object, name: object, *_default: object) -> Kind:
    """Replace ``getattr``, with which a pickle names nested classes, enum members and bound methods."""
    kind: object = owner if type(owner) is Kind else type(owner)
    # An attribute of a real object may be anything, and could lead to code.
    if not isinstance(kind, Kind) or type(name) is not str:
        raise Refused(f"an attribute {name!r:.50} of a {type(owner).__name__}")
    return kind


def _list(items: object = (), *_longest: object) -> list[Any]:
    """Replace ``collections.deque``."""
    return list(items) if type(items) in (list, tuple) else []  # type: ignore[call-overload]


def _dict(*_factory: object) -> dict[Any, Any]:
    """Replace ``collections.defaultdict``; its factory is never called."""
    return {}


def _frozenset(items: object = ()) -> frozenset[Any]:
    if type(items) not in (list, tuple, set):
        raise Refused("a frozenset of something that is not a list")
    return frozenset(items)  # type: ignore[call-overload, no-any-return]


class _Dtype:
    """Replaces a NumPy dtype."""

    __slots__ = ("code", "order")

    def __new__(cls, code: object = None, *_flags: object) -> "_Dtype":
        made = super().__new__(cls)
        made.code, made.order = str(code), "="
        return made

    def __init__(self, *_arguments: object) -> None:
        self.code: str
        self.order: str

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "="):
            self.order = state[1]

    def found(self) -> np.dtype[Any] | None:
        """Return the dtype if it is that of plain numbers."""
        try:
            return np.dtype(self.order + self.code) if _PLAIN_DTYPE.fullmatch(self.code) else None
        except TypeError:
            return None


class PickledArray:
    """Replaces a NumPy array; `array` is None if it does not hold plain numbers."""

    __slots__ = ("array",)

    def __new__(cls, *_arguments: object) -> "PickledArray":
        """Create an instance without numbers, which follow in its state."""
        made = super().__new__(cls)
        made.array = None
        return made

    def __init__(self, *_arguments: object) -> None:
        self.array: Array | None

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, is_fortran, content = state
            self.array = _array(dtype, shape, content, order="F" if is_fortran is True else "C")


def _array(dtype: object, shape: object, content: object, order: Any) -> Array | None:
    found = dtype.found() if type(dtype) is _Dtype else None
    if found is None or type(shape) is not tuple or type(content) is not bytes:
        return None
    if any(type(length) is not int or not 0 <= length < _LONGEST_AXIS for length in shape) or len(shape) > 32:
        return None
    if math.prod(shape) * found.itemsize != len(content):
        return None
    array = np.frombuffer(content, found).reshape(shape, order=order)
    return array if found.isnative else array.astype(found.newbyteorder("="))


def _scalar(dtype: object = None, content: object = None, *_: object) -> Any:
    """Replace a NumPy scalar; returns None if it is not a plain number."""
    array = _array(dtype, (), content, "C")
    return None if array is None else array[()]


_KNOWN: dict[str, Callable[..., Any]] = {
    "builtins.frozenset": _frozenset,
    "builtins.getattr": _attribute,
    "collections.defaultdict": _dict,
    "collections.deque": _list,
    "numpy.dtype": _Dtype,
    **{
        f"numpy.{core}.multiarray.{name}": known
        for core in ("core", "_core")
        for name, known in (("scalar", _scalar), ("_reconstruct", PickledArray))
    },
}
