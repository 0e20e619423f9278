"""Parts of the real size of a network."""

from torch import Tensor, nn
from torch.nn import functional


def scaled(channels: int, width: float, multiple: int = 1) -> int:
    """Return a part of a number of channels: a multiple of `multiple`, which it is at least."""
    return max(multiple, round(channels * width / multiple) * multiple)


class Resized(nn.Module):  # type: ignore[misc]
    """A network that is given images of another size than it takes: they are interpolated first.

    Parameters
    ----------
    network : Module
        Its forward takes images as ``x``.
    image_size : int
        Pixels of each side that it takes.
    """

    def __init__(self, network: nn.Module, image_size: int) -> None:
        super().__init__()
        self.network = network
        self.image_size = image_size

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        size = (self.image_size, self.image_size)
        return self.network(functional.interpolate(x, size=size, mode="bilinear", align_corners=False))
