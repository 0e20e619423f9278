"""Freezes gates: each becomes the affine piece of the region given by an input of the graph.

Between two thresholds a piecewise gate is slope · z + intercept. The piece of a unit is then determined not by its
own z but by masks given as inputs: those of a different state or a different sample (docs/protocol.md, section 8).
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from regime_proto.program.edit import new_constant, new_node, replace_uses, sorted_graph
from regime_proto.program.gate_patterns import Plane
from regime_proto.program.gates import Gate, pre_activation
from regime_proto.program.values import scalar
from regime_proto.runtime.ir import InPlacePass, PassResult, PreconditionError, RemoveUnusedNodesPass, ir

KINDS = ("relu", "piecewise")
"""The kinds of gates that can be frozen; the others are not affine between their thresholds."""


def frozen_name(gate: int, plane: int) -> str:
    """Return the name of the input that holds one plane of one gate: bool, in the shape of the gate."""
    return f"regime_frozen_{gate}_{plane}"


class FreezeGates(InPlacePass):
    """Replace every gate with the affine piece of its region, given by new inputs of the graph; see `frozen_name`.

    Parameters
    ----------
    gates : sequence of Gate
        Gates of `KINDS`; all others in the graph stay unchanged.
    """

    def __init__(self, gates: Sequence[Gate]) -> None:
        self.gates = gates

    def requires(self, model: ir.Model) -> None:
        """Check that the graph has the gates, and that these are piecewise affine."""
        known = {node.name for node in model.graph}
        for gate in self.gates:
            if gate.node not in known:
                raise PreconditionError(f"no node {gate.node} in the graph")
            if gate.kind not in KINDS:
                raise PreconditionError(f"gate {gate.node} is {gate.kind}")

    def call(self, model: ir.Model) -> PassResult:
        """Freeze the gates, and remove the nodes that only determined their regions."""
        graph = model.graph
        nodes = {node.name: node for node in graph}
        for index, gate in enumerate(self.gates):
            node = nodes[gate.node]
            z = pre_activation(node, gate)
            masks = [_mask_input(graph, frozen_name(index, plane), z) for plane in range(len(gate.planes))]
            frozen = _frozen(graph, f"regime_frozen_{index}", node, z, gate.planes, masks)
            output = node.outputs[0]
            frozen.shape = output.shape
            if output.is_graph_output():
                place = list(graph.outputs).index(output)
                graph.outputs[place] = frozen
            replace_uses(output, frozen)
        RemoveUnusedNodesPass()(model)
        return sorted_graph(model, modified=bool(self.gates))


def _mask_input(graph: ir.Graph, name: str, z: ir.Value) -> ir.Value:
    mask = ir.Value(name=name, type=ir.TensorType(ir.DataType.BOOL), shape=z.shape)
    graph.inputs.append(mask)
    return mask


def _frozen(
    graph: ir.Graph, name: str, node: ir.Node, z: ir.Value, planes: Sequence[Plane], masks: Sequence[ir.Value]
) -> ir.Value:
    """Return the piece of every unit."""
    if node.op_type == "Relu":
        zero = new_constant(graph, f"{name}_zero", np.zeros((), _type(z).numpy()))
        return new_node(graph, "Where", [masks[0], z, zero], name, z.dtype)
    piece = _Piece(graph, name, node, z)
    slopes, intercepts = zip(*(piece.between(*ends) for ends in _points(planes)), strict=True)
    chosen = [_chosen(graph, f"{name}_{what}", values, masks) for what, values in (("a", slopes), ("b", intercepts))]
    scaled = new_node(graph, "Mul", [z, chosen[0]], f"{name}_scaled", z.dtype)
    return new_node(graph, "Add", [scaled, chosen[1]], name, z.dtype)


def _chosen(graph: ir.Graph, name: str, values: Sequence[ir.Value], masks: Sequence[ir.Value]) -> ir.Value:
    """Return the value of each unit's region; a unit above one threshold is also above all lower ones."""
    chosen = values[0]
    for number, (value, mask) in enumerate(zip(values[1:], masks, strict=True)):
        chosen = new_node(graph, "Where", [mask, value, chosen], f"{name}_{number}", value.dtype)
    return chosen


def _points(planes: Sequence[Plane]) -> list[tuple[float, float]]:
    """Return two points inside each region, from the lowest to the highest.

    In the outer regions they are a power of two apart, so that slopes are exact if the gate's arithmetic is.
    """
    bounds = [plane.threshold for plane in planes]
    below, above = _unit(bounds[0]), _unit(bounds[-1])
    inner = [(low + (high - low) / 4, high - (high - low) / 4) for low, high in itertools.pairwise(bounds)]
    return [
        (bounds[0] - below, bounds[0] - 2 * below),
        *inner,
        (bounds[-1] + above, bounds[-1] + 2 * above),
    ]


def _unit(threshold: float) -> float:
    return 2.0 ** math.ceil(math.log2(max(1.0, abs(threshold))))


class _Piece:
    """Evaluates a gate at fixed points within the graph, since slopes may be weights."""

    def __init__(self, graph: ir.Graph, name: str, node: ir.Node, z: ir.Value) -> None:
        self._graph, self._name, self._node, self._z = graph, name, node, z
        self._within: dict[ir.Value, bool] = {z: True}
        self._depends(node.outputs[0])
        self._shape = self._point_shape()

    def between(self, first: float, second: float) -> tuple[ir.Value, ir.Value]:
        """Return the slope and intercept of the line through two points."""
        dtype = _type(self._z)
        one, other = self._at(first), self._at(second)
        name = f"{self._name}_from_{first:g}"
        step = self._constant(second - first, f"{name}_step", ())
        rise = new_node(self._graph, "Sub", [other, one], f"{name}_rise", dtype)
        slope = new_node(self._graph, "Div", [rise, step], f"{name}_slope", dtype)
        run = new_node(self._graph, "Mul", [slope, self._constant(first, f"{name}_at", ())], f"{name}_run", dtype)
        return slope, new_node(self._graph, "Sub", [one, run], f"{name}_intercept", dtype)

    def _at(self, point: float) -> ir.Value:
        """Return the gate's output at z = `point`, in a shape that broadcasts to that of z."""
        name = f"{self._name}_z_{point:g}"
        copies = {self._z: self._constant(point, name, self._shape)}

        def copied(value: ir.Value) -> ir.Value:
            if not self._within.get(value, False):
                return value
            if value not in copies:
                node = value.producer()
                assert node is not None  # noqa: S101
                inputs = [None if part is None else copied(part) for part in node.inputs]
                output = ir.Value(name=f"{name}_{value.name}", type=value.type)
                self._graph.append(
                    ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), outputs=[output])
                )
                copies[value] = output
            return copies[value]

        return copied(self._node.outputs[0])

    def _depends(self, value: ir.Value) -> bool:
        """Whether a value depends on z."""
        if value not in self._within:
            node = value.producer()
            self._within[value] = False
            if node is not None:
                # Visit all inputs, without stopping at the first.
                found = [self._depends(part) for part in node.inputs if part is not None]
                self._within[value] = any(found)
        return self._within[value]

    def _point_shape(self) -> tuple[int, ...]:
        """Return the shape of a point, which follows the gate's other inputs, for example slopes of channels."""
        whole = _shape(self._z)
        lengths = [1] * len(whole)
        for value in [value for value, within in self._within.items() if within and value is not self._z]:
            node = value.producer()
            for part in () if node is None else node.inputs:
                if part is None or self._within.get(part, False) or scalar(part) is not None:
                    continue
                if part.shape is None or not part.shape.is_static():
                    return whole
                for axis, length in enumerate(reversed(_shape(part)), start=1):
                    lengths[-axis] = max(lengths[-axis], length)
        return tuple(lengths)

    def _constant(self, number: float, name: str, shape: tuple[int, ...]) -> ir.Value:
        dtype = _type(self._z)
        return new_constant(self._graph, name, np.full(shape, number, dtype.numpy()), dtype)


def _type(value: ir.Value) -> ir.DataType:
    assert value.dtype is not None  # noqa: S101
    return value.dtype


def _shape(value: ir.Value) -> tuple[int, ...]:
    assert value.shape is not None  # noqa: S101
    return tuple(int(length) for length in value.shape)  # type: ignore[arg-type]
