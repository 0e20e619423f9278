"""The graph from weights to masks, run part by part, with the values passed from one part to the next."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from regime_proto.engine.session import mask_graph
from regime_proto.program.gates import Gate
from regime_proto.program.mask_outputs import TOTAL, Rows, plane_name
from regime_proto.program.partition import Cutting, partition
from regime_proto.program.program import Program
from regime_proto.runtime.device import Device, Placed, Session
from regime_proto.schema.types import Array


class PartGraph:
    """The forward pass from weights to masks, in parts.

    ONNX Runtime fuses operators before the graph is cut, as it does for the whole graph, and the parts run without
    further changes. The masks therefore equal those of the whole graph, bit for bit.

    Parameters
    ----------
    program : Program
    gates : sequence of Gate
    device : Device
    dtypes : mapping of str to dtype
        The types stored in the states, by tensor.
    cutting : Cutting
    rows : sequence of Rows, optional
        How to turn each gate into rows of units; None keeps masks in the shapes of their gates.
    nudged : int, optional
        Random seed; if given, every weight is moved by one unit in the last place.
    """

    def __init__(
        self,
        program: Program,
        gates: Sequence[Gate],
        device: Device,
        *,
        dtypes: Mapping[str, np.dtype],
        cutting: Cutting,
        rows: Sequence[Rows] | None = None,
        nudged: int | None = None,
    ) -> None:
        model = mask_graph(program, gates, dtypes=dtypes, rows=rows, nudged=nudged)
        sizes = {
            name: np.dtype(spec.dtype).itemsize * math.prod(spec.shape) for name, spec in program.weight_inputs.items()
        }
        self.device = device
        self.partition = partition(device.optimized(model), sizes, cutting)
        self.planes = [
            [plane_name(index, plane) for plane in range(len(gate.planes))] for index, gate in enumerate(gates)
        ]

    def __len__(self) -> int:
        """Return the number of parts."""
        return len(self.partition.parts)

    def weights(self, index: int) -> tuple[str, ...]:
        """Return the tensors that a part uses; none after the last part."""
        return self.partition.parts[index].weights if index < len(self) else ()

    def session(self, index: int) -> Session:
        """Return a session for a part; it holds no memory between runs."""
        model = self.partition.model_of(self.partition.parts[index])
        return self.device.session(model, brief=True, as_is=True)

    def begin(self, probe: Mapping[str, Array]) -> dict[str, Placed]:
        """Return the values known before the first part: the probe, and values that depend on it alone."""
        taken = {value.name for value in self.partition.model.graph.input}
        values = {name: self.device.place(array) for name, array in probe.items() if name in taken}
        shared = self.partition.shared
        if shared.nodes:
            values |= self.device.session(self.partition.model_of(shared), brief=True, as_is=True).run(values)
        return values


class Lane:
    """One pass of one state.

    Parameters
    ----------
    graph : PartGraph
    begun : mapping of str to placed array
        See `PartGraph.begin`.

    Attributes
    ----------
    planes : mapping of str to array
        The masks computed so far, packed along the units, (sample, byte) uint8.
    """

    def __init__(self, graph: PartGraph, begun: Mapping[str, Placed]) -> None:
        self.graph = graph
        self.planes: dict[str, Array] = {}
        self._names = {name for names in graph.planes for name in names}
        self._values = dict(begun)
        self._total: float | None = None
        self._take(begun)

    def run(self, index: int, session: Session, weights: Mapping[str, Placed]) -> None:
        """Run a part."""
        values = session.run({**self._values, **weights})
        self._take(values)
        needed = self.graph.partition.needed_after[index]
        self._values = {name: value for name, value in (self._values | values).items() if name in needed}

    def _take(self, values: Mapping[str, Placed]) -> None:
        self.planes |= {name: self.kept(values[name].numpy()) for name in values if name in self._names}
        if TOTAL in values:
            self._total = float(values[TOTAL].numpy())

    def kept(self, plane: Array) -> Array:
        """Return the stored part of a plane, bool."""
        return np.packbits(plane, axis=1)

    @cached_property
    def packed(self) -> Array:
        """All masks, (sample, byte) uint8; see `masks.pack`."""
        return np.concatenate([self.planes[name] for names in self.graph.planes for name in names], axis=1)

    @property
    def is_finite(self) -> bool:
        """Whether no activation was NaN or Inf."""
        assert self._total is not None  # noqa: S101
        return math.isfinite(self._total)


class ShapedLane(Lane):
    """A pass whose masks stay in the shapes of their gates."""

    def kept(self, plane: Array) -> Array:
        """See `Lane`."""
        return plane.copy()
