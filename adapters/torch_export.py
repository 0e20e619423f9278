"""Exports a torch module as a program: the forward graph in evaluation mode, with its weights as inputs."""

import contextlib
import copy
import inspect
import warnings
from collections.abc import Collection, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from regime_proto.adapters import exported_program
from regime_proto.adapters.onnx_file import module_path, silent
from regime_proto.schema.errors import RegimeError
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from regime_proto.engine.graph.control_flow import InlineConstantBranches
from regime_proto.engine.graph.program import Program, Tensor
from regime_proto.engine.graph.rewrite import LiftWeights, NameNodes, StripMetadata
from regime_proto.probe import Probe, ProbeError

_NOT_FLOAT32 = (torch.float64, torch.float16, torch.bfloat16, torch.uint8)


def export(model: nn.Module, probe: Probe) -> Program:
    """Export `model`; its mode and its weights are left as they were.

    Raises
    ------
    RegimeError
        The model does not run on the probe, has nothing to train, or cannot be exported.
    """
    arrays = probe.bind(_input_names(model, probe))
    with _evaluating(model) as evaluated:
        device = next((tensor.device for tensor in evaluated.state_dict().values()), torch.device("cpu"))
        inputs = {name: torch.from_numpy(array.copy()).to(device) for name, array in arrays.items()}
        _try_forward(evaluated, inputs, probe)
        exported = _export(evaluated, type(model).__name__, inputs)
    trainable = {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    values = {name: (tensor, id(tensor)) for name, tensor in model.state_dict(keep_vars=True).items()}
    return _program(exported, _tensors(values, trainable, type(model).__name__), list(arrays))


def export_file(path: Path, probe: Probe) -> Program:
    """Take a ``.pt2`` file, a program of `torch.export`, as the model.

    Raises
    ------
    RegimeError
        See `exported_program`; or it has nothing to train.
    """
    program = exported_program.load(path)
    arrays = exported_program.bind(program, probe, str(path))
    exported = _export(program, str(path), {})
    state = program.state_dict
    trainable = {name for name in program.graph_signature.parameters if state[name].requires_grad}
    # Tied tensors were one storage when they were saved.
    values = {
        name: (tensor, (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else name)
        for name, tensor in state.items()
    }
    return _program(exported, _tensors(values, trainable, str(path)), list(arrays))


def _program(exported: Any, tensors: tuple[Tensor, ...], inputs: list[str]) -> Program:
    names = {alias: tensor.name for tensor in tensors for alias in (tensor.name, *tensor.aliases)}
    InlineConstantBranches(weights=names)(exported)
    paths = {str(node.name): module_path(node.metadata_props) for node in exported.graph}
    for rewrite in (StripMetadata(paths), NameNodes(), LiftWeights(names)):
        rewrite(exported)
    return Program.from_model(exported, tensors=tensors, probe_inputs=inputs, framework={"torch": torch.__version__})


def _input_names(model: nn.Module, probe: Probe) -> list[str]:
    parameters = inspect.signature(model.forward).parameters.values()
    names = [
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    if not names and probe.names is not None:
        return list(probe.names)
    return names


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the model in evaluation mode and at least float32, and put its modes back afterwards."""
    if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in model.state_dict().values()):
        model = copy.deepcopy(model).float()
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes.items():
            module.training = training


def _try_forward(model: nn.Module, inputs: dict[str, torch.Tensor], probe: Probe) -> None:
    """Run the model once: its own error on a wrong probe is clearer than the exporter's."""
    found = ", ".join(f"{name}: {str(value.dtype)[6:]}{list(value.shape)}" for name, value in inputs.items())
    try:
        with torch.no_grad():
            model(**inputs)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        hint = ""
        if any(value.dtype in _NOT_FLOAT32 for value in inputs.values()):
            hint = "; the model is run in float32: save the probe with array.astype('float32')"
        raise ProbeError(f"{probe.where}: the model fails on the probe ({found}): {reason}{hint}") from None


def _export(model: Any, where: str, inputs: dict[str, torch.Tensor]) -> Any:
    with warnings.catch_warnings(), silent("torch"), sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            # With optimize=True initializers are folded and merged, and other weights give wrong results.
            exported = torch.onnx.export(model, (), kwargs=inputs, dynamo=True, optimize=False, verbose=False)
        except Exception as error:
            lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
            reason = lines[0] if lines else type(error).__name__
            raise RegimeError(f"{where}: torch cannot export this model: {reason}") from None
    assert exported is not None  # noqa: S101
    return exported.model


def _tensors(
    values: Mapping[str, tuple[torch.Tensor, Hashable]], trainable: Collection[str], where: str
) -> tuple[Tensor, ...]:
    """Return every tensor of a state dict; tied ones, which have one identity, once under their first name."""
    if not trainable:
        raise RegimeError(f"{where}: no parameter has requires_grad; there is nothing to measure")
    by_identity: dict[Hashable, list[str]] = {}
    for name, (value, identity) in values.items():
        if isinstance(value, torch.Tensor):
            by_identity.setdefault(identity, []).append(name)
    return tuple(
        Tensor(first, tuple(values[first][0].shape), first in trainable, tuple(aliases))
        for first, *aliases in by_identity.values()
    )
