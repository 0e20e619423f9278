"""The properties of a run that every meter derives from the first state, whether states run whole or in parts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regime_proto.engine.masks import Permutation
from regime_proto.engine.output_units import find_output_units
from regime_proto.engine.sampling import choose_units, flip_fraction_errors
from regime_proto.program.gates import Gate
from regime_proto.program.mask_outputs import Rows
from regime_proto.program.program import Program
from regime_proto.quantities import base as quantities
from regime_proto.quantities.measuring import Measures
from regime_proto.runtime.device import Device
from regime_proto.schema.header import Layer
from regime_proto.schema.types import Array


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """The data shared by all states of a run.

    Parameters
    ----------
    program : Program
    device : Device
    gates : tuple of Gate
        The tracked gates.
    rows : tuple of Rows
        How to turn each gate into rows of units.
    layers : tuple of Layer
    measures : Measures
        The quantities in addition to weight deltas and flips.
    unverified : Permutation, optional
        The permutation for the pending check that all gates follow the samples.
    """

    program: Program
    device: Device
    gates: tuple[Gate, ...]
    rows: tuple[Rows, ...]
    layers: tuple[Layer, ...]
    measures: Measures
    unverified: Permutation | None = None

    @property
    def layer_units(self) -> Array:
        """Units that count, (layer, sample) int64."""
        return self.measures.network.layer_units

    @property
    def is_sampled(self) -> bool:
        """Whether only some units of a layer are stored."""
        return any(row.units is not None for row in self.rows)

    @property
    def unit_index(self) -> tuple[Array, ...] | None:
        """The stored units of each layer; None if all are stored."""
        if not self.is_sampled:
            return None
        return tuple(
            np.arange(layer.width) if row.units is None else row.units
            for layer, row in zip(self.layers, self.rows, strict=True)
        )

    @property
    def names(self) -> list[str]:
        """The tensors that are part of Δw, in the order of the trajectory."""
        return [tensor.name for tensor in self.program.trainable]

    def flip_fraction_error(self, mask: Array, previous: Array) -> Array | None:
        """Return the standard error from sampling units, (layer,) float64; None if all units are stored."""
        return flip_fraction_errors(self.layers, self.rows, mask, previous) if self.is_sampled else None


def chosen(rows: Sequence[Rows], gates: Sequence[Gate], limit: int | None, seed: int) -> tuple[Rows, ...]:
    """Return the rows with only the units to be stored."""
    if limit is None:
        return tuple(rows)
    return tuple(
        choose_units(row, gate, limit, (seed, index)) for index, (row, gate) in enumerate(zip(rows, gates, strict=True))
    )


def layers_of(gates: Sequence[Gate], rows: Sequence[Rows]) -> tuple[Layer, ...]:
    """Return the gates as layers of the trajectory."""
    return tuple(gate.layer(row.samples, row.width(gate)) for gate, row in zip(gates, rows, strict=True))


def measures_of(
    measured: Sequence[quantities.Quantity], program: Program, layers: tuple[Layer, ...], rows: Sequence[Rows]
) -> Measures:
    """Return the quantities measured in addition to weight deltas and flips."""
    # The graph is searched only on demand.
    units = find_output_units(program) if measured else {}
    shapes = {tensor.name: tensor.shape for tensor in program.trainable}
    return Measures(tuple(measured), quantities.Network(shapes, layers, _counted(layers, rows), units))


def _counted(layers: Sequence[Layer], rows: Sequence[Rows]) -> Array:
    return np.array(
        [
            np.full(row.samples, layer.width) if row.counted is None else row.counted.sum(axis=1)
            for layer, row in zip(layers, rows, strict=True)
        ],
        np.int64,
    )
