"""Reads the file formats of both CIFAR data sets."""

from pathlib import Path
from typing import Any

import numpy as np

from regime_proto.examples.paper.data.pickled_arrays import load_arrays
from regime_proto.examples.paper.data.pixels import Images, Labels
from regime_proto.examples.paper.data.texts import checked_labels
from regime_proto.schema.errors import RegimeError

_PIXELS = 3 * 32 * 32


def from_binary(path: Path, *, labels: int, classes: int) -> tuple[Images, Labels]:
    """Return images and labels of a file of the binary version.

    Parameters
    ----------
    path : Path
    labels : int
        Number of bytes before the red, green and blue planes; the last of them is the label.
    classes : int

    Raises
    ------
    RegimeError
        The file is truncated or holds invalid labels.
    """
    content = np.fromfile(path, np.uint8)
    record = labels + _PIXELS
    if not len(content) or len(content) % record:
        raise RegimeError(f"{path}: {len(content)} bytes, expected a multiple of {record}; it is cut off")
    records = content.reshape(-1, record)
    return records[:, labels:].reshape(-1, 3, 32, 32), checked_labels(records[:, labels - 1], classes, str(path))


def from_pickle(path: Path, *, key: str, classes: int) -> tuple[Images, Labels]:
    """Return images and labels of a file of the Python version.

    Parameters
    ----------
    path : Path
    key : str
        Key of the labels.
    classes : int

    Raises
    ------
    RegimeError
        It is no such file.
    """
    with path.open("rb") as file:
        found: Any = load_arrays(file, str(path))
    if not isinstance(found, dict) or not {"data", key} <= found.keys():
        raise RegimeError(f"{path}: a pickle without data and {key}, which a file of CIFAR holds")
    data, labels = found["data"], found[key]
    is_table = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape[1:] == (_PIXELS,)
    if not is_table or not isinstance(labels, list) or len(labels) != len(data):
        raise RegimeError(f"{path}: data and {key} are not as many bytes of {_PIXELS} for each label")
    if not all(isinstance(label, int) for label in labels):
        raise RegimeError(f"{path}: {key} are not all whole numbers")
    return data.reshape(-1, 3, 32, 32), checked_labels(labels, classes, str(path))
