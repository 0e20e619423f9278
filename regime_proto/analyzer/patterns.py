"""What stored masks tell beyond Δa: Δa against stride, agreement between observations, and what single units do."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from regime_proto.analyzer.masks import MaskSelection, select_masks
from regime_proto.schema.flips import FlipCounter, pattern_change
from regime_proto.schema.types import Array

# A unit is restless if it changed, for some sample, over more than half of the intervals in the last quarter.
LATE = 0.25
RESTLESS = 0.5


@dataclass(frozen=True)
class Strides:
    """Δa between observations further and further apart (PROTOCOL, section 5).

    Parameters
    ----------
    distances : (distance,) int64
        In observations whose masks are stored.
    steps : (distance,) float64
        The same in steps, the mean over the pairs.
    mean, low, high : (distance,) float64
        Δa over pairs spread over the run: mean, smallest, largest.
    pairs : (distance,) int64
    """

    distances: Array
    steps: Array
    mean: Array
    low: Array
    high: Array
    pairs: Array


@dataclass(frozen=True)
class Units:
    """What the units of each layer do, over all probe samples that are looked at.

    Parameters
    ----------
    stored : (layer,) int64
        Units whose bits are stored.
    dead : (pick, layer) int64
        Units that are below their first threshold for every sample.
    always_on : (pick, layer) int64
        Units that are above it for every sample.
    restless : (layer,) int64
        Units that changed, for some sample, over more than half of the intervals between picks in the last quarter
        of the run.
    late_picks : int
        Picks in that quarter.
    """

    stored: Array
    dead: Array
    always_on: Array
    restless: Array
    late_picks: int


@dataclass(frozen=True)
class Patterns:
    """What the masks of a trajectory tell.

    Parameters
    ----------
    steps : (pick,) int64
        Observations that are looked at.
    agreement : (pick, pick) float64
        Share of units in the same region, mean over the layers: 1 - Δa.
    strides : Strides
    units : Units
    samples, all_samples : int
        Samples that are looked at, and those in the file.
    stored : int
        Observations whose masks are stored.
    """

    steps: Array
    agreement: Array
    strides: Strides
    units: Units
    samples: int
    all_samples: int
    stored: int


def read_patterns(trajectory: xr.Dataset) -> Patterns | None:
    """Return what the masks of a trajectory tell, None where fewer than two are stored."""
    chosen = select_masks(trajectory)
    return None if chosen is None else patterns_of(chosen)


def patterns_of(chosen: MaskSelection) -> Patterns:
    """Return what masks that were read tell."""
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
    """Return the bits that are set in each row."""
    return np.asarray(np.bitwise_count(packed).sum(axis=-1, dtype=np.int64))
