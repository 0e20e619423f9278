"""The multi-layer perceptrons of Table I."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from regime_proto.examples.paper.data.sets import DataSet


class MLP(nn.Module):  # type: ignore[misc]
    """Hidden layers of linear map, BatchNorm, ReLU and dropout, followed by a linear map to the classes.

    Parameters
    ----------
    sizes : sequence of int
        Features, units of each hidden layer, classes.
    dropout : float
        Fraction of units dropped in training; 0 for no dropout.
    """

    def __init__(self, sizes: Sequence[int], dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for before, units in pairwise(sizes[:-1]):
            layers += [nn.Linear(before, units), nn.BatchNorm1d(units), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.layers(x)


def build(data: DataSet, width: float, *, hidden: Sequence[int], dropout: float = 0.5) -> MLP:
    """Return the network for a data set; images are flattened."""
    facts = data.facts
    features = facts["features"] if "features" in facts else facts["channels"] * facts["image_size"] ** 2
    return MLP([features, *(max(1, round(units * width)) for units in hidden), data.classes], dropout)
