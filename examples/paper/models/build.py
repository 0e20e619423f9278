"""Builds the network of a row for its data set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from regime_proto.examples.paper.data.sets import DataSet
from regime_proto.examples.paper.models import configured, convolutional, mlp
from regime_proto.examples.paper.models.size import Resized
from regime_proto.schema.errors import RegimeError


@dataclass(frozen=True)
class Network:
    """A network of Table II.

    Parameters
    ----------
    build : callable
        Called with the data set and a width: 1 for the real network, 0.25 for a quarter of the channels.
    image_size : int or None
        Default size of its images, in pixels per side; None for the size of the data set.
    multiple, smallest : int
        Image sizes must be a multiple of `multiple` and at least `smallest`.
    """

    build: Callable[[DataSet, float], nn.Module]
    image_size: int | None = None
    multiple: int = 1
    smallest: int = 1


NETWORKS: Mapping[str, Network] = {
    "mlp-256-128-64": Network(partial(mlp.build, hidden=(256, 128, 64))),
    "mlp-64-32": Network(partial(mlp.build, hidden=(64, 32))),
    "mlp-512-256-plain": Network(partial(mlp.build, hidden=(512, 256), dropout=0.0)),
    "mlp-256-128": Network(partial(mlp.build, hidden=(256, 128))),
    "lenet5": Network(convolutional.lenet5, multiple=4, smallest=16),
    "alexnet": Network(convolutional.alexnet, multiple=16, smallest=16),
    "resnet34": Network(configured.resnet34, multiple=8, smallest=8),
    "efficientnet-b0": Network(configured.efficientnet_b0, multiple=32, smallest=32),
    "xlnet": Network(configured.xlnet),
    "roberta": Network(configured.roberta),
    "t5": Network(configured.t5),
    "gpt2": Network(configured.gpt2),
    "vit-b16": Network(configured.vit_b16, image_size=224, multiple=16, smallest=16),
    "swin": Network(configured.swin, image_size=224, multiple=32, smallest=64),
    "pvt": Network(configured.pvt, image_size=224, multiple=32, smallest=32),
}


def build(network: str, data: DataSet, width: float = 1.0, image_size: int | None = None) -> nn.Module:
    """Return the newly initialised network.

    Its forward method accepts the arguments named by the parts of the data set, and returns logits: (sample, class) or
    (sample, token, class).

    Parameters
    ----------
    network : str
        Key of `NETWORKS`.
    data : DataSet
    width : float
        Fraction of the real number of channels; the depth is unchanged.
    image_size : int or None
        Size, in pixels per side, to which the network resizes its images. Default: 224 for vision transformers, the
        size of the data set for all others.

    Raises
    ------
    RegimeError
        The width is invalid, or the network does not accept images of this size.
    """
    if not 0 < width <= 1:
        raise RegimeError(f"--width {width:g}: expected a fraction of the real width, above 0 and at most 1")
    chosen = NETWORKS[network]
    given = data.facts.get("image_size")
    if given is None:
        if image_size is not None:
            raise RegimeError(f"--image-size {image_size}: {data.name} holds no images; leave out the option")
        return chosen.build(data, width)
    taken = image_size or chosen.image_size or given
    if taken < chosen.smallest or taken % chosen.multiple:
        raise RegimeError(
            f"--image-size {taken}: {network} needs a multiple of {chosen.multiple}, at least {chosen.smallest}"
        )
    made = chosen.build(replace(data, facts={**data.facts, "image_size": taken}), width)
    return made if taken == given else Resized(made, taken)
