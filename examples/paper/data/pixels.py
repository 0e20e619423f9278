"""Images in memory as a data set."""

import numpy as np
from numpy.typing import NDArray

from regime_proto.examples.paper.data.sets import LABELS, DataSet

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


def as_data_set(
    train: tuple[Images, Labels],
    validation: tuple[Images, Labels],
    *,
    name: str,
    origin: str,
    stands_for: str | None = None,
) -> DataSet:
    """Return images as a data set, scaled by mean and deviation of the training images.

    Parameters
    ----------
    train, validation : pair of (sample, channel, row, column) uint8 and (sample,) int64
    name, origin, stands_for : str
        As in `DataSet`.
    """
    mean, deviation = channel_statistics(train[0])
    return DataSet(
        name=name,
        origin=origin,
        train={"x": train[0], LABELS: train[1]},
        validation={"x": validation[0], LABELS: validation[1]},
        classes=int(train[1].max()) + 1,
        stands_for=stands_for,
        mean=mean,
        deviation=deviation,
        facts={"channels": train[0].shape[1], "image_size": train[0].shape[2]},
    )


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each channel, in units of the largest pixel.

    Parameters
    ----------
    images : (sample, channel, row, column) uint8
    """
    found = []
    for channel in range(images.shape[1]):
        # Whole counts: exact, and without a copy in float.
        counts = np.bincount(images[:, channel].ravel(), minlength=256) / images[:, channel].size
        levels = np.arange(256) / 255
        mean = float(counts @ levels)
        found.append((mean, float(np.sqrt(counts @ (levels - mean) ** 2)) or 1.0))
    return tuple(mean for mean, _ in found), tuple(deviation for _, deviation in found)
