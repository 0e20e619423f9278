"""How the weights of a module are spread over the processes that train it together."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from regime_proto.schema.errors import RegimeError
from torch.distributed.tensor import DTensor

from regime_proto.source import Array


class Parts(Protocol):
    """What a process holds of the weights, and how the processes put it together."""

    collective: bool
    """Whether all processes take part in every measurement."""

    def check(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Raise an error if the weights are not spread as they were."""

    def local(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return what this process holds of a tensor."""

    def counts(self, tensor: torch.Tensor) -> bool:
        """Whether what this process holds is not another's to count."""

    def total(self, sums: Array, finite: bool) -> tuple[Array, bool]:  # noqa: FBT001
        """Return the sums over all processes, and whether all found their part finite."""

    def total_there(self, change: torch.Tensor) -> torch.Tensor:
        """Return the sums over all processes of what lies on a device."""

    def whole(self, weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return the weights with the parts of all processes."""


class Whole:
    """Every process holds all weights, or there is one process."""

    collective = False

    def check(self, weights: Mapping[str, torch.Tensor]) -> None:
        """See `Parts`."""
        if any(isinstance(tensor, DTensor) for tensor in weights.values()):
            raise RegimeError("the model was sharded after the recorder was made; make the recorder after fully_shard")

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

    def whole(self, weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """See `Parts`."""
        return weights


class Sharded:
    """FSDP, tensor parallelism and mixtures of these: weights are DTensors.

    The sums of all tensors take one all-reduce. The masks need the weights whole: these are gathered, tensor by
    tensor, as for a forward pass.
    """

    collective = True

    def check(self, weights: Mapping[str, torch.Tensor]) -> None:
        """See `Parts`."""

    def local(self, tensor: torch.Tensor) -> torch.Tensor:
        """See `Parts`."""
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def counts(self, tensor: torch.Tensor) -> bool:
        """See `Parts`; of equal parts the first process counts its own."""
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

    def whole(self, weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """See `Parts`."""
        return {
            name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for name, tensor in weights.items()
        }
