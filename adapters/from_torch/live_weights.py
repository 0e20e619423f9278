"""Finds the weights of a torch module during training, and compares them with a stored copy."""

from collections.abc import Iterator, Sequence
from functools import partial

import ml_dtypes
import numpy as np
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from regime_proto.engine.live_quantities import WHERE
from regime_proto.quantities.base import Quantity
from regime_proto.quantities.measuring import guarded
from regime_proto.schema.types import Array

HALF = (torch.float16, torch.bfloat16)
# Column of Σ|w| in the result of `DeviceWeights.change`.
SIZE = 2
# Part of names that activation checkpointing inserts, and that state dicts leave out.
_CHECKPOINTED = "_checkpoint_wrapped_module."


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the current parameters and buffers under their state dict names; tied ones under all their names."""
    return dict(_named(model))


def _named(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for prefix, module in model.named_modules(remove_duplicate=False):
        for group in (module._parameters, module._buffers):
            for name, tensor in group.items():
                if tensor is not None:
                    path = f"{prefix}.{name}" if prefix else name
                    yield path.replace(_CHECKPOINTED, ""), tensor.detach()


def is_sharded(model: nn.Module) -> bool:
    """Whether each process holds only a part of some weights."""
    parts = (*model.modules(), *model.parameters())
    return any(isinstance(part, FSDPModule | DTensor) for part in parts)


def array_of(tensor: torch.Tensor) -> Array:
    """Return a tensor as an array, which is a view if the tensor is in host memory."""
    tensor = tensor.cpu()
    if tensor.dtype == torch.bfloat16:
        return np.asarray(tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16))
    return np.asarray(tensor.numpy())


def wait_for(device: torch.device) -> None:
    """Wait until a device has finished its queued work, as copying from it would."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class DeviceWeights:
    """One copy of the weights on their device, with which the next state is compared there.

    Corresponds to `KeptWeights` for host memory. Differences are computed in float32 or wider.

    Attributes
    ----------
    previous : list of tensors
        The state of the last call of `change`; empty before the first.
    first : sequence of tensors
        A copy of the first state, with which later ones are compared; empty if there is none.
    """

    def __init__(self) -> None:
        self.previous: list[torch.Tensor] = []
        self.first: Sequence[torch.Tensor] = ()

    def begin(self, weights: Sequence[torch.Tensor]) -> None:
        """Compare this state and later ones with this one."""
        self.first = [weight.clone() for weight in weights]

    def terms(self, quantities: Sequence[Quantity], weights: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the sums of some quantities' terms, (tensor, quantity); see `measuring.term_columns`."""
        wide = _wide(weights[0])
        others = {"previous": self.previous, "first": self.first}
        columns = [
            guarded(quantity, partial(_term_sums, quantity, weights, others.get(quantity.against, ()), wide), WHERE)
            for quantity in quantities
        ]
        empty = torch.empty((len(weights), 0), dtype=wide, device=weights[0].device)
        return torch.stack(columns, dim=1) if columns else empty

    def change(self, weights: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the change since the last call, and replace the stored state.

        Parameters
        ----------
        weights : sequence of tensors

        Returns
        -------
        (tensor, 3) tensor
            Σ|Δ| and ΣΔ², NaN in the first call; Σ|w|, which is finite if the weights are.
        """
        wide = _wide(weights[0])
        columns = [*self._replaced(weights, wide), torch._foreach_norm(list(weights), 1, wide)]
        return torch.stack([torch.stack(list(column)) for column in columns], dim=1)

    def _replaced(self, weights: Sequence[torch.Tensor], wide: torch.dtype) -> tuple[list[torch.Tensor], ...]:
        """Return Σ|Δ| and ΣΔ² of every tensor."""
        if not self.previous:
            self.previous = [weight.clone() for weight in weights]
            unknown = torch.full((), torch.nan, dtype=wide, device=weights[0].device)
            return [unknown] * len(weights), [unknown] * len(weights)
        half = {index for index, weight in enumerate(weights) if weight.dtype in HALF}
        changes = list(self.previous)
        for index in half:
            changes[index] = weights[index].float() - self.previous[index].float()
        full = [index for index in range(len(weights)) if index not in half]
        if full:
            torch._foreach_sub_([self.previous[index] for index in full], [weights[index] for index in full])
        l1, l2 = torch._foreach_norm(changes, 1, wide), torch._foreach_norm(changes, 2, wide)
        torch._foreach_copy_(self.previous, list(weights))
        return list(l1), [norm.square() for norm in l2]


def _wide(tensor: torch.Tensor) -> torch.dtype:
    # Apple's GPUs do not support float64.
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _term_sums(
    quantity: Quantity, weights: Sequence[torch.Tensor], others: Sequence[torch.Tensor], wide: torch.dtype
) -> torch.Tensor:
    """Return the sums of a quantity's term over every tensor; one tensor at a time, so that only one is widened.

    Terms get copies, because a tensor cannot be read-only, and these are the weights in training.
    """
    assert quantity.term is not None  # noqa: S101
    if quantity.against and not others:
        return torch.full((len(weights),), torch.nan, dtype=wide, device=weights[0].device)
    held = others if quantity.against else [None] * len(weights)
    sums = [
        quantity.term(weight.to(wide, copy=True), None if other is None else other.to(wide, copy=True)).sum()
        for weight, other in zip(weights, held, strict=True)
    ]
    return torch.stack(sums)
