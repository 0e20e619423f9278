"""Packed masks: finding the sample and token axes of a gate, packing bits into bytes, and comparing masks."""

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from regime_proto.engine.session import Masks, MaskSession
from regime_proto.program.gates import Gate
from regime_proto.program.mask_outputs import Rows
from regime_proto.program.probe_advice import missing_axis
from regime_proto.program.sample_axes import AXIS, FIXED, axes_of, reordered, sample_first
from regime_proto.runtime.device import Placed, cores
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.types import Array

# Rows of a batched product may round differently at a different place in the batch, in a different
# engine or on a different machine: a few units near zero may differ between the compared runs.
_AGREEMENT = 0.999


def pack(planes: Sequence[Array]) -> Array:
    """Pack bool masks, 8 units per byte, the first unit in the highest bit.

    Parameters
    ----------
    planes : sequence of (sample, unit) bool

    Returns
    -------
    (sample, byte) uint8
        The planes one after another, each padded to whole bytes.
    """
    return np.concatenate([np.packbits(plane, axis=1) for plane in planes], axis=1)


def pack_masks(masks: Masks) -> Array:
    """Return the masks of a session as bytes, packed on the device or here."""
    return pack([plane.numpy() for plane in masks.planes]) if masks.packed is None else masks.packed


def is_same_but_rounding(mask: Array, other: Array) -> bool:
    """Whether two packed masks, (sample, byte) uint8, differ in no more units than rounding can explain."""
    differing = int(np.bitwise_count(np.bitwise_xor(mask, other)).sum())
    return differing <= (1 - _AGREEMENT) * 8 * mask.size


@dataclass(frozen=True)
class Permutation:
    """A probe, and the same probe with permuted samples, to check whether a gate follows the samples.

    Parameters
    ----------
    probe : mapping of str to array
    samples : int
    axes : mapping of str to int
        The sample axis of each input; see `sample_axes.find_axes`.
    """

    probe: Mapping[str, Array]
    samples: int
    axes: Mapping[str, int]

    @classmethod
    def of(cls, probe: Mapping[str, Array], inputs: Sequence[str]) -> "Permutation":
        """Create one from a bound probe."""
        return cls(probe, *axes_of(probe, inputs))

    @property
    def order(self) -> Array:
        """The original index of each sample, (sample,) int64."""
        return np.roll(np.arange(self.samples), 1)

    @property
    def permuted(self) -> dict[str, Array]:
        """The permuted probe."""
        return reordered(self.probe, self.axes, self.order)

    def require_followed(self, gates: Sequence[Gate], differing: Array, units: Array) -> None:
        """Raise an error unless every gate follows the samples.

        Parameters
        ----------
        gates : sequence of Gate
        differing : (gate,) int64
            Number of units, over all samples, that differ.
        units : (gate,) int64
            Number of units in total.

        Raises
        ------
        RegimeError
            A gate does not; the message names it. Its units mix samples.
        """
        for gate, wrong, count in zip(gates, differing, units, strict=True):
            if wrong > (1 - _AGREEMENT) * count:
                raise RegimeError(_mixed(gate, self))


def only_rows(gates: Sequence[Gate], samples: int) -> tuple[Rows, ...] | None:
    """Return the rows of every gate, if only one axis of each can be the sample; otherwise None."""
    axes = [_candidates(gate.shape, samples) for gate in gates]
    return tuple(Rows(samples, axis) for [axis] in axes) if all(len(found) == 1 for found in axes) else None


def find_rows(
    session: MaskSession,
    weights: Mapping[str, Placed],
    permutation: Permutation,
    counted: Array | None = None,
) -> tuple[Rows, ...]:
    """Find the sample axis of every gate, and verify it by permuting the probe; then find the token axis.

    Parameters
    ----------
    session : MaskSession
        It returns masks in the shapes of their gates.
    weights : mapping of str to placed array
    permutation : Permutation
        Of the probe.
    counted : (sample, token) bool, optional
        False for padding.

    Raises
    ------
    RegimeError
        A gate has no such axis; the message names it. Its units mix samples.
    """
    probes = (permutation.probe, permutation.permuted)
    with ThreadPoolExecutor(min(2, cores())) as pool:
        masks, permuted = pool.map(lambda given: _by_gate(session.gates, session.run(weights, given).planes), probes)
    found = [
        row_of(gate, mask, other, permutation, counted)
        for gate, mask, other in zip(session.gates, masks, permuted, strict=True)
    ]
    warn_of_tokens(found, counted)
    return tuple(found)


def row_of(gate: Gate, mask: Array, permuted: Array, permutation: Permutation, counted: Array | None = None) -> Rows:
    """Return how to turn one gate into rows of units.

    Parameters
    ----------
    gate : Gate
    mask : array
        The number of thresholds below each unit, in the shape of the gate.
    permuted : array
        The same for the permuted probe.
    permutation : Permutation
    counted : (sample, token) bool, optional
        False for padding.

    Raises
    ------
    RegimeError
        It has no sample axis.
    """
    samples, order = permutation.samples, permutation.order
    fitting = (
        axis
        for axis in _candidates(gate.shape, samples)
        if np.mean(sample_first(mask, axis, samples)[order] == sample_first(permuted, axis, samples)) >= _AGREEMENT
    )
    axis = next(fitting, None)
    if axis is None:
        raise RegimeError(_mixed(gate, permutation))
    rows = Rows(samples, axis)
    return rows if counted is None else replace(rows, counted=_counted_units(gate, rows, counted))


def warn_of_tokens(found: Sequence[Rows], counted: Array | None) -> None:
    """Warn if the probe marks padding tokens but no gate has a token axis."""
    if counted is not None and all(rows.counted is None for rows in found):
        warnings.warn(
            f"regime_mask has {counted.shape[1]} tokens, but no gate has an axis of that length; all units are counted",
            RegimeWarning,
            stacklevel=4,
        )


def _mixed(gate: Gate, permutation: Permutation) -> str:
    name, probe = next(iter(permutation.axes)), permutation.probe
    found = (
        f"gate {gate.node} ({gate.path or 'no module'}): no axis of its shape {list(gate.shape)} follows the "
        f"{permutation.samples} probe samples"
    )
    elsewhere = (
        f"if the model mixes samples there, leave the gate out with --gates '!{gate.node}'; if "
        f"the sample is a different axis of the probe, add an array {AXIS}{name} to it: 1 for the "
        f"second axis, {FIXED} for an input that is the same for all samples"
    )
    missing = missing_axis(name, probe[name].shape)
    # An input with one axis is more likely one sample than one number per sample.
    return f"{found}; {missing}; {elsewhere}" if probe[name].ndim == 1 else f"{found}; {elsewhere}; {missing}"


def _by_gate(gates: Sequence[Gate], planes: Sequence[Placed]) -> list[Array]:
    """Return for every gate the number of thresholds below each unit; a single plane may be constant."""
    counts: list[Array] = []
    start = 0
    for gate in gates:
        counts.append(planes_above([plane.numpy() for plane in planes[start : start + len(gate.planes)]]))
        start += len(gate.planes)
    return counts


def planes_above(planes: Sequence[Array]) -> Array:
    """Return the number of a gate's thresholds below each unit, uint8."""
    return np.asarray(np.sum([plane.astype(np.uint8) for plane in planes], axis=0, dtype=np.uint8))


def _candidates(shape: Sequence[int], samples: int) -> list[int]:
    axes = [axis for axis, length in enumerate(shape) if length == samples]
    if shape and shape[0] != samples and shape[0] % samples == 0:
        axes.append(-1)
    return axes


def _counted_units(gate: Gate, rows: Rows, counted: Array) -> Array | None:
    """Return a mask of the counted units of a gate, None for all; units of padding tokens are not counted."""
    tokens = counted.shape[1]
    if rows.axis == -1:
        rest = [gate.shape[0] // rows.samples, *gate.shape[1:]]
    else:
        rest = [length for axis, length in enumerate(gate.shape) if axis != rows.axis]
    at = [axis for axis, length in enumerate(rest) if length == tokens]
    if not at:
        return None
    if len(at) > 1:
        warnings.warn(
            f"gate {gate.node}: {len(at)} axes of its shape {list(gate.shape)} have the length of "
            f"regime_mask ({tokens} tokens); the first one is used",
            RegimeWarning,
            stacklevel=3,
        )
    shape = [rows.samples, *(tokens if axis == at[0] else 1 for axis in range(len(rest)))]
    return np.broadcast_to(counted.reshape(shape), [rows.samples, *rest]).reshape(rows.samples, -1)
