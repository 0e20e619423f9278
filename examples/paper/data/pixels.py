"""Creates a data set from images."""

import numpy as np
from numpy.typing import NDArray

from regime_proto.examples.paper.data.sets import LABELS, DataSet, Rows

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

# Number of images used for mean and deviation, if not all are in memory.
_LOOKED_AT = 1000


def as_data_set(
    train: tuple[Rows, Labels],
    validation: tuple[Rows, Labels],
    *,
    name: str,
    origin: str,
    classes: int | None = None,
    stands_for: str | None = None,
) -> DataSet:
    """Return images as a data set, scaled by mean and deviation of the training images.

    Parameters
    ----------
    train, validation : pair of (sample, channel, row, column) uint8 and (sample,) int64
        If images are read on access, mean and deviation are computed from a part of them.
    classes : int or None
        None for the classes that occur.
    name, origin, stands_for : str
        As in `DataSet`.
    """
    images, labels = train
    if not isinstance(images, np.ndarray):
        images = images[np.unique(np.linspace(0, len(images) - 1, _LOOKED_AT).astype(np.int64))]
    mean, deviation = channel_statistics(images)
    return DataSet(
        name=name,
        origin=origin,
        train={"x": train[0], LABELS: train[1]},
        validation={"x": validation[0], LABELS: validation[1]},
        classes=int(labels.max()) + 1 if classes is None else classes,
        stands_for=stands_for,
        mean=mean,
        deviation=deviation,
        facts={"channels": images.shape[1], "image_size": images.shape[2]},
    )


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each channel, in units of the largest pixel.

    Parameters
    ----------
    images : (sample, channel, row, column) uint8
    """
    found = []
    for channel in range(images.shape[1]):
        # Integer counts are exact, and need no copy as floats.
        counts = np.bincount(images[:, channel].ravel(), minlength=256) / images[:, channel].size
        levels = np.arange(256) / 255
        mean = float(counts @ levels)
        found.append((mean, float(np.sqrt(counts @ (levels - mean) ** 2)) or 1.0))
    return tuple(mean for mean, _ in found), tuple(deviation for _, deviation in found)
