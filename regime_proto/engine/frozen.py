"""The network frozen to given regions, as a session; and how a change of its outputs divides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from regime_proto.engine.session import STEADILY, Running, by_sample
from regime_proto.program.beside_masks import Output
from regime_proto.program.freezing import KINDS, FreezeGates, frozen_name
from regime_proto.program.gates import Gate
from regime_proto.program.mask_outputs import CastWeights, Rows
from regime_proto.program.program import Program
from regime_proto.program.sequences import SplitWithoutSequences
from regime_proto.quantities.structure import change_parts
from regime_proto.runtime.device import Device, Placed
from regime_proto.runtime.ir import RemoveUnusedNodesPass, ir
from regime_proto.schema.types import Array


def can_be_frozen(gates: Sequence[Gate]) -> bool:
    """Whether one of some gates at least is piecewise affine."""
    return any(gate.kind in KINDS for gate in gates)


@dataclass(frozen=True)
class Known:
    """A state whose function is known.

    Parameters
    ----------
    placed : mapping of str to placed array
        Its weights, under the program's names.
    regions : tuple of placed arrays
        See `session.Seen`.
    outputs : (sample, output) float
    """

    placed: Mapping[str, Placed]
    regions: tuple[Placed, ...]
    outputs: Array


class FrozenSession:
    """The forward pass of the network whose piecewise gates have given regions; smooth gates stay.

    Parameters
    ----------
    program : Program
    gates : sequence of Gate
        Those whose regions are known, in the order of these.
    probe : mapping of str to array
    device : Device
    dtypes : mapping of str to dtype
        What the states hold, by tensor.
    rows : sequence of Rows
        Where the samples lie in each gate.
    outputs : sequence of Output
    running : Running
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
        outputs: Sequence[Output],
        running: Running = STEADILY,
    ) -> None:
        self._outputs, self._samples = tuple(outputs), rows[0].samples
        numbers = [(gate, plane) for gate in range(len(gates)) for plane in range(len(gates[gate].planes))]
        frozen = [gate for gate in gates if gate.kind in KINDS]
        # Of all planes, those of the gates that are frozen, by the name of their input.
        places = {gate.node: index for index, gate in enumerate(frozen)}
        self._inputs = {
            number: frozen_name(places[gates[gate].node], plane)
            for number, (gate, plane) in enumerate(numbers)
            if gates[gate].node in places
        }
        self._axes = [rows[gate].axis for gate, _ in numbers]
        model = program.parse_model()
        SplitWithoutSequences()(model)
        kept = {output.name for output in outputs}
        for value in [value for value in model.graph.outputs if value.name not in kept]:
            model.graph.outputs.remove(value)
        self._names = _freeze(model, frozen, [output.name for output in outputs])
        CastWeights({name: ir.DataType.from_numpy(dtype) for name, dtype in dtypes.items()})(model)
        self._session = device.session(model, threads=running.threads, brief=running.brief)
        self._probe = {name: device.place(probe[name]) for name in program.probe_inputs if name in self._session.inputs}

    def run(self, weights: Mapping[str, Placed], regions: Sequence[Placed]) -> Array:
        """Return the outputs of the network with some weights and some regions, (sample, output) float."""
        masks = {name: regions[number] for number, name in self._inputs.items()}
        found = self._session.run({**weights, **self._probe, **masks})
        renamed = {output.name: found[self._names[output.name]] for output in self._outputs}
        return by_sample(self._outputs, renamed, self._samples)

    def changes(self, current: Known, other: Known) -> Array:
        """Return how the function changed between two states, (3, sample) float64; see `change_parts`."""
        kept = self.run(current.placed, other.regions)
        moved = self.run(other.placed, current.regions)
        same = self._same(current.regions, other.regions)
        # What no gate changed is exactly the network itself, without the rounding of another graph.
        kept[same], moved[same] = current.outputs[same], other.outputs[same]
        return change_parts(current.outputs, other.outputs, kept, moved)

    def _same(self, regions: Sequence[Placed], others: Sequence[Placed]) -> Array:
        """Return which samples have the same regions in two states, (sample,) bool."""
        same = np.ones(self._samples, bool)
        for number in self._inputs:
            apart = regions[number].numpy() != others[number].numpy()
            axis = self._axes[number]
            apart = np.moveaxis(apart, axis, 0) if axis > 0 else apart
            same &= ~apart.reshape(self._samples, -1).any(axis=1)
        return same


def _freeze(model: ir.Model, gates: Sequence[Gate], outputs: Sequence[str]) -> dict[str, str]:
    """Freeze gates; return under which name the graph returns each of its outputs then, in their order."""
    FreezeGates(gates)(model)
    RemoveUnusedNodesPass()(model)
    for value in [value for value in model.graph.inputs if not value.uses()]:
        model.graph.inputs.remove(value)
    return dict(zip(outputs, (str(value.name) for value in model.graph.outputs), strict=True))
