"""A random sample of the units of large layers, and its standard error."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from regime_proto.program.gates import Gate
from regime_proto.program.mask_outputs import Rows
from regime_proto.schema.header import Layer
from regime_proto.schema.types import Array


def choose_units(rows: Rows, gate: Gate, limit: int, seed: Sequence[int]) -> Rows:
    """Return `rows` with at most `limit` units, drawn at random without replacement, in ascending order."""
    size = math.prod(gate.shape) // rows.samples
    if size <= limit:
        return rows
    units = np.sort(np.random.default_rng(list(seed)).choice(size, limit, replace=False))
    counted = None if rows.counted is None else np.ascontiguousarray(rows.counted[:, units])
    return replace(rows, units=units, counted=counted)


def flip_fraction_errors(layers: Sequence[Layer], rows: Sequence[Rows], mask: Array, previous: Array) -> Array:
    """Return the standard error of each layer's flip fraction due to sampling units.

    It is that of a ratio estimator under simple random sampling of whole units without replacement, each observed on
    all samples (Cochran, *Sampling Techniques*, 3rd ed., section 6.3); 0 if every unit is stored.

    Parameters
    ----------
    layers : sequence of Layer
    rows : sequence of Rows
        One per layer.
    mask, previous : (sample, byte) uint8

    Returns
    -------
    (layer,) float64
    """
    changed = np.bitwise_xor(mask, previous)
    starts = np.cumsum([0, *(layer.bytes for layer in layers)])
    return np.array(
        [
            _error(layer, row, changed[:, start : start + layer.bytes])
            for layer, row, start in zip(layers, rows, starts[:-1], strict=True)
        ]
    )


def _error(layer: Layer, rows: Rows, changed: Array) -> float:
    if layer.width < 2 or layer.width == layer.size:
        return 0.0
    planes = changed.reshape(len(changed), len(layer.thresholds), -1)
    bits = np.unpackbits(np.bitwise_or.reduce(planes, axis=1), axis=1)[:, : layer.width]
    flips = bits.sum(axis=0, dtype=np.float64)
    counted = np.full(layer.width, float(rows.samples)) if rows.counted is None else rows.counted.sum(axis=0)
    if not counted.any():
        return 0.0
    residuals = flips - flips.sum() / counted.sum() * counted
    variance = np.square(residuals).sum() / (layer.width - 1)
    left_out = 1 - layer.width / layer.size
    return float(math.sqrt(left_out * variance / layer.width) / counted.mean())
