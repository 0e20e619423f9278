"""A session of the network frozen to given regions, and the decomposition of a change in its outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from regime_proto.engine.session import Running, by_sample
from regime_proto.program.constant_weights import ConstantWeights
from regime_proto.program.edit import prune
from regime_proto.program.freezing import KINDS, FreezeGates, frozen_name
from regime_proto.program.gates import Gate
from regime_proto.program.mask_outputs import CastWeights, Rows
from regime_proto.program.program import Program
from regime_proto.program.sample_axes import sample_first
from regime_proto.program.sequences import SplitWithoutSequences
from regime_proto.quantities.structure import change_parts
from regime_proto.runtime.device import Device, Placed
from regime_proto.runtime.ir import ir
from regime_proto.schema.types import Array

# Constants are in memory twice: as given, and in the session's layout; above this size, weights are
# inputs of each pass.
_MOST_CONSTANT = 2**28


def can_be_frozen(gates: Sequence[Gate]) -> bool:
    """Whether at least one gate is piecewise affine."""
    return any(gate.kind in KINDS for gate in gates)


@dataclass(frozen=True)
class Known:
    """A state whose outputs and regions are known.

    Parameters
    ----------
    placed : mapping of str to placed array
        Its weights, under the program's names.
    regions : tuple of placed arrays
        See `session.Seen`.
    outputs : (sample, output) float
    frozen : FrozenSession, optional
        Its own session, which may hold its weights as constants.
    """

    placed: Mapping[str, Placed]
    regions: tuple[Placed, ...]
    outputs: Array
    frozen: "FrozenSession | None" = None


class FrozenSession:
    """The forward pass of the network with piecewise gates fixed to given regions; smooth gates stay unchanged.

    Parameters
    ----------
    program : Program
    gates : sequence of Gate
        The gates whose regions are given, in the same order.
    probe : mapping of str to array
    device : Device
    dtypes : mapping of str to dtype
        The types stored in the states, by tensor.
    rows : sequence of Rows
        The sample axis of each gate.
    running : Running
        Names the required outputs.
    constants : mapping of str to array, optional
        The weights, if they are the same in all passes; they must not be modified afterwards.
    """

    def __init__(
        self,
        program: Program,
        gates: Sequence[Gate],
        probe: Mapping[str, Array],
        device: Device,
        *,
        dtypes: Mapping[str, np.dtype],
        rows: Sequence[Rows],
        running: Running,
        constants: Mapping[str, Array] = MappingProxyType({}),
    ) -> None:
        self._outputs, self._samples = running.beside.outputs, rows[0].samples
        self._inputs = _inputs(gates)
        self._axes = [row.axis for gate, row in zip(gates, rows, strict=True) for _ in gate.planes]
        model, self._names = _graph(program, gates, [output.name for output in self._outputs])
        CastWeights({name: ir.DataType.from_numpy(dtype) for name, dtype in dtypes.items()})(model)
        if constants:
            ConstantWeights(constants)(model)
        self._session = device.session(model, threads=running.threads, brief=running.brief, constants=constants)
        self._probe = {name: device.place(probe[name]) for name in program.probe_inputs if name in self._session.inputs}

    def run(self, weights: Mapping[str, Placed], regions: Sequence[Placed]) -> Array:
        """Return the outputs of the network for given weights and regions, (sample, output) float."""
        masks = {name: regions[number] for number, name in self._inputs.items()}
        found = self._session.run({**weights, **self._probe, **masks})
        renamed = {output.name: found[self._names[output.name]] for output in self._outputs}
        return by_sample(self._outputs, renamed, self._samples)

    def changes(self, current: Known, other: Known) -> Array:
        """Return how the function changed between two states, (4, sample) float64; see `change_parts`."""
        same = self._same(current.regions, other.regions)
        if same.all():
            return change_parts(current.outputs, other.outputs, current.outputs, other.outputs)
        kept = self.run(current.placed, other.regions)
        moved = (other.frozen or self).run(other.placed, current.regions)
        # For unchanged regions use the network itself, without the rounding of a different graph.
        kept[same], moved[same] = current.outputs[same], other.outputs[same]
        return change_parts(current.outputs, other.outputs, kept, moved)

    def _same(self, regions: Sequence[Placed], others: Sequence[Placed]) -> Array:
        """Return a mask of the samples with the same regions in two states, (sample,) bool."""
        same = np.ones(self._samples, bool)
        for number in self._inputs:
            apart = regions[number].numpy() != others[number].numpy()
            same &= ~sample_first(apart, self._axes[number], self._samples).any(axis=1)
        return same


def may_be_constant(program: Program, weights: Mapping[str, Array], device: Device) -> bool:
    """Whether a session should hold a state as constants: on the CPU, if it is small and of the program's types.

    States of other types are widened one tensor at a time; as constants they would be in memory twice.
    """
    types = {value.name: value.dtype for value in program.model.graph.inputs}
    return (
        device.kind == "cpu"
        and sum(array.nbytes for array in weights.values()) <= _MOST_CONSTANT
        and all(types.get(name) in (None, ir.DataType.from_numpy(array.dtype)) for name, array in weights.items())
    )


def _frozen(gates: Sequence[Gate]) -> list[Gate]:
    return [gate for gate in gates if gate.kind in KINDS]


def _inputs(gates: Sequence[Gate]) -> dict[int, str]:
    """Return the input names of the planes of frozen gates, by plane index, counted over all gates."""
    places = {gate.node: index for index, gate in enumerate(_frozen(gates))}
    planes = [(gate.node, plane) for gate in gates for plane in range(len(gate.planes))]
    return {number: frozen_name(places[node], plane) for number, (node, plane) in enumerate(planes) if node in places}


def _graph(program: Program, gates: Sequence[Gate], outputs: Sequence[str]) -> tuple[ir.Model, dict[str, str]]:
    """Return the frozen network, and the name under which it returns each output."""
    model = program.parse_model()
    SplitWithoutSequences()(model)
    graph = model.graph
    for value in [value for value in graph.outputs if value.name not in outputs]:
        graph.outputs.remove(value)
    FreezeGates(_frozen(gates))(model)
    prune(model)
    return model, dict(zip(outputs, (str(value.name) for value in graph.outputs), strict=True))
