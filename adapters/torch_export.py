"""Exports a torch module as a program: the forward graph in evaluation mode, with its weights as inputs."""

import contextlib
import copy
import functools
import inspect
import warnings
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from regime_proto.adapters import exported_program
from regime_proto.adapters.onnx_file import module_path, silent
from regime_proto.schema.errors import RegimeError
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from regime_proto.engine.graph.control_flow import InlineConstantBranches
from regime_proto.engine.graph.program import Program, Tensor
from regime_proto.engine.graph.rewrite import LiftWeights, NameNodes, StripMetadata
from regime_proto.probe import Probe, ProbeError
from regime_proto.trial import require_runnable

_NOT_FLOAT32 = (torch.float64, torch.float16, torch.bfloat16, torch.uint8)
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def export(
    model: nn.Module,
    probe: Probe,
    *,
    aliases: Mapping[str, Collection[str]] | None = None,
    unused: Collection[Tensor] = (),
    framework: Mapping[str, str] | None = None,
) -> Program:
    """Export `model`; its mode and its weights are left as they were.

    See `export_both`.
    """
    return export_both(model, probe, aliases=aliases, unused=unused, framework=framework)[0]


def export_both(
    model: nn.Module,
    probe: Probe,
    *,
    aliases: Mapping[str, Collection[str]] | None = None,
    unused: Collection[Tensor] = (),
    framework: Mapping[str, str] | None = None,
) -> tuple[Program, Any]:
    """Export `model` as a program, and as the `torch.export.ExportedProgram` that this was made of.

    Values have the same names in both. The model's mode and its weights are left as they were.

    Parameters
    ----------
    model : torch.nn.Module
    probe : Probe
    aliases : mapping of str to collection of str, optional
        Further names under which checkpoints hold a tensor, by its name in the model.
    unused : collection of Tensor
        Those that checkpoints hold and the model has no use for.
    framework : mapping of str to str, optional
        Names and versions of what the model comes from, beside PyTorch.

    Raises
    ------
    RegimeError
        The model does not run on the probe, has nothing to train, or cannot be exported.
    """
    arrays = probe.bind(_input_names(model, probe))
    with _evaluating(model) as evaluated:
        device = next((tensor.device for tensor in evaluated.state_dict().values()), torch.device("cpu"))
        inputs = {name: torch.from_numpy(array.copy()).to(device) for name, array in arrays.items()}
        outputs = _try_forward(evaluated, inputs, probe)
        with _only_tensors(evaluated, outputs):
            both = _export(evaluated, type(model).__name__, inputs)
    trainable = {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    values = {name: (tensor, id(tensor)) for name, tensor in model.state_dict(keep_vars=True).items()}
    otherwise = sorted(trainable - values.keys())
    if otherwise:
        raise RegimeError(
            f"{type(model).__name__}: its state dict has another name for {otherwise[0]}; give the model without the "
            "wrappers of activation checkpointing"
        )
    tensors = _with_aliases(_tensors(values, trainable, type(model).__name__), aliases or {})
    program = _program(both.model, (*tensors, *unused), list(arrays), framework or {})
    return program, both.exported_program


def export_file(path: Path, probe: Probe) -> Program:
    """Take a ``.pt2`` file, a program of `torch.export`, as the model.

    Raises
    ------
    RegimeError
        See `exported_program`; or it has nothing to train, or takes more than the limits of `trial`.
    """
    require_runnable(path, probe, f"{__name__}:take_file")
    return take_file(path, probe)


def take_file(path: Path, probe: Probe) -> Program:
    """Make a program of a ``.pt2`` file, which is exported in this process."""
    program = exported_program.load(path)
    arrays = exported_program.bind(program, probe, str(path))
    exported = _export(program, str(path), {}).model
    state = program.state_dict
    trainable = {name for name in program.graph_signature.parameters if state[name].requires_grad}
    # Tied tensors were one storage when they were saved.
    values = {
        name: (tensor, (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else name)
        for name, tensor in state.items()
    }
    return _program(exported, _tensors(values, trainable, str(path)), list(arrays), {})


def _program(exported: Any, tensors: tuple[Tensor, ...], inputs: list[str], framework: Mapping[str, str]) -> Program:
    names = {alias: tensor.name for tensor in tensors for alias in (tensor.name, *tensor.aliases)}
    InlineConstantBranches(weights=names)(exported)
    paths = {str(node.name): module_path(node.metadata_props) for node in exported.graph}
    for rewrite in (StripMetadata(paths), NameNodes(), LiftWeights(names)):
        rewrite(exported)
    versions = {"torch": torch.__version__, **framework}
    return Program.from_model(exported, tensors=tensors, probe_inputs=inputs, framework=versions)


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


def _try_forward(model: nn.Module, inputs: dict[str, torch.Tensor], probe: Probe) -> Any:
    """Run the model once and return its outputs: its own error on a wrong probe is clearer than the exporter's."""
    found = ", ".join(f"{name}: {str(value.dtype)[6:]}{list(value.shape)}" for name, value in inputs.items())
    try:
        with torch.no_grad():
            return model(**inputs)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        hint = ""
        if any(value.dtype in _NOT_FLOAT32 for value in inputs.values()):
            hint = "; the model is run in float32: save the probe with array.astype('float32')"
        raise ProbeError(f"{probe.where}: the model fails on the probe ({found}): {reason}{hint}") from None


@contextlib.contextmanager
def _only_tensors(model: nn.Module, outputs: Any) -> Iterator[None]:
    """Let a model return the tensors in its outputs, if among these is something the exporter does not know."""
    if all(leaf is None or isinstance(leaf, torch.Tensor | int | float | str) for leaf in tree_leaves(outputs)):
        yield
        return
    forward, own = model.forward, "forward" in vars(model)

    @functools.wraps(forward)
    def tensors_only(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        return tuple(leaf for leaf in tree_leaves(forward(*args, **kwargs)) if isinstance(leaf, torch.Tensor))

    model.forward = tensors_only
    try:
        yield
    finally:
        if own:
            model.forward = forward
        else:
            del model.forward


class _FloatFirst(TorchFunctionMode):  # type: ignore[misc]
    """Does ``1.0 - mask`` of whole numbers in two steps: the exporter fails to bring both to one type itself."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__rsub__ and isinstance(args[1], float) and args[0].dtype in _WHOLE:
            args = (args[0].to(torch.get_default_dtype()), args[1])
        return func(*args, **(kwargs or {}))


def _export(model: Any, where: str, inputs: dict[str, torch.Tensor]) -> Any:
    """Return the `torch.onnx.ONNXProgram`."""
    with warnings.catch_warnings(), silent("torch"), sdpa_kernel(SDPBackend.MATH), torch.no_grad(), _FloatFirst():
        warnings.simplefilter("ignore")
        try:
            # With optimize=True initializers are folded and merged, and other weights give wrong results.
            exported = torch.onnx.export(model, (), kwargs=inputs, dynamo=True, optimize=False, verbose=False)
        except Exception as error:
            lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
            reason = lines[0] if lines else type(error).__name__
            raise RegimeError(f"{where}: torch cannot export this model: {reason}") from None
    assert exported is not None  # noqa: S101
    return exported


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


def _with_aliases(tensors: tuple[Tensor, ...], aliases: Mapping[str, Collection[str]]) -> tuple[Tensor, ...]:
    taken = {name for tensor in tensors for name in (tensor.name, *tensor.aliases)}

    def further(tensor: Tensor) -> tuple[str, ...]:
        given = {alias for name in (tensor.name, *tensor.aliases) for alias in aliases.get(name, ())}
        return (*tensor.aliases, *sorted(given - taken))

    return tuple(replace(tensor, aliases=further(tensor)) for tensor in tensors)
