"""Creates a plain copy of a sharded or wrapped module, which can be exported."""

from collections.abc import Mapping
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import ActivationWrapper
from torch.distributed.fsdp import FSDPModule

# Attributes that hold registered functions.
_HOOKS = (
    "_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_hooks_always_called",
    "_forward_hooks_with_kwargs", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
)  # fmt: skip

# Attributes that `fully_shard` adds to a module.
_STATE = "__composable_api_state_key"


def is_wrapped(model: nn.Module) -> bool:
    """Whether wrappers checkpoint activations of parts of a model; its export would contain their names."""
    return any(isinstance(module, ActivationWrapper) for module in model.modules())


def unsharded(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return a copy of `model` without sharding, hooks and wrappers for activation checkpointing.

    Parameters
    ----------
    model : torch.nn.Module
        After `torch.distributed.fsdp.fully_shard`, or with other DTensors.
    weights : mapping of str to tensor
        Whole parameters and buffers, under all their names.
    """
    # Tied tensors stay tied.
    made: dict[int, Any] = {}
    return _copy(model, "", weights, made)


def _copy(module: nn.Module, prefix: str, weights: Mapping[str, torch.Tensor], made: dict[int, Any]) -> nn.Module:
    if isinstance(module, ActivationWrapper):
        return _copy(module._checkpoint_wrapped_module, prefix, weights, made)
    if id(module) in made:
        return made[id(module)]
    copy: nn.Module = object.__new__(_plain_class(type(module)))
    made[id(module)] = copy
    copy.__dict__.update({name: _rebound(value, module, copy) for name, value in vars(module).items() if _stays(name)})
    for hooks in _HOOKS:
        copy.__dict__[hooks] = type(vars(module)[hooks])()
    copy.__dict__["_parameters"] = {
        name: None if tensor is None else _parameter(tensor, weights[prefix + name], made)
        for name, tensor in module._parameters.items()
    }
    copy.__dict__["_buffers"] = {
        name: None if tensor is None else weights[prefix + name] for name, tensor in module._buffers.items()
    }
    copy.__dict__["_modules"] = {
        name: None if child is None else _copy(child, f"{prefix}{name}.", weights, made)
        for name, child in module._modules.items()
    }
    return copy


def _stays(attribute: str) -> bool:
    return attribute not in _HOOKS and not attribute.startswith(_STATE)


def _rebound(value: Any, module: nn.Module, copy: nn.Module) -> Any:
    """Rebind to the copy a method that replaces one of the module's own, such as a `forward`."""
    bound = isinstance(value, MethodType) and value.__self__ is module
    return MethodType(value.__func__, copy) if bound else value


def _parameter(tensor: nn.Parameter, whole: torch.Tensor, made: dict[int, Any]) -> nn.Parameter:
    if id(tensor) not in made:
        made[id(tensor)] = nn.Parameter(whole, requires_grad=tensor.requires_grad)
    return made[id(tensor)]


def _plain_class(kind: type) -> type:
    """Return the class that `fully_shard` replaced with its own."""
    return (
        next((base for base in kind.__bases__ if base is not FSDPModule), kind)
        if issubclass(kind, FSDPModule)
        else kind
    )
