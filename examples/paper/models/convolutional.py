"""LeNet5 and AlexNet, for small images."""

from torch import Tensor, nn

from regime_proto.examples.paper.data.sets import DataSet


class LeNet5(nn.Module):  # type: ignore[misc]
    """Two convolutions with max-pooling and three linear layers, with ReLU (tanh in LeCun et al. 1998).

    Parameters
    ----------
    channels, image_size, classes : int
    width : float
        1 means 6 and 16 channels, 120 and 84 units.
    """

    def __init__(self, channels: int, image_size: int, classes: int, width: float = 1.0) -> None:
        super().__init__()
        first, second, third, fourth = (max(1, round(size * width)) for size in (6, 16, 120, 84))
        # Images of 28 pixels are padded to 32.
        padding = 2 if image_size == 28 else 0
        side = ((image_size + 2 * padding - 4) // 2 - 4) // 2
        self.features = nn.Sequential(
            nn.Conv2d(channels, first, 5, padding=padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(second * side * side, third),
            nn.ReLU(),
            nn.Linear(third, fourth),
            nn.ReLU(),
            nn.Linear(fourth, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.classifier(self.features(x))


class AlexNet(nn.Module):  # type: ignore[misc]
    """Five convolutions and three linear layers (Krizhevsky et al. 2012), adapted to images of 32 × 32 pixels.

    Parameters
    ----------
    channels, image_size, classes : int
    width : float
        1 means 64, 192, 384, 256 and 256 channels, and 4,096 units.
    """

    def __init__(self, channels: int, image_size: int, classes: int, width: float = 1.0) -> None:
        super().__init__()
        one, two, three, four, five, units = (max(1, round(size * width)) for size in (64, 192, 384, 256, 256, 4096))
        # Strides and pooling reduce 32 pixels to 16, 8, 4 and 2.
        side = image_size // 16
        self.features = nn.Sequential(
            nn.Conv2d(channels, one, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(one, two, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(two, three, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(three, four, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(four, five, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(five * side * side, units),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(units, units),
            nn.ReLU(),
            nn.Linear(units, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.classifier(self.features(x))


def lenet5(data: DataSet, width: float) -> LeNet5:
    """Return the network for a data set of images."""
    return LeNet5(data.facts["channels"], data.facts["image_size"], data.classes, width)


def alexnet(data: DataSet, width: float) -> AlexNet:
    """Return the network for a data set of images."""
    return AlexNet(data.facts["channels"], data.facts["image_size"], data.classes, width)
