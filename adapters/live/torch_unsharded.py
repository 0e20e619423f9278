"""A plain copy of a module whose weights are spread over processes: what an exporter can take."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

# What registered functions hang on.
_HOOKS = (
    "_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_hooks_always_called",
    "_forward_hooks_with_kwargs", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
)  # fmt: skip


def unsharded(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return a copy of `model` without sharding and hooks.

    Parameters
    ----------
    model : torch.nn.Module
        After `torch.distributed.fsdp.fully_shard`, or with other DTensors.
    weights : mapping of str to tensor
        Its parameters and buffers, whole, under all their names.
    """
    # Tied tensors remain one.
    made: dict[int, Any] = {}
    return _copy(model, "", weights, made)


def _copy(module: nn.Module, prefix: str, weights: Mapping[str, torch.Tensor], made: dict[int, Any]) -> nn.Module:
    if id(module) in made:
        return made[id(module)]
    copy = object.__new__(_plain_class(type(module)))
    made[id(module)] = copy
    copy.__dict__.update({name: value for name, value in vars(module).items() if name not in _HOOKS})
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


def _parameter(tensor: nn.Parameter, whole: torch.Tensor, made: dict[int, Any]) -> nn.Parameter:
    if id(tensor) not in made:
        made[id(tensor)] = nn.Parameter(whole, requires_grad=tensor.requires_grad)
    return made[id(tensor)]


def _plain_class(kind: type) -> type:
    """Return the class that `fully_shard` put one of its own in the place of."""
    return (
        next((base for base in kind.__bases__ if base is not FSDPModule), kind)
        if issubclass(kind, FSDPModule)
        else kind
    )
