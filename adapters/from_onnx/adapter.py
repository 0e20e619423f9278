"""Reads ``.onnx`` files as checkpoints, and converts any ONNX model to a program."""

import contextlib
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from regime_proto.adapters.from_onnx.file import array_of, metadata_of, model_of, module_path, open_model, silent
from regime_proto.checkpoints.opening import open_file
from regime_proto.checkpoints.payload import TOP, Label, Payload, label_of, parsed
from regime_proto.engine.trial import require_runnable
from regime_proto.engine.variants import Outline
from regime_proto.program.exported import Origin, exported_program, forget_origin
from regime_proto.program.initializers import GatherInitializers
from regime_proto.program.probe import Probe
from regime_proto.program.program import METADATA_KEY, Program, Tensor
from regime_proto.program.rewrite import LiftWeights, NameNodes, StripMetadata
from regime_proto.program.trainable_weights import find_weights
from regime_proto.runtime.ir import ir
from regime_proto.schema.dtypes import widest
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

SUFFIXES = (".onnx",)
MODELS = "an ONNX model"

_OLDEST_OPSET = 7
# Tags of the fields of onnx.ModelProto, from ir_version to opset_import.
_FIRST_BYTES = b"\x08\x12\x1a\x22\x28\x32\x3a\x42"
# Its first field and the valid values: TensorFlow's models begin with the same field and a 1.
_VERSION, _VERSIONS = b"\x08", range(3, 64)


def sniff(start: bytes) -> bool:
    """Whether a file begins with the ONNX format version, followed by another field of a model."""
    return start[:1] == _VERSION and len(start) > 2 and start[1] in _VERSIONS and start[2] in _FIRST_BYTES[1:]


def recognise(path: Path) -> str | None:
    """Recognise an ONNX model by its first byte, unless it is a program of regime; an empty file counts as damaged."""
    if not path.is_file():
        return None
    with open_file(path) as file:
        start = file.read(1)
    if start not in _FIRST_BYTES:
        return None
    try:
        return None if METADATA_KEY in metadata_of(path) else "an ONNX model with its weights"
    except RegimeError:
        return "a damaged ONNX model"


def peek(path: Path) -> Label:
    """Return step, epoch and metrics from the model's metadata."""
    return label_of(parsed(metadata_of(path)))


def read(path: Path) -> Payload:
    """Read the weights of a model under the names of its initializers."""
    with _sound(str(path)):
        model = open_model(path)
        facts = parsed(model.metadata_props)
        return Payload({TOP: _arrays(model, _weights(model, str(path)), str(path))}, facts)


def program_of(path: Path, probe: Probe) -> Program:
    """Return the program of a checkpoint, which is also a model; see `export`."""
    require_runnable(path, probe, f"{__name__}:take")
    return take(path, probe)


def take(path: Path, probe: Probe) -> Program:
    """Convert a model to a program, running it on the probe in this process."""
    with _sound(str(path)), silent("onnx_ir"):
        return _program(open_model(path), probe, str(path))


def outline(path: Path) -> Outline:
    """Return an outline that is equal for files that differ only in their weights."""
    with _sound(str(path)), silent("onnx_ir"):
        model = open_model(path)
        roles = _weights(model, str(path))
        tensors = {name: model.graph.initializers[name].const_value for name in roles}
        shapes = {name: tuple(tensor.shape.numpy()) for name, tensor in tensors.items() if tensor is not None}
        LiftWeights({name: name for name in roles})(model)
        NameNodes()(model)
        StripMetadata({})(model)
        for value in (value for node in model.graph.all_nodes() for value in node.outputs):
            # Exporters describe intermediate values differently, but these follow from the graph.
            value.shape = value.type = None
        forget_origin(model)
        model.metadata_props.clear()
        content = ir.to_proto(model).SerializeToString(deterministic=True)
        return Outline(hashlib.sha256(content).hexdigest(), shapes)


def accepts(model: object) -> bool:
    """Whether `model` is the path of an ``.onnx`` file or an `onnx.ModelProto`."""
    if isinstance(model, str | Path):
        return Path(model).suffix.lower() in SUFFIXES
    onnx = sys.modules.get("onnx")
    return onnx is not None and isinstance(model, onnx.ModelProto)


def export(model: object, probe: Probe) -> Program:
    """Convert an ONNX model to a program, whose inputs are the weights under the names of the initializers.

    Parameters
    ----------
    model : path or onnx.ModelProto
        The model, which stays unchanged. Weights are inferred from the operators that use them.
    probe : Probe

    Raises
    ------
    RegimeError
        The model is damaged, refers to data outside its folder, does not run on the probe, or has no weights.
    """
    if isinstance(model, str | Path):
        return program_of(Path(model), probe)
    content = type(model)()
    content.CopyFrom(model)  # type: ignore[attr-defined]
    with _sound("model"), silent("onnx_ir"):
        return _program(model_of(content, "model", None), probe, "model")


def _program(model: ir.Model, probe: Probe, where: str) -> Program:
    held = {
        str(name): tuple(value.const_value.shape.numpy())
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }
    roles = _weights(model, where)
    weights = _arrays(model, roles, where)
    framework = {model.producer_name or "onnx": model.producer_version or "unknown"}
    arrays = probe.bind([str(value.name) for value in model.graph.inputs])
    LiftWeights({name: name for name in roles})(model)
    NameNodes()(model)
    paths = {str(node.name): module_path(node.metadata_props) for node in model.graph.all_nodes()}
    return exported_program(
        model,
        tensors=[
            Tensor(name, weights[name].shape, role and not _is_mask(weights[name])) for name, role in roles.items()
        ],
        weights=weights,
        probe=arrays,
        origin=Origin(where, framework, paths),
        # Inputs that set the mode of the model, which may branch on them.
        fixed={name: array.item() for name, array in arrays.items() if array.ndim == 0},
        beside=held,
    )


def _weights(model: ir.Model, where: str) -> dict[str, bool]:
    """Return the names of the weights, and whether training changes them; normalises the graph in place."""
    opset = model.opset_imports.get("", _OLDEST_OPSET)
    if opset < _OLDEST_OPSET:
        raise RegimeError(
            f"{where}: operator set version {opset}; expected {_OLDEST_OPSET} or newer; convert it with "
            "onnx.version_converter"
        )
    GatherInitializers()(model)
    roles = find_weights(model)
    if not any(roles.values()):
        raise RegimeError(
            f"{where}: none of its {len(model.graph.initializers)} initializers is the weight of a layer; expected a "
            "model that contains its weights, neither folded into other constants nor passed as inputs"
        )
    return roles


def _arrays(model: ir.Model, names: dict[str, bool], where: str) -> dict[str, Array]:
    return {name: array_of(model.graph.initializers[name], where) for name in names}


def _is_mask(array: Array) -> bool:
    """Whether an added tensor holds −Inf, as attention masks do but weights never do: it cannot be subtracted."""
    return bool(np.isneginf(widest(array)).any())


@contextlib.contextmanager
def _sound(where: str) -> Iterator[None]:
    """Convert errors of the libraries on a damaged graph to an error in one line."""
    try:
        yield
    except RegimeError as error:
        # Names in a damaged file may hold anything, also line ends and terminal escape sequences.
        text = "".join(letter if letter.isprintable() else "?" for letter in str(error))
        raise type(error)(text) from None
    except Exception as error:
        lines = str(error.__cause__ or error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise RegimeError(f"{where}: the graph is damaged ({reason}); export it again") from None
