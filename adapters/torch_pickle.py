"""Loads torch files safely: classes that torch does not trust become inert stubs, never code."""

import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from regime_proto.schema.errors import RegimeError

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
    """Return what a torch file holds; tensors are mapped into memory where the format allows it.

    Raises
    ------
    RegimeError
        The file is damaged, or names globals that no checkpoint needs.
    """
    try:
        try:
            return _load(path)
        except pickle.UnpicklingError:
            stubs = _stubs(path)
            with _STUBS_IN_USE, torch.serialization.safe_globals(stubs):
                return _load(path)
    except RegimeError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise RegimeError(
            f"{path}: damaged, incomplete or no torch checkpoint ({reason}); save it again or remove it"
        ) from None


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    # The format before torch 1.6 is a plain pickle stream and cannot be mapped.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def _stubs(path: Path) -> list[Any]:
    stubs: list[Any] = list(_NUMPY_DTYPES)
    for name in torch.serialization.get_unsafe_globals_in_checkpoint(path):
        module, _, attribute = name.rpartition(".")
        root = module.partition(".")[0]
        if root in _HOSTILE_MODULES or (root == "builtins" and attribute in _HOSTILE_BUILTINS):
            raise RegimeError(
                f"{path}: refused: the pickle calls {name}, which no checkpoint needs; do not trust this file"
            )
        known = _NUMPY.get(name) or type(attribute, (_Stub,), {"__module__": module})
        stubs.append((known, name))
    return stubs
