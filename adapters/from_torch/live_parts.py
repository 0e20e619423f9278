"""Handles the distribution of a module's weights over the processes that train it together."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from regime_proto.adapters.from_torch.live_weights import tensors_of
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array


class Parts(Protocol):
    """The part of the weights that a process holds, and how processes combine their parts."""

    collective: bool
    """Whether all processes take part in every measurement."""

    def weights(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Return this process's part of parameters and buffers, by name; see `tensors_of`.

        Raises
        ------
        RegimeError
            The distribution of the weights has changed.
        """

    def local(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return this process's part of a tensor."""

    def counts(self, tensor: torch.Tensor) -> bool:
        """Whether this process, and no other, counts its part of a tensor."""

    def total(self, sums: Array, finite: bool) -> tuple[Array, bool]:  # noqa: FBT001
        """Return the sums over all processes, and whether the parts of all are finite."""

    def total_there(self, change: torch.Tensor) -> torch.Tensor:
        """Return the sums over all processes of a tensor on a device."""

    def agreed(self, value: Any) -> Any:
        """Return the value that the recording process passes here."""

    def whole(self, weights: Mapping[str, torch.Tensor], *, keep: bool) -> Mapping[str, torch.Tensor]:
        """Return the whole weights, gathered from all processes; empty if `keep` is false."""


class Whole:
    """Every process holds all weights, or there is one process."""

    collective = False

    def weights(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """See `Parts`."""
        found = tensors_of(model)
        if any(isinstance(tensor, DTensor) for tensor in found.values()):
            raise RegimeError(
                "the model was sharded after the recorder was created; create the recorder after fully_shard"
            )
        return found

    def local(self, tensor: torch.Tensor) -> torch.Tensor:
        """See `Parts`."""
        return tensor

    def counts(self, tensor: torch.Tensor) -> bool:
        """See `Parts`."""
        return True

    def total(self, sums: Array, finite: bool) -> tuple[Array, bool]:  # noqa: FBT001
        """See `Parts`."""
        return sums, finite

    def total_there(self, change: torch.Tensor) -> torch.Tensor:
        """See `Parts`."""
        return change

    def agreed(self, value: Any) -> Any:
        """See `Parts`."""
        return value

    def whole(self, weights: Mapping[str, torch.Tensor], *, keep: bool) -> Mapping[str, torch.Tensor]:
        """See `Parts`."""
        return weights


class Sharded:
    """Weights are DTensors, as in FSDP, tensor parallelism and combinations of these.

    The sums of all tensors need one all-reduce. The masks need whole weights: those on which they depend are gathered
    tensor by tensor, as for a forward pass.
    """

    collective = True

    def weights(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """See `Parts`.

        After a forward pass without a backward pass, some modules hold gathered copies of their weights, in the type in
        which they compute. These are released, as a backward pass would do; a later pass gathers them again.
        """
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        return tensors_of(model)

    def local(self, tensor: torch.Tensor) -> torch.Tensor:
        """See `Parts`."""
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def counts(self, tensor: torch.Tensor) -> bool:
        """See `Parts`; if parts are replicated, the first process counts its own."""
        if not isinstance(tensor, DTensor):
            return bool(dist.get_rank() == 0)
        place = tensor.device_mesh.get_coordinate()
        copies = zip(place, tensor.placements, strict=True)
        return all(at == 0 for at, placement in copies if placement.is_replicate())

    def total(self, sums: Array, finite: bool) -> tuple[Array, bool]:  # noqa: FBT001
        """See `Parts`."""
        parts = torch.from_numpy(np.append(sums.ravel(), float(not finite)))
        dist.all_reduce(parts)
        return parts[:-1].numpy().reshape(sums.shape), not parts[-1].item()

    def total_there(self, change: torch.Tensor) -> torch.Tensor:
        """See `Parts`."""
        dist.all_reduce(change)
        return change

    def agreed(self, value: Any) -> Any:
        """See `Parts`."""
        given = [value]
        dist.broadcast_object_list(given, src=0)
        return given[0]

    def whole(self, weights: Mapping[str, torch.Tensor], *, keep: bool) -> Mapping[str, torch.Tensor]:
        """See `Parts`."""
        found = {}
        for name, tensor in weights.items():
            gathered = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if keep:
                found[name] = gathered
        return found
