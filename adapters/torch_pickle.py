"""Loads torch files safely: classes that torch does not trust become inert stubs, never code."""

import io
import pickle
import pickletools
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from regime_proto.adapters import pickle_scan
from regime_proto.adapters.mapped import dtype_named
from regime_proto.schema.errors import RegimeError

from regime_proto.opening import open_file
from regime_proto.payload import NotDense

# No checkpoint needs these. A stub would make them harmless too, but the user should know of such a file.
_HOSTILE_MODULES = {
    "asyncio", "code", "codeop", "commands", "ctypes", "importlib", "multiprocessing", "nt", "os", "pickle",
    "posix", "pty", "runpy", "shutil", "signal", "socket", "subprocess", "sys", "webbrowser",
}  # fmt: skip
_HOSTILE_BUILTINS = {
    "__import__", "breakpoint", "compile", "delattr", "eval", "exec", "getattr", "open", "setattr",
}  # fmt: skip

# Numbers that were saved as numpy scalars: data, not code.
_NUMPY: dict[str, Any] = {
    "numpy._core.multiarray.scalar": np._core.multiarray.scalar,  # type: ignore[attr-defined]
    "numpy.core.multiarray.scalar": np._core.multiarray.scalar,  # type: ignore[attr-defined]
    "numpy.dtype": np.dtype,
}
_NUMPY_DTYPES = [type(np.dtype(code)) for code in "?bBhHiIlLqQefdg"]

# torch keeps the list of safe globals for the whole process.
_STUBS_IN_USE = threading.Lock()


class _Stub:
    """Stands for a class of the user's code: takes anything, does nothing."""

    def __new__(cls, *_args: object, **_kwargs: object) -> "_Stub":
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def load(path: Path) -> Any:
    """Return what a torch file holds.

    Tensors in its dict and in the dicts of that are arrays, mapped into memory where the format allows it. Those
    that cannot be arrays are `NotDense`.

    Raises
    ------
    RegimeError
        The file is damaged, or names globals that no checkpoint needs.
    """
    try:
        pickle_scan.check(path)
        return _with_arrays(_load(path))
    except RegimeError:
        raise
    except Exception as error:
        raise RegimeError(
            f"{path}: damaged, incomplete or no torch checkpoint ({_first_line(error)}); save it again or remove it"
        ) from None


def load_part(content: bytes, where: str) -> Any:
    """Return what a part of a file holds that torch saved; a tensor is an array.

    Raises
    ------
    RegimeError
        It is damaged, or holds what torch does not load safely.
    """
    try:
        pickle_scan.check_content(content, where)
        return _array(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    except RegimeError:
        raise
    except Exception as error:
        raise RegimeError(f"{where}: damaged or unsafe ({_first_line(error)}); save it again or remove it") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _load(path: Path) -> Any:
    try:
        return _torch_load(path)
    except (pickle.UnpicklingError, KeyError):
        # What another thread has declared safe would not be found to need a stub, and be gone when it is needed. Gone
        # between torch's two looks at its list, it is a missing key.
        with _STUBS_IN_USE, torch.serialization.safe_globals(_stubs(path)):
            return _torch_load(path)


def _torch_load(path: Path) -> Any:
    # The format before torch 1.6 is a plain stream of pickles and cannot be mapped.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))


def _with_arrays(payload: Any) -> Any:
    if not isinstance(payload, Mapping):
        return payload
    return {
        key: {name: _array(inner) for name, inner in value.items()} if isinstance(value, Mapping) else _array(value)
        for key, value in payload.items()
    }


def _array(value: Any) -> Any:
    """Return a tensor as an array, in ml_dtypes' dtype where numpy has none; anything else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        return NotDense("sparse or quantized")
    tensor = value.detach().resolve_conj().resolve_neg()
    name = str(tensor.dtype).removeprefix("torch.")
    try:
        if name != "bfloat16" and not name.startswith("float8"):
            return tensor.numpy()
        bits = torch.uint16 if tensor.itemsize == 2 else torch.uint8
        return tensor.view(bits).numpy().view(dtype_named(name))
    except TypeError:
        return NotDense(f"of {name}")


def _is_zip(path: Path) -> bool:
    with open_file(path) as file:
        return file.read(4) == b"PK\x03\x04"


def _stubs(path: Path) -> list[Any]:
    """Return a stub for every global that torch does not trust, as its list of safe globals takes them."""
    stubs: list[Any] = list(_NUMPY_DTYPES)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if _is_zip(path) else _old_globals(path)
    for name in names:
        module, _, attribute = name.rpartition(".")
        root = module.partition(".")[0]
        if root in _HOSTILE_MODULES or (root in ("builtins", "__builtin__") and attribute in _HOSTILE_BUILTINS):
            raise RegimeError(
                f"{path}: refused: the pickle calls {name}, which no checkpoint needs; do not trust this file"
            )
        known = _NUMPY.get(name) or type(attribute, (_Stub,), {"__module__": module})
        stubs.append((known, name))
    return stubs


def _old_globals(path: Path) -> list[str]:
    """Return the globals in a stream of pickles; torch looks up those it trusts before any stub."""
    names = set()
    with open_file(path) as file:
        # Magic number, protocol version, system information, payload.
        for _ in range(4):
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    names.add(str(argument).replace(" ", "."))
                elif opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
                    raise RegimeError(f"{path}: refused: not a pickle that torch writes; do not trust this file")
    return sorted(names)
