"""Exports a torch module as a program: the forward graph in evaluation mode, with the weights as inputs."""

import contextlib
import copy
import re
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from regime_proto.adapters.from_onnx.file import module_path, silent
from regime_proto.adapters.from_torch import exported_program
from regime_proto.adapters.from_torch.inputs import Arguments, program_names, rename_inputs
from regime_proto.adapters.from_torch.tracing import tracing
from regime_proto.engine.trial import require_runnable
from regime_proto.program.control_flow import InlineConstantBranches
from regime_proto.program.probe import Probe, ProbeError
from regime_proto.program.probe_advice import all_described, tried
from regime_proto.program.program import Program, Tensor
from regime_proto.program.rewrite import LiftWeights, NameNodes, StripMetadata
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

# Location of the line of the model in torch's message about a branch.
_LINE = re.compile(r'File "([^"]+)", line (\d+), in \w+\s+(.+)')
_UNKNOWN = re.compile(r"Error when translating node .*?\[target=torch\.ops\.(\S+?)\]", re.DOTALL)
# Number of weights above which a forward pass takes minutes.
_LARGE = 2**30
_INSTEAD = "or export it to ONNX by other means, and pass --model FILE.onnx"


@dataclass(frozen=True)
class Exported:
    """A module as a program.

    Parameters
    ----------
    program : Program
    exported : torch.export.ExportedProgram
        The program in torch's format, from which `program` was created; names of operators and values are the same.
    inputs : mapping of str to str
        The input of `program` for each input of `exported`.
    """

    program: Program
    exported: Any
    inputs: Mapping[str, str]


def export(
    model: nn.Module,
    probe: Probe,
    *,
    aliases: Mapping[str, Collection[str]] | None = None,
    unused: Collection[Tensor] = (),
    framework: Mapping[str, str] | None = None,
) -> Program:
    """Export `model`; its mode and its weights stay unchanged.

    See `export_both`.
    """
    return export_both(model, probe, aliases=aliases, unused=unused, framework=framework).program


def export_both(
    model: nn.Module,
    probe: Probe,
    *,
    aliases: Mapping[str, Collection[str]] | None = None,
    unused: Collection[Tensor] = (),
    framework: Mapping[str, str] | None = None,
) -> Exported:
    """Export `model` as a program, and as the `torch.export.ExportedProgram` from which it is created.

    The mode and the weights of the model stay unchanged.

    Parameters
    ----------
    model : torch.nn.Module
    probe : Probe
    aliases : mapping of str to collection of str, optional
        Further names of tensors in checkpoints, by their name in the model.
    unused : collection of Tensor
        Tensors in checkpoints that the model does not use.
    framework : mapping of str to str, optional
        Names and versions of the model's libraries other than PyTorch.

    Raises
    ------
    RegimeError
        The model does not run on the probe, has no trainable parameter, or cannot be exported.
    """
    where, arguments = type(model).__name__, Arguments.of(model, probe)
    state = model.state_dict(keep_vars=True)
    with _evaluating(model) as evaluated:
        device = next((tensor.device for tensor in evaluated.state_dict().values()), torch.device("cpu"))
        inputs = {name: torch.from_numpy(array.copy()).to(device) for name, array in arguments.arrays.items()}
        outputs = _try_forward(evaluated, arguments, inputs, probe)
        aliases_of = arguments.aliases(state)
        with arguments.exportable(evaluated, aliases_of, outputs):
            both = _export(evaluated, where, {aliases_of[name]: tensor for name, tensor in inputs.items()})
    trainable = {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    otherwise = sorted(trainable - state.keys())
    if otherwise:
        raise RegimeError(
            f"{where}: its state dict has a different name for {otherwise[0]}; pass the model without the wrappers of "
            "activation checkpointing"
        )
    values = {name: (tensor, id(tensor)) for name, tensor in state.items()}
    tensors = (*_with_aliases(_tensors(values, trainable, where), aliases or {}), *unused)
    names = program_names(inputs, {name for tensor in tensors for name in tensor.names})
    exported = both.exported_program
    in_order = [names[argument] for argument in _in_order(exported, aliases_of)]
    placeholders = dict(zip(exported.graph_signature.user_inputs, in_order, strict=True))
    program = _program(both.model, tensors, placeholders, list(names.values()), framework or {})
    return Exported(program, exported, placeholders)


def _in_order(exported: Any, aliases: Mapping[str, str]) -> list[str]:
    """Return the arguments of a module in the order of the inputs of its export."""
    names = {alias: name for name, alias in aliases.items()}
    return [names[alias] for alias in exported.call_spec.in_spec.child(1).context]


def export_file(path: Path, probe: Probe) -> Program:
    """Convert a ``.pt2`` file, a program of `torch.export`, in a separate process.

    Raises
    ------
    RegimeError
        See `exported_program`; or it has no trainable parameter, or exceeds the limits of `trial`.
    """
    require_runnable(path, probe, f"{__name__}:take_file")
    return take_file(path, probe)


def take_file(path: Path, probe: Probe) -> Program:
    """Convert a ``.pt2`` file in this process."""
    program = exported_program.load(path)
    arrays = exported_program.bind(program, probe, str(path))
    exported = _export(program, str(path), {}).model
    state = program.state_dict
    trainable = {name for name in program.graph_signature.parameters if state[name].requires_grad}
    # Tied tensors shared one storage when they were saved.
    values = {
        name: (tensor, (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else name)
        for name, tensor in state.items()
    }
    tensors = _tensors(values, trainable, str(path))
    names = program_names(arrays, {name for tensor in tensors for name in tensor.names})
    return _program(exported, tensors, names, list(names.values()), {})


def _program(
    exported: Any,
    tensors: tuple[Tensor, ...],
    renamed: Mapping[str, str],
    inputs: list[str],
    framework: Mapping[str, str],
) -> Program:
    names = {alias: tensor.name for tensor in tensors for alias in tensor.names}
    rename_inputs(exported, renamed)
    InlineConstantBranches(weights=names)(exported)
    paths = {str(node.name): module_path(node.metadata_props) for node in exported.graph}
    for rewrite in (StripMetadata(paths), NameNodes(), LiftWeights(names)):
        rewrite(exported)
    versions = {"torch": torch.__version__, **framework}
    return Program.from_model(exported, tensors=tensors, probe_inputs=inputs, framework=versions)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the model in evaluation mode and in float32 or wider, and restore its modes afterwards."""
    if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in model.state_dict().values()):
        model = copy.deepcopy(model).float()
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes.items():
            module.training = training


def _try_forward(model: nn.Module, arguments: Arguments, inputs: dict[str, torch.Tensor], probe: Probe) -> Any:
    """Run the model once and return its outputs; its own error on a wrong probe is clearer than the exporter's."""

    def run(values: dict[str, torch.Tensor]) -> Any:
        with torch.no_grad():
            positional, keywords = arguments.split(values)
            return model(*positional, **keywords)

    def run_arrays(arrays: Mapping[str, Array]) -> Any:
        return run({name: torch.from_numpy(array).to(inputs[name].device) for name, array in arrays.items()})

    if sum(parameter.numel() for parameter in model.parameters()) > _LARGE:
        # Shapes suffice, unless the forward depends on values.
        with silent("torch"), contextlib.suppress(Exception), FakeTensorMode(allow_non_fake_inputs=True):
            return run(inputs)
    try:
        return run(inputs)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        found, advice = all_described(arguments.arrays), tried(arguments.arrays, run_arrays)
        raise ProbeError(f"{probe.where}: the model fails on the probe ({found}): {reason}{advice}") from None


def _export(model: Any, where: str, inputs: dict[str, torch.Tensor]) -> Any:
    """Return the `torch.onnx.ONNXProgram`."""
    with tracing(model):
        try:
            # optimize=True would fold and merge initializers, so that other weights would give wrong results.
            exported = torch.onnx.export(model, (), kwargs=inputs, dynamo=True, optimize=False, verbose=False)
        except Exception as error:
            raise RegimeError(f"{where}: torch cannot export this model: {_reason(error)}") from None
    assert exported is not None  # noqa: S101
    return exported


def _reason(error: Exception) -> str:
    """Return why torch cannot export a model, the line of the model if known, and what to do."""
    text = str(error.__cause__ or error)
    line = next(iter(text.strip().splitlines()), type(error).__name__).strip()
    at = _LINE.findall(text)
    unknown = _UNKNOWN.search(text)
    if unknown is not None:
        return (
            f"ONNX has no operator for {unknown[1]}; leave everything after the last activation out of its forward, "
            f"{_INSTEAD}"
        )
    if "data-dependent" not in text:
        return f"{line}; {_INSTEAD}"
    found = f": `{at[-1][2].strip()}` ({at[-1][0]}:{at[-1][1]})" if at else f" ({line})"
    return (
        f"its forward branches on values that it computes{found}; write it without the branch, for example with "
        f"torch.where, {_INSTEAD}"
    )


def _tensors(
    values: Mapping[str, tuple[torch.Tensor, Hashable]], trainable: Collection[str], where: str
) -> tuple[Tensor, ...]:
    """Return every tensor of a state dict; tied tensors, which share an identity, once under their first name."""
    if not trainable:
        raise RegimeError(f"{where}: no parameter has requires_grad, so there is nothing to measure")
    by_identity: dict[Hashable, list[str]] = {}
    for name, (value, identity) in values.items():
        if isinstance(value, torch.Tensor):
            by_identity.setdefault(identity, []).append(name)
    return tuple(
        Tensor(first, tuple(values[first][0].shape), first in trainable, tuple(aliases))
        for first, *aliases in by_identity.values()
    )


def _with_aliases(tensors: tuple[Tensor, ...], aliases: Mapping[str, Collection[str]]) -> tuple[Tensor, ...]:
    taken = {name for tensor in tensors for name in tensor.names}

    def further(tensor: Tensor) -> tuple[str, ...]:
        given = {alias for name in tensor.names for alias in aliases.get(name, ())}
        return (*tensor.aliases, *sorted(given - taken))

    return tuple(replace(tensor, aliases=further(tensor)) for tensor in tensors)
