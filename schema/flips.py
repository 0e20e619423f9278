"""Counts the units whose region changed between two packed masks."""

from collections.abc import Sequence

import numpy as np

from regime_proto.schema.header import Layer
from regime_proto.schema.types import Array


class FlipCounter:
    """Counts the units whose region changed, per layer and sample (docs/protocol.md, Eq. 3, numerator; section 7).

    Parameters
    ----------
    layers : sequence of Layer
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        stops = np.cumsum([layer.bytes for layer in layers])
        self._starts = stops - [layer.bytes for layer in layers]
        # A unit with several planes flips once, however many of its bits change.
        self._several = [
            (index, int(start), len(layer.thresholds))
            for index, (start, layer) in enumerate(zip(self._starts, layers, strict=True))
            if len(layer.thresholds) > 1
        ]
        self._bytes = [layer.bytes for layer in layers]

    def count(self, mask: Array, previous: Array) -> Array:
        """Count flips.

        Parameters
        ----------
        mask, previous : (sample, byte) uint8

        Returns
        -------
        (layer, sample) uint32
        """
        changed = np.bitwise_xor(mask, previous)
        flips: Array = np.add.reduceat(np.bitwise_count(changed), self._starts, axis=1, dtype=np.uint32).T
        for index, start, planes in self._several:
            bits = changed[:, start : start + self._bytes[index]].reshape(len(mask), planes, -1)
            flips[index] = np.bitwise_count(np.bitwise_or.reduce(bits, axis=1)).sum(axis=1, dtype=np.uint32)
        return flips


def units_apart(layers: Sequence[Layer], mask: Array, other: Array) -> list[Array]:
    """Return, for each layer, the units whose region differs between two packed masks.

    Parameters
    ----------
    layers : sequence of Layer
    mask, other : (sample, byte) uint8

    Returns
    -------
    list of (sample, byte) uint8
        One bit per unit, first unit in the highest bit.
    """
    changed = np.bitwise_xor(mask, other)
    stops = np.cumsum([layer.bytes for layer in layers])
    parts = zip(layers, np.split(changed, stops[:-1], axis=1), strict=True)
    return [np.bitwise_or.reduce(part.reshape(len(mask), len(layer.thresholds), -1), axis=1) for layer, part in parts]


def pattern_change(flips: Array, units: Array) -> float:
    """Return Δa, the mean over layers of the share of units that flipped (docs/protocol.md, Eq. 3).

    Parameters
    ----------
    flips, units : (layer,)
        Summed over all samples; layers without counted units are left out.
    """
    counted = units > 0
    return float(np.mean(flips[counted] / units[counted]))
