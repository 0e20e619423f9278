"""Human Activity Recognition with smartphones; replaced by the motion of a smartwatch if unavailable."""

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from regime_proto.examples.paper.data.files import reading, require
from regime_proto.examples.paper.data.packages import Package
from regime_proto.examples.paper.data.pickled_arrays import load_arrays
from regime_proto.examples.paper.data.sets import DataSet, held_out
from regime_proto.examples.paper.data.table_columns import as_data_set

LAYOUT = "the folder UCI HAR Dataset, with X_train.txt, y_train.txt in train and X_test.txt, y_test.txt in test"
PACKAGE = Package("PyPI", "seglearn", "1.2.5", "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd")
_MEMBER = "seglearn/data/watch_dataset.npy"
# Readings per window, and distance between the starts of windows; each reading has six numbers.
_WINDOW, _HOP = 128, 64


def packaged() -> DataSet:
    """Return the motion of a smartwatch during seven exercises, in windows of 128 readings of 6 numbers."""
    content = PACKAGE.member(_MEMBER)
    series, kinds = _recordings(content)
    # Windows overlap, so whole recordings are held out for validation.
    validation = np.isin(np.arange(len(series)), held_out(kinds)[1])
    windows: list[NDArray[np.float64]] = []
    labels: list[int] = []
    is_held_out: list[bool] = []
    for one, kind, held in zip(series, kinds.tolist(), validation.tolist(), strict=True):
        for start in range(0, len(one) - _WINDOW + 1, _HOP):
            windows.append(one[start : start + _WINDOW].ravel())
            labels.append(kind)
            is_held_out.append(held)
    split = np.flatnonzero(~np.array(is_held_out)), np.flatnonzero(is_held_out)
    return as_data_set(
        np.array(windows),
        np.array(labels, np.int64),
        split,
        name="smartwatch motion",
        origin=str(PACKAGE),
        stands_for="HAR",
    )


def from_folder(folder: Path) -> DataSet:
    """Return the data set in a folder."""
    parts = [
        (_numbers(folder, f"{part}/X_{part}.txt", 2, np.float64), _numbers(folder, f"{part}/y_{part}.txt", 1, np.int64))
        for part in ("train", "test")
    ]
    values, labels = (np.concatenate([part[at] for part in parts]) for at in (0, 1))
    split = np.arange(len(parts[0][0])), np.arange(len(parts[0][0]), len(values))
    return as_data_set(values, labels - 1, split, name="HAR", origin=str(folder))


def _numbers(folder: Path, name: str, axes: Literal[1, 2], kind: type[np.generic]) -> NDArray[Any]:
    with reading(require(folder, name, LAYOUT)) as path:
        return np.loadtxt(path, dtype=kind, ndmin=axes)


def _recordings(content: bytes) -> tuple[list[NDArray[np.float64]], NDArray[np.int64]]:
    """Return the recordings, each (reading, 6), and the activity in each."""
    stream = io.BytesIO(content)
    npy.read_magic(stream)
    npy.read_array_header_1_0(stream)
    found = load_arrays(stream, str(PACKAGE)).item()
    return list(found["X"]), np.asarray(found["y"], np.int64)
