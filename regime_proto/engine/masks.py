"""Packed masks: where the sample axis lies, bits to bytes, and counting flips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from regime_proto.engine.session import MaskSession
from regime_proto.schema.errors import RegimeError
from regime_proto.source import Array

# Rows of a batched product can round differently at another place in the batch: a few units within
# rounding of zero may differ between the two runs that are compared.
_AGREEMENT = 0.999


@dataclass(frozen=True)
class MaskLayout:
    """How the masks of a session become rows of bytes.

    Parameters
    ----------
    samples : int
    axes : tuple of int
        The sample axis of each gate; -1 for a leading axis that holds samples × something.
    """

    samples: int
    axes: tuple[int, ...]

    def pack(self, masks: Sequence[Array]) -> Array:
        """Pack bool masks, 8 units per byte, the first unit in the highest bit.

        Returns
        -------
        (sample, byte) uint8
            Layer after layer, each padded to whole bytes.
        """
        rows = [
            np.packbits(sample_first(mask, axis, self.samples), axis=1)
            for mask, axis in zip(masks, self.axes, strict=True)
        ]
        return np.concatenate(rows, axis=1)


def sample_first(mask: Array, axis: int, samples: int) -> Array:
    """Return `mask` as (sample, unit)."""
    if axis > 0:
        mask = np.moveaxis(mask, axis, 0)
    return mask.reshape(samples, -1)


def count_flips(mask: Array, previous: Array, starts: Array) -> Array:
    """Count the bits that differ, per layer and sample (PROTOCOL: Eq. 3, numerator).

    Parameters
    ----------
    mask, previous : (sample, byte) uint8
    starts : (layer,) int64
        First byte of each layer.

    Returns
    -------
    (layer, sample) uint32
    """
    changed = np.bitwise_count(np.bitwise_xor(mask, previous))
    return np.add.reduceat(changed, starts, axis=1, dtype=np.uint32).T


def find_layout(session: MaskSession, weights: Mapping[str, Array], probe: Mapping[str, Array]) -> MaskLayout:
    """Find the sample axis of every gate, and verify it by permuting the probe.

    Raises
    ------
    RegimeError
        Names a gate that has no such axis: its units mix the samples.
    """
    samples = len(next(iter(probe.values())))
    order = np.roll(np.arange(samples), 1)
    masks, _ = session.run(weights)
    permuted, _ = session.run(weights, {name: array[order] for name, array in probe.items()})
    axes = []
    for gate, mask, other in zip(session.gates, masks, permuted, strict=True):
        fitting = (
            axis
            for axis in _candidates(gate.shape, samples)
            if np.mean(sample_first(mask, axis, samples)[order] == sample_first(other, axis, samples)) >= _AGREEMENT
        )
        axis = next(fitting, None)
        if axis is None:
            raise RegimeError(
                f"gate {gate.node} ({gate.path or 'no module'}): no axis of its shape {list(gate.shape)} follows the "
                f"{samples} probe samples; the model mixes samples, or the probe's first axis is not the sample"
            )
        axes.append(axis)
    return MaskLayout(samples, tuple(axes))


def _candidates(shape: Sequence[int], samples: int) -> list[int]:
    axes = [axis for axis, length in enumerate(shape) if length == samples]
    if shape and shape[0] != samples and shape[0] % samples == 0:
        axes.append(-1)
    return axes
