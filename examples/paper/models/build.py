"""The network of a row, for the data set that it is trained on."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from regime_proto.examples.paper.data.sets import DataSet
from regime_proto.examples.paper.models import convolutional, mlp
from regime_proto.schema.errors import RegimeError

# Called with the data set and a width: 1 is the real one, 0.25 a network of a quarter of the channels.
Build = Callable[[DataSet, float], nn.Module]

NETWORKS: Mapping[str, Build] = {
    "mlp-256-128-64": partial(mlp.build, hidden=(256, 128, 64)),
    "mlp-64-32": partial(mlp.build, hidden=(64, 32)),
    "mlp-512-256-plain": partial(mlp.build, hidden=(512, 256), dropout=0.0),
    "mlp-256-128": partial(mlp.build, hidden=(256, 128)),
    "lenet5": convolutional.lenet5,
    "alexnet": convolutional.alexnet,
}


def build(network: str, data: DataSet, width: float = 1.0) -> nn.Module:
    """Return the network, freshly initialised.

    Its forward takes the arguments that the parts of the data set name, and returns logits: (sample, class), or
    (sample, token, class).

    Raises
    ------
    RegimeError
        The width is not one.
    """
    if not 0 < width <= 1:
        raise RegimeError(f"--width {width:g}: expected a part of the real width, above 0 and at most 1")
    return NETWORKS[network](data, width)


def scaled(channels: int, width: float, multiple: int = 1) -> int:
    """Return a part of a number of channels: a multiple of `multiple`, which it is at least."""
    return max(multiple, round(channels * width / multiple) * multiple)
