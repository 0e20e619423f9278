"""Converts tables of numbers and categories into inputs of a network."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from regime_proto.examples.paper.data.sets import LABELS, DataSet, Indices, Part

Numbers = NDArray[np.float32]


def standardised(values: NDArray[np.float64], train: Indices) -> Numbers:
    """Scale each column to mean 0 and deviation 1 over the training samples; a constant column becomes 0.

    Parameters
    ----------
    values : (sample, feature) float64
    train : (sample,) int64
    """
    mean, deviation = values[train].mean(axis=0), values[train].std(axis=0)
    return np.asarray((values - mean) / np.where(deviation > 0, deviation, 1.0), np.float32)


def one_hot(table: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.float64]:
    """Return a one-hot encoding of each column.

    Returns
    -------
    (sample, feature) float64
    """
    return np.asarray(pd.get_dummies(table[list(columns)]).to_numpy(np.float64), np.float64)


def part(values: Numbers, labels: NDArray[np.int64], chosen: Indices) -> Part:
    """Return the samples at these indices as a part of a data set."""
    return {"x": values[chosen], LABELS: labels[chosen]}


def as_data_set(
    values: NDArray[np.float64],
    labels: NDArray[np.int64],
    split: tuple[Indices, Indices],
    *,
    name: str,
    origin: str,
    stands_for: str | None = None,
) -> DataSet:
    """Return a data set of standardised features.

    Parameters
    ----------
    values : (sample, feature) float64
    labels : (sample,) int64
    split : pair of (sample,) int64
        Indices of the training samples and of the validation samples.
    name, origin, stands_for : str
        As in `DataSet`.
    """
    train, validation = split
    if len(values) != len(labels):
        raise ValueError(f"{len(values)} samples and {len(labels)} labels")
    if not np.isfinite(values).all() or labels.min() < 0:
        raise ValueError("a row is cut off, or is no row of this data set")
    if not len(train) or not len(validation):
        raise ValueError("no samples to train with, or none to validate with")
    scaled = standardised(values, train)
    return DataSet(
        name=name,
        origin=origin,
        train=part(scaled, labels, train),
        validation=part(scaled, labels, validation),
        classes=int(labels.max()) + 1,
        stands_for=stands_for,
        facts={"features": scaled.shape[1]},
    )
