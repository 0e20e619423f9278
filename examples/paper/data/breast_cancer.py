"""Breast Cancer Wisconsin: 569 samples of 30 features, included in scikit-learn."""

from pathlib import Path

import numpy as np
import pandas as pd
import sklearn
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer

from regime_proto.examples.paper.data.files import reading, require
from regime_proto.examples.paper.data.sets import DataSet, held_out
from regime_proto.examples.paper.data.table_columns import as_data_set

LAYOUT = "wdbc.data, as the UCI repository has it"


def packaged() -> DataSet:
    """Return the data set."""
    values, labels = load_breast_cancer(return_X_y=True)
    return _data_set(values, labels.astype(np.int64), f"scikit-learn {sklearn.__version__}")


def from_folder(folder: Path) -> DataSet:
    """Return the data set in a folder."""
    with reading(require(folder, "wdbc.data", LAYOUT)) as path:
        table = pd.read_csv(path, header=None)
    # As in scikit-learn: 1 is benign.
    return _data_set(table.iloc[:, 2:].to_numpy(np.float64), (table[1] == "B").to_numpy(np.int64), str(folder))


def _data_set(values: NDArray[np.float64], labels: NDArray[np.int64], origin: str) -> DataSet:
    return as_data_set(values, labels, held_out(labels), name="Breast Cancer", origin=origin)
