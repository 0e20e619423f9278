"""Opens ``.onnx`` files of unknown origin safely: their metadata, and the location of their tensors."""

import ast
import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

import numpy as np
import onnx

from regime_proto.adapters.from_onnx.parts import hold_parts
from regime_proto.checkpoints.limits import NODES
from regime_proto.checkpoints.opening import open_file, read_whole
from regime_proto.checkpoints.payload import Incomplete
from regime_proto.program.values import tensors
from regime_proto.runtime.ir import ir
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.nearest import cannot_open
from regime_proto.schema.types import Array

_SCOPES = "pkg.torch.onnx.name_scopes"

# Field numbers in onnx.ModelProto and onnx.StringStringEntryProto.
_METADATA_PROPS = 14
_KEY, _VALUE = 1, 2
_LARGEST_ENTRY = 2**20
_FIXED_LENGTHS = {1: 8, 5: 4}


class _CutOff(ValueError):
    """The end of a file is missing."""


def metadata_of(path: Path) -> dict[str, str]:
    """Return the model's metadata, skipping the tensors before it.

    Raises
    ------
    RegimeError
        The file is damaged.
    """
    try:
        with open_file(path) as file:
            end = path.stat().st_size
            if not end:
                raise _CutOff("a field goes beyond the end")
            entries = [
                (start, length)
                for number, start, length in _fields(file, end)
                if number == _METADATA_PROPS and length <= _LARGEST_ENTRY
            ]
            return dict(_entry(file, start, start + length) for start, length in entries)
    except _CutOff as error:
        raise Incomplete(str(_damaged(path, error))) from None
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None


def open_model(path: Path) -> ir.Model:
    """Read a model; tensors in other files are mapped when needed, and must be in the model's folder.

    Raises
    ------
    RegimeError
        The file is damaged, or refers to data outside its folder or beyond the end of a file.
    """
    try:
        content = read_whole(path)
        hold_parts(content, path)
        proto = onnx.ModelProto.FromString(content)
    except OSError as error:
        raise RegimeError(cannot_open(path, error)) from None
    except RegimeError:
        raise
    except Exception as error:
        raise _damaged(path, error) from None
    return model_of(proto, str(path), path.absolute().parent)


def model_of(proto: onnx.ModelProto, where: str, folder: Path | None) -> ir.Model:
    """Convert a model that was read from `folder`, which is None if it was not read from a file.

    Raises
    ------
    RegimeError
        See `open_model`.
    """
    if not proto.graph.node:
        raise RegimeError(f"{where}: not an ONNX model, or incomplete (it has no nodes); export it again")
    if proto.graph.sparse_initializer:
        raise RegimeError(f"{where}: has sparse initializers, which are not supported; export it with dense ones")
    try:
        model: ir.Model = ir.from_proto(proto)
    except Exception as error:
        raise _damaged(where, error) from None
    for tensor in tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            if folder is None:
                raise RegimeError(f"{where}: tensor {tensor.name!r} is in another file; pass the path of the model")
            _check_external(tensor, folder, where)
            tensor.base_dir = folder
    return model


def array_of(value: ir.Value, where: str) -> Array:
    """Return the array of an initializer.

    Raises
    ------
    RegimeError
        It is damaged.
    """
    tensor = value.const_value
    if tensor is None:
        raise RegimeError(f"{where}: tensor {value.name!r} has no data")
    try:
        array: Array = tensor.numpy()
    except Exception as error:
        raise _damaged(f"{where}: tensor {value.name!r}", error) from None
    if array.shape != tuple(tensor.shape):
        raise _damaged(
            where, f"tensor {value.name!r} has shape {list(array.shape)}, but is declared as {list(tensor.shape)}"
        )
    # Data in another file may start at any offset.
    return np.require(array, requirements=["C", "A"])


def module_path(metadata: Mapping[str, str]) -> str:
    """Return the path of the innermost torch module, from the scopes that torch's exporter stores at a node."""
    with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        names = ast.literal_eval(metadata.get(_SCOPES, "[]"))
        return str(names[-2]) if len(names) > 1 else ""
    return ""


@contextlib.contextmanager
def silent(name: str) -> Iterator[None]:
    """Prevent a library from logging errors that regime reports itself."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check_external(tensor: ir.ExternalTensor, folder: Path, where: str) -> None:
    """Refuse data outside the folder before opening it."""
    location = str(tensor.location)
    named = f"{where}: tensor {tensor.name!r} is stored in {location!r}"
    # Paths of both systems, since a file may have been written on the other one.
    if any(kind(location).anchor or ".." in kind(location).parts for kind in (PurePosixPath, PureWindowsPath)):
        raise RegimeError(
            f"{named}, outside the model's folder; refused, move the file into the folder and export it again"
        )
    path = folder / location
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RegimeError(
            f"{named}, a link that leads outside the model's folder; refused, copy the file itself into the folder"
        )
    if not path.is_file():
        raise RegimeError(f"{named}, but there is no such file; put it next to the model")
    status = path.stat()
    if status.st_nlink > 1:
        raise RegimeError(
            f"{named}, which has other hard links and may therefore be a file from elsewhere; refused, copy the file"
        )
    start, length = tensor.offset or 0, tensor.nbytes if tensor.length is None else tensor.length
    if start < 0 or length != tensor.nbytes or start + length > status.st_size:
        raise RegimeError(
            f"{named}, bytes {start} to {start + length}: expected {tensor.nbytes} bytes in a file of "
            f"{status.st_size}; damaged or incomplete, export it again"
        )


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and length of the fields of a protobuf message, from the current position to `end`."""
    position, count = file.tell(), 0
    while position < end:
        count += 1
        NODES.hold("a model or its metadata", count, "fields")
        file.seek(position)
        number, wire = divmod(_varint(file), 8)
        if wire == 2:
            length = _varint(file)
            start = file.tell()
        elif wire == 0:
            start = file.tell()
            _varint(file)
            length = file.tell() - start
        else:
            start, length = file.tell(), _FIXED_LENGTHS.get(wire, end)
        position = start + length
        if number == 0 or position > end:
            raise _CutOff("a field goes beyond the end")
        yield number, start, length


def _entry(file: BinaryIO, start: int, end: int) -> tuple[str, str]:
    file.seek(start)
    texts = {_KEY: "", _VALUE: ""}
    for number, begin, length in _fields(file, end):
        file.seek(begin)
        texts[number] = file.read(length).decode()
    return texts[_KEY], texts[_VALUE]


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise _CutOff("a number is cut off")


def _damaged(where: object, error: object) -> RegimeError:
    reason = " ".join(str(error).split())
    return RegimeError(f"{where}: not an ONNX model, or damaged or incomplete ({reason}); export it again")
