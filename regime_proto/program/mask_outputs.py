"""Passes that turn a program into the graph to run: from weights to masks, and nothing else."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regime_proto.program.edit import new_constant, new_node, prune, replace_uses, sorted_graph
from regime_proto.program.gate_patterns import Plane
from regime_proto.program.gates import Gate
from regime_proto.runtime.ir import InPlacePass, PassResult, PreconditionError, ir
from regime_proto.schema.types import Array

TOTAL = "regime_total"
PACKED = "regime_packed"
_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class Rows:
    """How the values of a gate become one row of units per sample.

    Parameters
    ----------
    samples : int
    axis : int
        The sample axis; -1 for a leading axis that holds samples × something.
    units : (stored,) int64, optional
        Indices of the units to store; None stores all.
    counted : (sample, stored) bool, optional
        False for units of padding, whose bits are 0. None counts all.
    """

    samples: int
    axis: int
    units: Array | None = None
    counted: Array | None = None

    def width(self, gate: Gate) -> int:
        """Return the stored units per sample."""
        return math.prod(gate.shape) // self.samples if self.units is None else len(self.units)


def plane_name(gate: int, plane: int) -> str:
    """Return the name of the output that holds one plane of one gate."""
    return f"regime_mask_{gate}_{plane}"


class CastWeights(InPlacePass):
    """Give weight inputs the types stored in the checkpoints, and widen them where they are used.

    A half-precision state is thus widened one tensor at a time, and never held in memory twice.

    Parameters
    ----------
    dtypes : mapping of str to onnx_ir.DataType
        By input.
    """

    def __init__(self, dtypes: Mapping[str, ir.DataType]) -> None:
        self.dtypes = dtypes

    def call(self, model: ir.Model) -> PassResult:
        """Change the type of inputs that differ, and add a Cast after each."""
        graph = model.graph
        modified = False
        for value in graph.inputs:
            stored = self.dtypes.get(str(value.name), value.dtype)
            if stored == value.dtype or value.dtype is None or stored is None:
                continue
            rows = [node for node, position in value.uses() if stored in _HALF and _takes_rows(node, position, graph)]
            for index, node in enumerate(rows):
                # In a table only the gathered rows are widened.
                _widen(graph, node.outputs[0], value.dtype, f"regime_cast_{value.name}_{index}")
                node.outputs[0].dtype = stored
            if any(node not in rows for node, _ in value.uses()):
                _widen(graph, value, value.dtype, f"regime_cast_{value.name}", besides=rows)
            value.dtype = stored
            modified = True
        return sorted_graph(model, modified=modified)


def _takes_rows(node: ir.Node, position: int, graph: ir.Graph) -> bool:
    return node.op_type == "Gather" and position == 0 and node.graph is graph


def _widen(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, name: str, besides: Iterable[ir.Node] = ()) -> None:
    """Insert a Cast between a value and its uses."""
    kept = set(besides)
    uses = [(node, position) for node, position in value.uses() if node not in kept]
    widened = new_node(graph, "Cast", [value], name, dtype, value.shape, to=dtype.value)
    for node, position in uses:
        node.replace_input_with(position, widened)


class NudgeWeights(InPlacePass):
    """Move every float32 or float64 weight by one unit in the last place, up or down at random.

    For float32 numbers that are not subnormal, w · (1 − 2⁻²⁴) rounds to the neighbour of w towards zero and w / (1 −
    2⁻²⁴) to the neighbour away from zero; for float64 the factor is 1 − 2⁻⁵³. The direction is drawn for each
    position along one axis of the tensor (not the first, if there are more).

    Parameters
    ----------
    names : collection of str
        The inputs to move.
    seed : int
    """

    FACTORS: Mapping[ir.DataType, Any] = {
        ir.DataType.FLOAT: np.float32(1 - 2**-24),
        ir.DataType.DOUBLE: np.float64(1 - 2**-53),
    }

    def __init__(self, names: Iterable[str], seed: int) -> None:
        self.names = frozenset(names)
        self.seed = seed

    def call(self, model: ir.Model) -> PassResult:
        """Insert the change between each input and its uses."""
        graph = model.graph
        random = np.random.default_rng(self.seed)
        nudged = [value for value in graph.inputs if value.name in self.names and value.dtype in self.FACTORS]
        for value in nudged:
            up = random.random(_drawn_shape(value)) < 0.5
            factor = self.FACTORS[value.dtype]  # type: ignore[index]
            one = type(factor)(1)
            multiplier = new_constant(graph, f"regime_multiplier_{value.name}", np.where(up, one, factor))
            divisor = new_constant(graph, f"regime_divisor_{value.name}", np.where(up, factor, one))
            arguments = (value.dtype, value.shape)
            below = new_node(graph, "Mul", [value, multiplier], f"regime_below_{value.name}", *arguments)
            moved = new_node(graph, "Div", [below, divisor], f"regime_moved_{value.name}", *arguments)
            replace_uses(value, moved, besides=[below])
        return sorted_graph(model, modified=bool(nudged))


def _drawn_shape(value: ir.Value) -> list[int]:
    """Return a shape that broadcasts to that of `value`, with length 1 in all but the longest axis after the first."""
    lengths = [int(length) for length in value.shape or ()]  # type: ignore[arg-type]
    if not lengths:
        return []
    longest = max(range(min(1, len(lengths) - 1), len(lengths)), key=lengths.__getitem__)
    return [length if axis == longest else 1 for axis, length in enumerate(lengths)]


class ExposeMasks(InPlacePass):
    """Replace the graph's outputs with the masks of the gates and one check for NaN and Inf.

    The graph keeps only what the masks need: everything after the last gate is removed. Plane ``j``
    of gate ``i`` is the output `plane_name(i, j)`, bool. The output `TOTAL` is the sum over all
    activations, which is finite if and only if all of them are (except for overflow).

    Parameters
    ----------
    gates : sequence of Gate
    rows : sequence of Rows, optional
        If given, every plane is (sample, stored unit); otherwise it has the gate's shape.
    packed : bool
        Requires `rows`: add the output `PACKED`, (sample, byte) uint8, with all planes, eight units per byte.
    besides : callable, optional
        Appends further nodes to the graph, and returns those of their values that become outputs too.
    """

    def __init__(
        self,
        gates: Sequence[Gate],
        rows: Sequence[Rows] | None = None,
        *,
        packed: bool = False,
        besides: Callable[[ir.Graph], Sequence[ir.Value]] | None = None,
    ) -> None:
        self.gates = gates
        self.rows = rows
        self.packed = packed
        self.besides = besides

    def requires(self, model: ir.Model) -> None:
        """Check that the graph contains the values of the gates."""
        known = {value.name for node in model.graph for value in node.outputs}
        known |= {value.name for value in model.graph.inputs}
        missing = [gate.value for gate in self.gates if gate.value not in known]
        if missing:
            raise PreconditionError(f"no value {missing[0]} in the graph")

    def call(self, model: ir.Model) -> PassResult:
        """Add the outputs, then prune."""
        graph = model.graph
        values = {value.name: value for value in graph.inputs}
        values |= {value.name: value for node in graph for value in node.outputs}
        sums = [_finite_sum(graph, values[name]) for name in dict.fromkeys(gate.value for gate in self.gates)]
        masks = [
            mask
            for index, gate in enumerate(self.gates)
            for mask in self._planes(graph, index, gate, values[gate.value])
        ]
        outputs = [*masks, new_node(graph, "Sum", sums, TOTAL, ir.DataType.DOUBLE)]
        if self.packed and self.rows is not None:
            widths = [rows.width(gate) for gate, rows in zip(self.gates, self.rows, strict=True) for _ in gate.planes]
            outputs.append(_packed(graph, masks, widths, self.rows[0].samples))
        if self.besides is not None:
            outputs += self.besides(graph)
        graph.outputs.clear()
        graph.outputs.extend(outputs)
        prune(model)
        return sorted_graph(model, modified=True)

    def _planes(self, graph: ir.Graph, index: int, gate: Gate, value: ir.Value) -> list[ir.Value]:
        rows = None if self.rows is None else self.rows[index]
        values = value if rows is None else as_rows(graph, value, rows, f"regime_rows_{index}")
        if values.dtype == ir.DataType.BFLOAT16:
            # No provider compares bfloat16; in float32 the result is the same.
            values = as_float(graph, values, f"regime_compared_{index}")
        masks = []
        for number, plane in enumerate(gate.planes):
            name = plane_name(index, number)
            threshold = new_constant(graph, f"{name}_at", strict_threshold(plane, value, values.dtype), values.dtype)
            whole = rows is None or rows.counted is None
            mask = new_node(
                graph, "Greater", [values, threshold], name if whole else f"{name}_all", ir.DataType.BOOL, values.shape
            )
            if not whole:
                counted = new_constant(graph, f"{name}_counted", rows.counted)  # type: ignore[union-attr, arg-type]
                mask = new_node(graph, "And", [mask, counted], name, ir.DataType.BOOL, values.shape)
            masks.append(mask)
        return masks


def strict_threshold(plane: Plane, value: ir.Value, wide: ir.DataType | None) -> Array:
    """Return the number t for which ``z > t`` is the plane's bit, in the type of the comparison."""
    assert value.dtype is not None  # noqa: S101
    assert wide is not None  # noqa: S101
    dtype = value.dtype.numpy()
    threshold = np.array(plane.threshold, dtype)
    # z >= t if and only if z is greater than the number before t; older operator sets have no >=.
    strict = np.nextafter(threshold, np.array(-np.inf, dtype)) if plane.closed else threshold
    return strict.astype(wide.numpy())


def as_rows(graph: ir.Graph, value: ir.Value, rows: Rows, name: str) -> ir.Value:
    """Return `value` as (sample, unit), with the chosen units only."""
    if rows.axis > 0:
        assert value.shape is not None  # noqa: S101
        order = [rows.axis, *(axis for axis in range(len(value.shape)) if axis != rows.axis)]
        value = new_node(graph, "Transpose", [value], f"{name}_turned", value.dtype, perm=order)
    shape = new_constant(graph, f"{name}_shape", np.array([rows.samples, -1], np.int64))
    value = new_node(graph, "Reshape", [value, shape], name, value.dtype)
    if rows.units is None:
        return value
    units = new_constant(graph, f"{name}_units", rows.units)
    return new_node(graph, "Gather", [value, units], f"{name}_chosen", value.dtype, axis=1)


def _finite_sum(graph: ir.Graph, value: ir.Value) -> ir.Value:
    name = f"regime_sum_{value.name}"
    if value.dtype in _HALF:
        # Sums of a few thousand activations exceed the range of float16.
        value = as_float(graph, value, f"{name}_float")
    total = new_node(graph, "ReduceSum", [value], name, value.dtype, keepdims=0)
    return new_node(graph, "Cast", [total], f"{name}_wide", ir.DataType.DOUBLE, to=ir.DataType.DOUBLE.value)


def as_float(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    """Append a Cast to float32, and return its output."""
    return new_node(graph, "Cast", [value], name, ir.DataType.FLOAT, value.shape, to=ir.DataType.FLOAT.value)


def _packed(graph: ir.Graph, masks: Sequence[ir.Value], widths: Sequence[int], samples: int) -> ir.Value:
    """Return all planes as bytes, by products with 128 … 1, since GPU providers have no shifts."""
    float32 = ir.DataType.FLOAT
    bits = new_constant(graph, "regime_bits", np.array([[128], [64], [32], [16], [8], [4], [2], [1]], np.float32))
    octets = new_constant(graph, "regime_octets", np.array([samples, -1, 8], np.int64))
    flat = new_constant(graph, "regime_flat", np.array([samples, -1], np.int64))
    parts = []
    for mask, width in zip(masks, widths, strict=True):
        name = f"{mask.name}_bytes"
        numbers = new_node(graph, "Cast", [mask], f"{name}_float", float32, mask.shape, to=float32.value)
        if width % 8:
            padding = new_constant(graph, f"regime_padding_{-width % 8}", np.zeros((samples, -width % 8), np.float32))
            numbers = new_node(graph, "Concat", [numbers, padding], f"{name}_padded", float32, axis=1)
        eights = new_node(graph, "Reshape", [numbers, octets], f"{name}_octets", float32)
        weighed = new_node(graph, "MatMul", [eights, bits], f"{name}_weighed", float32)
        parts.append(new_node(graph, "Reshape", [weighed, flat], f"{name}_flat", float32))
    joined = new_node(graph, "Concat", parts, f"{PACKED}_float", float32, axis=1)
    return new_node(graph, "Cast", [joined], PACKED, ir.DataType.UINT8, to=ir.DataType.UINT8.value)
