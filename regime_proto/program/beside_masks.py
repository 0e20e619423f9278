"""Results of a forward pass in addition to the masks: outputs, regions, gate inputs, the input of the last product."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regime_proto.program.edit import new_constant, new_node, reduced
from regime_proto.program.gate_patterns import Plane
from regime_proto.program.gates import Gate, pre_activation
from regime_proto.program.mask_outputs import Rows, as_float, as_rows, strict_threshold
from regime_proto.program.program import Program
from regime_proto.program.values import FLOATS
from regime_proto.runtime.ir import ir
from regime_proto.schema.errors import RegimeError

FINGERPRINT = "regime_fingerprint"
_PRODUCTS = ("Gemm", "MatMul", "Conv")


def region_name(gate: int, plane: int) -> str:
    """Return the name of the output that holds one plane of one gate in the gate's shape, including padding."""
    return f"regime_region_{gate}_{plane}"


def margin_name(gate: int) -> str:
    """Return the name of the output with the smallest distance from a threshold, (sample,) float."""
    return f"regime_margin_{gate}"


def square_name(gate: int) -> str:
    """Return the name of the output that holds the sum of z² over counted units, (sample,) float."""
    return f"regime_square_{gate}"


@dataclass(frozen=True)
class Output:
    """An output of a program that has a sample axis.

    Parameters
    ----------
    name : str
    axis : int
        The sample axis; -1 for a leading axis that holds samples × something.
    """

    name: str
    axis: int


@dataclass(frozen=True)
class Beside:
    """The results that a pass returns in addition to the masks.

    Parameters
    ----------
    preactivations : bool
        `margin_name` and `square_name` of every gate.
    regions : bool
        `region_name` of every plane.
    outputs : tuple of Output
    fingerprint : bool
        `FINGERPRINT`, (sample, feature).
    """

    preactivations: bool = False
    regions: bool = False
    outputs: tuple[Output, ...] = ()
    fingerprint: bool = False


NOTHING = Beside()


def sample_outputs(program: Program, samples: int) -> tuple[tuple[Output, ...], str]:
    """Return the outputs with real numbers for each sample, and, if there are none, the reason."""
    found, reasons = [], []
    for value in program.model.graph.outputs:
        axis = _sample_axis(value, samples)
        if value.dtype not in FLOATS:
            kind = "of unknown type" if value.dtype is None else f"of type {value.dtype.name.lower()}"
            reasons.append(f"output {value.name} is {kind}, not real numbers")
        elif axis is None:
            reasons.append(f"output {value.name}{_shown(value)} has no axis of {samples} samples")
        else:
            found.append(Output(str(value.name), axis))
    return tuple(found), "" if found else "; ".join(reasons) or "the program has no output"


def _shown(value: ir.Value) -> str:
    return "" if value.shape is None else str([str(length) for length in value.shape]).replace("'", "")


def _sample_axis(value: ir.Value, samples: int) -> int | None:
    if value.shape is None or not value.shape.is_static():
        return None
    return sample_axis(value.shape.numpy(), samples)


def sample_axis(shape: Sequence[int], samples: int) -> int | None:
    """Return the first axis whose length is the number of samples; -1 for a leading axis of samples × something."""
    if samples in shape:
        return list(shape).index(samples)
    return -1 if len(shape) and shape[0] % samples == 0 else None


def expose(
    graph: ir.Graph, gates: Sequence[Gate], rows: Sequence[Rows], beside: Beside, probe_inputs: Sequence[str]
) -> list[ir.Value]:
    """Append nodes that compute these values and return the values, which are not yet outputs of the graph.

    Parameters
    ----------
    graph : onnx_ir.Graph
    gates : sequence of Gate
    rows : sequence of Rows
        How to turn each gate into rows of units.
    beside : Beside
    probe_inputs : sequence of str
        The graph inputs that receive the probe.

    Raises
    ------
    RegimeError
        The graph has no fingerprint.
    """
    nodes = {node.name: node for node in graph}
    by_name = {output.name: output for output in graph.outputs}
    found = [by_name[output.name] for output in beside.outputs]
    for index, (gate, row) in enumerate(zip(gates, rows, strict=True)):
        z = pre_activation(nodes[gate.node], gate)
        if beside.preactivations:
            found += _preactivations(graph, index, z, gate.planes, row)
        if beside.regions:
            found += [region_of(graph, index, number, z, plane) for number, plane in enumerate(gate.planes)]
    if beside.fingerprint:
        found.append(_fingerprint(graph, rows[0].samples, probe_inputs))
    return found


def region_of(graph: ir.Graph, gate: int, number: int, z: ir.Value, plane: Plane) -> ir.Value:
    """Append the comparison of a gate's input with one of its thresholds; see `region_name`."""
    name = region_name(gate, number)
    wide = as_float(graph, z, f"{name}_wide") if z.dtype == ir.DataType.BFLOAT16 else z
    threshold = new_constant(graph, f"{name}_at", strict_threshold(plane, z, wide.dtype), wide.dtype)
    return new_node(graph, "Greater", [wide, threshold], name, ir.DataType.BOOL, z.shape)


def _preactivations(
    graph: ir.Graph, gate: int, z: ir.Value, planes: Sequence[Plane], rows: Rows
) -> tuple[ir.Value, ir.Value]:
    name = f"regime_z_{gate}"
    if z.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        z = as_float(graph, z, f"{name}_float")
    units = as_rows(graph, z, rows, name)
    dtype = z.dtype
    assert dtype is not None  # noqa: S101
    kept = units
    if rows.counted is not None:
        counted = new_constant(graph, f"{name}_counted", rows.counted)
        zero = new_constant(graph, f"{name}_zero", np.zeros((), dtype.numpy()))
        kept = new_node(graph, "Where", [counted, units, zero], f"{name}_kept", dtype)
    squares = new_node(graph, "Mul", [kept, kept], f"{name}_squares", dtype)
    nearest = []
    for number, plane in enumerate(planes):
        threshold = new_constant(graph, f"{name}_at_{number}", np.array(plane.threshold, dtype.numpy()))
        difference = new_node(graph, "Sub", [units, threshold], f"{name}_difference_{number}", dtype)
        distance = new_node(graph, "Abs", [difference], f"{name}_distance_{number}", dtype)
        if rows.counted is not None:
            far = new_constant(graph, f"{name}_far", np.full((), np.inf, dtype.numpy()))
            distance = new_node(graph, "Where", [counted, distance, far], f"{name}_counted_{number}", dtype)
        nearest.append(distance)
    distance = nearest[0] if len(nearest) == 1 else new_node(graph, "Min", nearest, f"{name}_distance", dtype)
    return (
        reduced(graph, "ReduceMin", distance, 1, margin_name(gate)),
        reduced(graph, "ReduceSum", squares, 1, square_name(gate)),
    )


def last_product(program: Program, samples: int) -> str:
    """Return the name of the node whose input is the fingerprint; "" if none has a sample axis."""
    found = _last_product(program.model.graph, program.probe_inputs)
    value = None if found is None else found[0].inputs[found[1]]
    if found is None or value is None or _sample_axis(value, samples) in (None, _feature_axis_of(*found)):
        return ""
    return str(found[0].name)


def _feature_axis_of(node: ir.Node, place: int) -> int:
    value = node.inputs[place]
    assert value is not None  # noqa: S101
    assert value.shape is not None  # noqa: S101
    return _feature_axis(node, place, len(value.shape))


def _last_product(graph: ir.Graph, probe_inputs: Sequence[str]) -> tuple[ir.Node, int] | None:
    """Return the last product of a probe-dependent value and a weight, and the value's index among its inputs."""
    of_probe = {value for value in graph.inputs if value.name in probe_inputs}
    for node in graph:
        if any(value in of_probe for value in node.inputs):
            of_probe.update(node.outputs)
    for node in reversed(list(graph)):
        if node.op_type not in _PRODUCTS or len(node.inputs) < 2:
            continue
        from_probe = [value in of_probe for value in node.inputs[:2]]
        if from_probe == [True, False]:
            return node, 0
        if from_probe == [False, True] and node.op_type == "MatMul":
            return node, 1
    return None


def _fingerprint(graph: ir.Graph, samples: int, probe_inputs: Sequence[str]) -> ir.Value:
    """Return the input of the last product, averaged over all axes except samples and features."""
    found = _last_product(graph, probe_inputs)
    value = None if found is None else found[0].inputs[found[1]]
    if found is None or value is None or value.shape is None or not value.shape.is_static():
        raise RegimeError("the graph has no product with a weight whose input has a known shape")
    shape, features = value.shape.numpy(), _feature_axis(*found, len(value.shape))
    axis = _sample_axis(value, samples)
    if axis is None or axis == features:
        raise RegimeError(
            f"the input of the last product {found[0].name}{_shown(value)} has no axis of {samples} samples"
        )
    first = max(axis, 0)
    order = [first, *(other for other in range(len(shape)) if other not in (first, features)), features]
    if value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        value = as_float(graph, value, f"{FINGERPRINT}_float")
    turned = new_node(graph, "Transpose", [value], f"{FINGERPRINT}_turned", value.dtype, perm=order)
    by_position = new_constant(graph, f"{FINGERPRINT}_shape", np.array([samples, -1, shape[features]], np.int64))
    positions = new_node(graph, "Reshape", [turned, by_position], f"{FINGERPRINT}_positions", value.dtype)
    return reduced(graph, "ReduceMean", positions, 1, FINGERPRINT)


def _feature_axis(node: ir.Node, place: int, rank: int) -> int:
    """Return the axis of a product's input over which the product sums."""
    if node.op_type == "Conv":
        return 1
    is_second = place == 1 or (node.op_type == "Gemm" and bool(node.attributes.get_int("transA", 0)))
    return rank - 2 if is_second else rank - 1
