"""Classifies the values of a graph: constants, scaled values, or elementwise functions of a different value."""

import itertools
from collections.abc import Iterator

import numpy as np

from regime_proto.runtime.ir import ir

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)

# Standard operators, and those that ONNX Runtime's optimizer creates from them.
DOMAINS = ("", "ai.onnx", "com.microsoft")
# Operators whose outputs depend only on shapes.
SHAPE_OPS = ("Shape", "Size")
# Operators through which a constant is traced.
_CASTS = ("Cast", "CastLike", "Identity", "Expand", "Reshape", "Unsqueeze", "Squeeze")
# Operators that occur in decomposed smooth activations.
_POINTWISE = (
    "Add", "Sub", "Mul", "Div", "Pow", "Neg", "Sign", "Erf", "Tanh", "Sigmoid", "Softplus", "Exp", "Log", "Cast",
)  # fmt: skip
# A decomposition has a handful of operators; a longer chain is something else.
_DEPTH = 10


def scalar(value: ir.Value | None) -> float | None:
    """Return the number of a constant that holds only one, perhaps cast or broadcast; None for anything else."""
    array = constant(value)
    if array is None or not array.size:
        return None
    first = float(array.flat[0])
    return first if np.all(array == array.flat[0]) else None


def constant(value: ir.Value | None) -> np.ndarray | None:
    """Return the array of a constant value; None if it is not constant or not small."""
    for _ in range(_DEPTH):
        if value is None:
            return None
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None:
            return np.asarray(tensor.numpy()) if tensor.size <= 1024 and _is_plain(tensor) else None
        producer = value.producer()
        if producer is not None and producer.op_type == "ConstantOfShape":
            fill = producer.attributes.get("value")
            tensor = ir.tensor([0.0]) if fill is None else fill.as_tensor()
            return np.asarray(tensor.numpy()) if _is_plain(tensor) else None
        if producer is None or producer.op_type not in _CASTS:
            return None
        value = producer.inputs[0]
    return None


def _is_plain(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype in (*FLOATS, ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.UINT8)


def scaled_from(value: ir.Value) -> ir.Value | None:
    """Return x for a value x · c or x / c."""
    factored = factors_of(value)
    return None if factored is None else factored[0]


def sign_carrier(value: ir.Value) -> ir.Value:
    """Return x for a value x · c or x / c with c > 0, which has the sign of x; otherwise the value itself."""
    factored = factors_of(value)
    return factored[0] if factored is not None and factored[1] > 0 else value


def factors_of(value: ir.Value) -> tuple[ir.Value, float] | None:
    """Return x and c for a value x · c or x / c."""
    node = value.producer()
    if node is None or node.op_type not in ("Mul", "Div"):
        return None
    first, second = node.inputs
    factor = scalar(second)
    if factor is not None and first is not None:
        return first, factor
    factor = scalar(first) if node.op_type == "Mul" else None
    return None if factor is None or second is None else (second, factor)


def operators_between(value: ir.Value | None, root: ir.Value, depth: int = _DEPTH) -> list[str] | None:
    """Return the operators that compute `value` elementwise from `root` and constants alone; None if it differs."""
    if value is root:
        return []
    if value is None or not depth or scalar(value) is not None:
        return [] if value is not None and scalar(value) is not None else None
    node = value.producer()
    if node is None or node.op_type not in _POINTWISE:
        return None
    found = [node.op_type]
    for part in node.inputs:
        inner = operators_between(part, root, depth - 1)
        if inner is None:
            return None
        found += inner
    return found


def cast_from(value: ir.Value) -> ir.Value | None:
    """Return the value before a cast to `value`, or the value itself."""
    node = value.producer()
    return node.inputs[0] if node is not None and node.op_type in ("Cast", "CastLike") else value


def producer_of(value: ir.Value | None, op: str) -> ir.Node | None:
    """Return the node that computes a value, if it is an `op`."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op else None


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs inside a node: the branches of an If, the body of a Loop or Scan."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Yield every tensor of a model: in initializers and attributes, subgraphs and functions."""
    yield from _initializers(model.graph)
    functions = (function.all_nodes() for function in model.functions.values())
    for node in itertools.chain(model.graph.all_nodes(), *functions):
        for body in bodies(node):
            yield from _initializers(body)
        for attribute in node.attributes.values():
            # A reference to a function's attribute has no value of its own.
            if attribute.value is None:
                continue
            if attribute.type == ir.AttributeType.TENSOR:
                yield attribute.value
            elif attribute.type == ir.AttributeType.TENSORS:
                yield from attribute.value


def _initializers(graph: ir.Graph) -> Iterator[ir.TensorProtocol]:
    return (value.const_value for value in graph.initializers.values() if value.const_value is not None)
