"""Reads a selection of the stored masks of a trajectory that fits into memory."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from regime_proto.schema.hdf5 import MAX_CHUNK_STEPS
from regime_proto.schema.header import LAYER_VARIABLES, Layer, layers_in
from regime_proto.schema.types import Array

# Most bytes that are decompressed, held, and compared pair by pair.
READ_BYTES = 1 * 2**30
HELD_BYTES = 256 * 2**20
COMPARED_BYTES = 2 * 2**30

# Number of selected observations, evenly spaced; number of pairs at every distance.
PICKS = 64
MIN_PICKS = 16
ANCHORS = 16


@dataclass(frozen=True)
class MaskSelection:
    """A selection of the masks of a trajectory.

    Parameters
    ----------
    steps : (pick,) int64
        Steps of the selected observations, evenly spaced among those whose masks are stored.
    masks : (pick, sample, byte) uint8
        8 units per byte, first unit in the highest bit.
    pairs : dict of int to (pair, 2) int64
        Pairs of rows of `paired` by their distance, counted in observations with masks.
    paired : (row, sample, byte) uint8
    paired_steps : (row,) int64
    layers : tuple of Layer
    units : (layer, sample) int64
        Number of units that count, for each selected sample.
    all_samples : int
        Number of samples in the file.
    stored : int
        Number of observations whose masks are stored.
    """

    steps: Array
    masks: Array
    pairs: dict[int, Array]
    paired: Array
    paired_steps: Array
    layers: tuple[Layer, ...]
    units: Array
    all_samples: int
    stored: int


def select_masks(trajectory: xr.Dataset) -> MaskSelection | None:
    """Read masks at evenly spaced observations of a run, and pairs of masks at distances 1, 2, 4 and so on.

    Invalid observations are left out. If the masks are large, fewer observations and samples are selected. The
    selection is the same whenever the same file is read.

    Returns
    -------
    MaskSelection or None
        None if fewer than two masks are stored.
    """
    steps, usable = trajectory["mask_step"].to_numpy().astype(np.int64), _usable(trajectory)
    if len(usable) < 2:
        return None
    samples, row = trajectory.sizes["sample"], trajectory.sizes["byte"]
    picks = _picks(samples * row)
    selected = _spread(len(usable), picks)
    pairs = _pairs(len(usable))
    partners = np.unique(np.concatenate([*pairs.values()]))
    rows = np.union1d(selected, partners)
    chosen = _samples(usable[rows], samples, row)
    masks = _read(trajectory["mask"], usable[rows], chosen)
    return MaskSelection(
        steps=steps[usable[selected]],
        masks=masks[np.searchsorted(rows, selected)],
        pairs={distance: np.searchsorted(partners, found) for distance, found in pairs.items()},
        paired=masks[np.searchsorted(rows, partners)],
        paired_steps=steps[usable[partners]],
        layers=layers_in({name: trajectory[name].to_numpy() for name in LAYER_VARIABLES if name in trajectory}),
        units=trajectory["layer_units"].to_numpy()[:, chosen],
        all_samples=samples,
        stored=len(usable),
    )


def _usable(trajectory: xr.Dataset) -> Array:
    """Return the indices of stored masks that belong to valid observations."""
    steps = trajectory["step"].to_numpy()[trajectory["valid"].to_numpy() > 0]
    return np.flatnonzero(np.isin(trajectory["mask_step"].to_numpy(), steps))


def _picks(observation: int) -> int:
    """Return the number of observations, of `observation` bytes each, that can all be compared with each other."""
    picks = PICKS
    while picks > MIN_PICKS and picks * (picks - 1) // 2 * observation > COMPARED_BYTES:
        picks //= 2
    return picks


def _spread(count: int, picks: int) -> Array:
    """Return `picks` evenly spaced numbers below `count`, including the first and the last."""
    return np.unique(np.rint(np.linspace(0, count - 1, min(count, picks))).astype(np.int64))


def _pairs(count: int) -> dict[int, Array]:
    """Return pairs of numbers below `count`, by their distance."""
    distances = [2**power for power in range((count - 1).bit_length()) if 2**power < count]
    pairs = {}
    for distance in distances:
        first = _spread(count - distance, ANCHORS)
        pairs[distance] = np.stack([first, first + distance], axis=1)
    return pairs


def _samples(rows: Array, samples: int, row: int) -> Array:
    """Return the selected samples: all, or as many evenly spaced ones as fit into memory."""
    inflated = len(np.unique(rows // MAX_CHUNK_STEPS)) * MAX_CHUNK_STEPS * row
    affordable = min(READ_BYTES // inflated, HELD_BYTES // (len(rows) * row))
    return _spread(samples, max(1, affordable))


def _read(stored: xr.DataArray, rows: Array, samples: Array) -> Array:
    """Return the masks of some rows and samples, chunk by chunk."""
    parts = []
    every = len(samples) == stored.shape[1]
    for chunk in np.unique(rows // MAX_CHUNK_STEPS):
        inside = rows[rows // MAX_CHUNK_STEPS == chunk]
        block = stored[int(inside[0]) : int(inside[-1]) + 1]
        values = (block if every else block[:, samples]).to_numpy()
        parts.append(values[inside - inside[0]])
    return np.concatenate(parts)
