"""Computes from stored masks: Δa against stride, agreement between observations, and statistics of units."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from regime_proto.analyzer.masks import MaskSelection, select_masks
from regime_proto.schema.flips import FlipCounter, pattern_change
from regime_proto.schema.types import Array

# A unit is restless if it changed, for any sample, over more than half of the intervals in the last quarter.
LATE = 0.25
RESTLESS = 0.5


@dataclass(frozen=True)
class Strides:
    """Δa between observations at increasing distances (docs/protocol.md, section 5).

    Parameters
    ----------
    distances : (distance,) int64
        Distance, counted in observations whose masks are stored.
    steps : (distance,) float64
        Distance in steps, mean over the pairs.
    mean, low, high : (distance,) float64
        Mean, smallest and largest Δa over pairs spread over the run.
    pairs : (distance,) int64
        Number of pairs.
    """

    distances: Array
    steps: Array
    mean: Array
    low: Array
    high: Array
    pairs: Array


@dataclass(frozen=True)
class Units:
    """Numbers of units of each kind in each layer, over all selected probe samples.

    Parameters
    ----------
    stored : (layer,) int64
        Units whose bits are stored.
    dead : (pick, layer) int64
        Units that are below their first threshold for every sample.
    always_on : (pick, layer) int64
        Units that are above it for every sample.
    restless : (layer,) int64
        Units that changed, for any sample, over more than half of the intervals between picks in the last quarter
        of the run.
    late_picks : int
        Number of picks in that quarter.
    """

    stored: Array
    dead: Array
    always_on: Array
    restless: Array
    late_picks: int


@dataclass(frozen=True)
class Patterns:
    """Statistics of the masks of a trajectory.

    Parameters
    ----------
    steps : (pick,) int64
        Steps of the selected observations.
    agreement : (pick, pick) float64
        Share of units in the same region, mean over the layers: 1 - Δa.
    strides : Strides
    units : Units
    samples, all_samples : int
        Number of selected samples, and of samples in the file.
    stored : int
        Number of observations whose masks are stored.
    """

    steps: Array
    agreement: Array
    strides: Strides
    units: Units
    samples: int
    all_samples: int
    stored: int


def read_patterns(trajectory: xr.Dataset) -> Patterns | None:
    """Return the statistics of the masks of a trajectory; None if fewer than two masks are stored."""
    chosen = select_masks(trajectory)
    return None if chosen is None else patterns_of(chosen)


def patterns_of(chosen: MaskSelection) -> Patterns:
    """Return the statistics of selected masks."""
    counter = FlipCounter(chosen.layers)
    return Patterns(
        steps=chosen.steps,
        agreement=_agreement(chosen, counter),
        strides=_strides(chosen, counter),
        units=_units(chosen),
        samples=chosen.masks.shape[1],
        all_samples=chosen.all_samples,
        stored=chosen.stored,
    )


def _change(chosen: MaskSelection, counter: FlipCounter, mask: Array, other: Array) -> float:
    return pattern_change(counter.count(mask, other).sum(axis=1), chosen.units.sum(axis=1))


def _agreement(chosen: MaskSelection, counter: FlipCounter) -> Array:
    picks = len(chosen.steps)
    agreement = np.eye(picks)
    for row in range(picks):
        for column in range(row):
            same = 1 - _change(chosen, counter, chosen.masks[row], chosen.masks[column])
            agreement[row, column] = agreement[column, row] = same
    return agreement


def _strides(chosen: MaskSelection, counter: FlipCounter) -> Strides:
    changes = {
        distance: np.array([_change(chosen, counter, *chosen.paired[pair]) for pair in pairs])
        for distance, pairs in chosen.pairs.items()
    }
    spans = [np.diff(chosen.paired_steps[pairs], axis=1).mean() for pairs in chosen.pairs.values()]
    return Strides(
        distances=np.array(list(changes)),
        steps=np.array(spans),
        mean=np.array([found.mean() for found in changes.values()]),
        low=np.array([found.min() for found in changes.values()]),
        high=np.array([found.max() for found in changes.values()]),
        pairs=np.array([len(found) for found in changes.values()]),
    )


def _units(chosen: MaskSelection) -> Units:
    masks = chosen.masks
    stops = np.cumsum([layer.bytes for layer in chosen.layers])
    late = masks[-max(2, round(LATE * len(masks))) :]
    dead, always_on, restless = [], [], []
    for layer, stop in zip(chosen.layers, stops, strict=True):
        planes = len(layer.thresholds)
        start = int(stop) - layer.bytes
        first = masks[:, :, start : start + layer.bytes // planes]
        dead.append(layer.width - _count(np.bitwise_or.reduce(first, axis=1)))
        always_on.append(_count(np.bitwise_and.reduce(first, axis=1)))
        changed = late[1:, :, start:stop] ^ late[:-1, :, start:stop]
        by_plane = changed.reshape(len(changed), masks.shape[1] * planes, -1)
        often = np.unpackbits(np.bitwise_or.reduce(by_plane, axis=1), axis=1).sum(axis=0)
        restless.append(int((often > RESTLESS * len(changed)).sum()))
    return Units(
        stored=np.array([layer.width for layer in chosen.layers]),
        dead=np.stack(dead, axis=1),
        always_on=np.stack(always_on, axis=1),
        restless=np.array(restless),
        late_picks=len(late),
    )


def _count(packed: Array) -> Array:
    """Return the number of bits set in each row."""
    return np.asarray(np.bitwise_count(packed).sum(axis=-1, dtype=np.int64))
