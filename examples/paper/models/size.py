"""Reduces the size of a network."""

from torch import Tensor, nn
from torch.nn import functional


def scaled(channels: int, width: float, multiple: int = 1) -> int:
    """Return a fraction of a number of channels, as a multiple of `multiple` and at least `multiple`."""
    return max(multiple, round(channels * width / multiple) * multiple)


class Resized(nn.Module):  # type: ignore[misc]
    """A network for images of a different size, which are interpolated first.

    Parameters
    ----------
    network : Module
        Its forward method accepts images as ``x``.
    image_size : int
        Size of its images, in pixels per side.
    """

    def __init__(self, network: nn.Module, image_size: int) -> None:
        super().__init__()
        self.network = network
        self.image_size = image_size

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        size = (self.image_size, self.image_size)
        return self.network(functional.interpolate(x, size=size, mode="bilinear", align_corners=False))
