"""Loads torch files safely: classes that torch does not trust become inert stubs, never code."""

import io
import pickle
import pickletools
import threading
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from regime_proto.adapters.advice.torch_files import of_objects
from regime_proto.adapters.first_bytes import ZIP, first_content, first_entry
from regime_proto.adapters.from_torch import pickle_scan
from regime_proto.adapters.from_torch.stubs import PickledArray, Refused, is_hostile, is_stub, stand_in
from regime_proto.adapters.mapped import dtype_named
from regime_proto.checkpoints.opening import open_file, read_start
from regime_proto.checkpoints.payload import NotDense
from regime_proto.plugins.protocols import FIRST_BYTES
from regime_proto.schema.errors import RegimeError

# torch keeps one list of safe globals for the whole process.
_STUBS_IN_USE = threading.Lock()
_PROTOCOL = 2
# Depth of nested dicts beyond which no weights are expected.
_DEEPEST = 6


def load(path: Path) -> Any:
    """Return the content of a torch file.

    Tensors in its nested dicts become arrays, mapped into memory if the format allows it. Those that cannot be arrays
    become `NotDense`. Objects of user classes become stubs; see `stubs`.

    Raises
    ------
    RegimeError
        The file is damaged, names globals that no checkpoint needs, or holds objects that need code to be read.
    """
    try:
        pickle_scan.check(path)
        return _with_arrays(_load(path))
    except RegimeError:
        raise
    except (Refused, pickle.UnpicklingError) as error:
        raise RegimeError(of_objects(path, _reason(error))) from None
    except Exception as error:
        raise RegimeError(
            f"{path}: damaged, incomplete or not a torch checkpoint ({_first_line(error)}); save it again or remove it"
        ) from None


def load_part(content: bytes, where: str) -> Any:
    """Return the content of a part of a file that torch saved, with tensors as arrays.

    Raises
    ------
    RegimeError
        The part is damaged, or holds something that torch does not load safely.
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
    protocol = _protocol(path)
    if protocol not in (None, _PROTOCOL):
        # torch would warn about it, and then fail.
        raise Refused(f"pickle protocol {protocol}; expected {_PROTOCOL}, the default of torch.save")
    try:
        return _torch_load(path)
    except (pickle.UnpicklingError, KeyError):
        # A global that another thread has declared safe would seem to need no stub, and could be removed before it is
        # used. If it is removed between torch's two reads of its list, a KeyError results.
        with _STUBS_IN_USE, torch.serialization.safe_globals(_stubs(path)):
            return _torch_load(path)


def _protocol(path: Path) -> int | None:
    """Return the protocol of the pickle at the start of a file, if it is stated."""
    start = read_start(path, FIRST_BYTES)
    content = first_content(start) if (first_entry(start) or "").endswith("data.pkl") else start
    return content[1] if content[:1] == b"\x80" and len(content) > 1 else None


def _torch_load(path: Path) -> Any:
    # The format before torch 1.6 is a plain stream of pickles and cannot be mapped.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))


def _reason(error: Exception) -> str:
    """Return the reason why the reader failed, without torch's advice to load the file unsafely."""
    said = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[0].partition(" Please use `torch")[0][:200] if lines else type(error).__name__


def _with_arrays(payload: Any) -> Any:
    has_tensors = _holds_tensors(payload)
    return _converted(payload, arrays=not has_tensors)


def _mapping(value: Any) -> Mapping[Any, Any] | None:
    """Return the items of a dict, or of a user class derived from dict."""
    if is_stub(value) and value.items:
        items: Mapping[Any, Any] = value.items
        return items
    return value if isinstance(value, Mapping) else None


def _holds_tensors(value: Any, depth: int = 0) -> bool:
    inner = _mapping(value) if depth < _DEEPEST else None
    if inner is None:
        return isinstance(value, torch.Tensor)
    return any(_holds_tensors(part, depth + 1) for part in inner.values())


def _converted(value: Any, *, arrays: bool, depth: int = 0) -> Any:
    """Return tensors in nested dicts as arrays; NumPy arrays are kept only if `arrays`, not next to tensors."""
    inner = _mapping(value) if depth < _DEEPEST else None
    if inner is not None:
        return {key: _converted(part, arrays=arrays, depth=depth + 1) for key, part in inner.items()}
    if type(value) is PickledArray:
        return value.array if arrays else None
    return _array(value)


def _array(value: Any) -> Any:
    """Return a tensor as an array, with a dtype of ml_dtypes if NumPy has none; anything else unchanged."""
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
        return file.read(4) == ZIP


def _stubs(path: Path) -> list[Any]:
    """Return a replacement for every global that torch does not trust, in the form of its list of safe globals."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if _is_zip(path) else _old_globals(path)
    hostile = next((name for name in sorted(names) if is_hostile(name)), None)
    if hostile is not None:
        raise RegimeError(
            f"{path}: refused: the pickle calls {hostile}, which no checkpoint needs; do not trust this file"
        )
    return [(stand_in(name), name) for name in names]


def _old_globals(path: Path) -> list[str]:
    """Return the globals in a stream of pickles; torch looks up those that it trusts before any stub."""
    names = set()
    with open_file(path) as file:
        # Pickles: magic number, protocol version, system information, payload.
        for _ in range(4):
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    module, _, name = str(argument).partition(" ")
                    # torch does the same, since pickles of Python 2 and of protocol 2 use its names.
                    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
                    names.add(f"{module}.{name}")
                elif opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
                    raise Refused(f"{opcode.name}, in a pickle of a different protocol from the default of torch.save")
    return sorted(names)
