"""Reads the raw series of a trajectory: weight and pattern change per interval (docs/protocol.md, sections 2 and 3)."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from regime_proto.analyzer.readings import WEIGHT_WEIGHTINGS
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

# Number of values of a variable that are held at a time; a file may hold more than memory can.
_BLOCK_VALUES = 4 * 2**20


@dataclass(frozen=True)
class Series:
    """The changes between consecutive valid observations.

    Parameters
    ----------
    steps : (interval,) int64
        Step at the end of each interval.
    lengths : (interval,) float64
        Number of steps in each interval.
    start : int
        Step of the first observation, s_0.
    weights : dict of str to (interval,) float64
        Δw by weighting, one of `WEIGHT_WEIGHTINGS`.
    layers : (interval, layer) float64
        Δa of every layer.
    patterns : dict of str to (interval,) float64
        Δa by weighting: ``layer`` and ``unit``.
    pattern_error : (interval,) float64 or None
        Standard error of Δa (``layer`` weighting), if only a sample of the units is stored.
    distance : (interval,) float64 or None
        ‖w_i − w_0‖ at the end of each interval, over all trainable parameters, if it was recorded.
    """

    steps: Array
    lengths: Array
    start: int
    weights: dict[str, Array]
    layers: Array
    patterns: dict[str, Array]
    pattern_error: Array | None = None
    distance: Array | None = None


def read_series(trajectory: xr.Dataset) -> Series:
    """Return the series of a trajectory; intervals that touch an invalid observation are left out."""
    steps = trajectory["step"].to_numpy().astype(np.int64)
    _require_span(steps)
    kept = usable_intervals(trajectory)
    flips = by_blocks(trajectory["flips"], kept, _layer_flips).astype(np.float64)
    units = trajectory["layer_units"].to_numpy().sum(axis=1).astype(np.float64)
    if not units.any():
        raise RegimeError("layer_units is 0 everywhere: no units count, so there is no pattern change")
    layers = flips / np.where(units > 0, units, np.nan)
    sizes = trajectory["tensor_size"].to_numpy()
    weights = by_blocks(trajectory["weight_delta_l1"], kept, lambda sums: weight_change(sums, sizes))
    return Series(
        steps=steps[kept],
        lengths=(steps[kept] - steps[kept - 1]).astype(np.float64),
        start=int(steps[0]),
        weights=dict(zip(WEIGHT_WEIGHTINGS, np.ascontiguousarray(weights.T), strict=True)),
        layers=layers,
        patterns={
            "layer": layers[:, units > 0].mean(axis=1),
            "unit": flips.sum(axis=1) / units.sum(),
        },
        pattern_error=_pattern_error(trajectory, kept, units > 0),
        distance=_distance(trajectory, kept),
    )


def _require_span(steps: Array) -> None:
    """Raise an error if the difference between the first and last step does not fit into 64-bit integers."""
    if int(steps[-1]) - int(steps[0]) >= 2**63:
        raise RegimeError(f"the steps run from {steps[0]} to {steps[-1]}: expected fewer than 2^63 from first to last")


def usable_intervals(trajectory: xr.Dataset) -> Array:
    """Return the indices of valid observations that follow a valid one."""
    valid = trajectory["valid"].to_numpy().astype(bool)
    return np.flatnonzero(valid[1:] & valid[:-1]) + 1


def _pattern_error(trajectory: xr.Dataset, kept: Array, counted: Array) -> Array | None:
    """Return the standard error of the mean over layers, whose units were drawn independently."""
    if "flip_fraction_error" not in trajectory:
        return None
    errors = trajectory["flip_fraction_error"].to_numpy()[kept][:, counted]
    return np.asarray(np.sqrt(np.square(errors).sum(axis=1)) / counted.sum())


def _distance(trajectory: xr.Dataset, kept: Array) -> Array | None:
    if "weight_distance_l2" not in trajectory:
        return None
    return by_blocks(
        trajectory["weight_distance_l2"], kept, lambda norms: np.asarray(np.sqrt(np.square(norms).sum(axis=1)))
    )


def weight_change(sums: Array, sizes: Array) -> Array:
    """Return Δw (Eq. 2) from Σ|Δ| per tensor, in both weightings.

    Parameters
    ----------
    sums : (interval, tensor) float64
    sizes : (tensor,) int64
        Elements.

    Returns
    -------
    (interval, weighting) float64
        Weightings in the order of `WEIGHT_WEIGHTINGS`.
    """
    counted = sizes > 0
    # Summed as Python integers, because the sizes in a file may add up to more than 64 bits can hold.
    total = float(sum(sizes.tolist()))
    return np.stack([sums.sum(axis=1) / total, (sums[:, counted] / sizes[counted]).mean(axis=1)], axis=1)


def _layer_flips(flips: Array) -> Array:
    """Return the number of flips per observation and layer, summed over the samples."""
    summed: Array = flips.sum(axis=2, dtype=np.int64)
    return summed


def by_blocks(variable: xr.DataArray, kept: Array, reduce: Callable[[Array], Array]) -> Array:
    """Apply `reduce` to the kept rows of a variable, block by block, and return the result."""
    chosen = np.zeros(len(variable), bool)
    chosen[kept] = True
    # At least two rows, because NumPy may sum a single row in a different order.
    rows = max(2, _BLOCK_VALUES // max(1, math.prod(variable.shape[1:])))
    bounds = np.linspace(0, len(variable), max(1, len(variable) // rows) + 1, dtype=np.int64)
    spans = [(start, stop) for start, stop in itertools.pairwise(bounds) if chosen[start:stop].any()]
    # Blocks without a kept row are not read. If no row is kept, one block is read to get the shape of the result.
    blocks = [
        reduce(variable[start:stop].to_numpy()[chosen[start:stop]]) for start, stop in spans or [(0, int(bounds[1]))]
    ]
    return np.concatenate(blocks)
