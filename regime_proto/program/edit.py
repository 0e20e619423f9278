"""Small graph-rewriting steps shared by several passes."""

from collections.abc import Iterable

import numpy as np

from regime_proto.runtime.ir import PassResult, RemoveUnusedNodesPass, TopologicalSortPass, ir
from regime_proto.schema.types import Array


def new_constant(graph: ir.Graph, name: str, array: Array, dtype: ir.DataType | None = None) -> ir.Value:
    """Return an initializer, created once per name."""
    if name not in graph.initializers:
        tensor = ir.tensor(array, dtype=dtype, name=name)
        shape = ir.Shape(array.shape)
        graph.register_initializer(
            ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        )
    return graph.initializers[name]


def new_node(
    graph: ir.Graph,
    op: str,
    inputs: Iterable[ir.Value],
    name: str,
    dtype: ir.DataType | None,
    shape: ir.Shape | None = None,
    **attributes: int | list[int],
) -> ir.Value:
    """Append a node and return its output."""
    output = ir.Value(name=name, type=None if dtype is None else ir.TensorType(dtype), shape=shape)
    graph.append(ir.node(op, list(inputs), attributes=attributes, name=name, outputs=[output]))
    return output


# The first operator set in which the axes of a reduction are an input.
_AXES_AS_INPUT = {"ReduceSum": 13}
_OTHERS_AS_INPUT = 18


def reduced(graph: ir.Graph, op: str, value: ir.Value, axis: int, name: str) -> ir.Value:
    """Append a reduction that removes one axis, and return its output."""
    if graph.opset_imports[""] >= _AXES_AS_INPUT.get(op, _OTHERS_AS_INPUT):
        axes = new_constant(graph, f"regime_axis_{axis}", np.array([axis], np.int64))
        return new_node(graph, op, [value, axes], name, value.dtype, keepdims=0)
    return new_node(graph, op, [value], name, value.dtype, axes=[axis], keepdims=0)


def replace_uses(value: ir.Value, replacement: ir.Value, besides: Iterable[ir.Value] = ()) -> None:
    """Replace all uses of `value` with `replacement`, except in the nodes that compute `replacement` or `besides`."""
    kept = {replacement.producer(), *(other.producer() for other in besides)}
    for node, position in list(value.uses()):
        if node not in kept:
            node.replace_input_with(position, replacement)


def prune(model: ir.Model) -> None:
    """Remove the nodes and inputs that no output needs."""
    RemoveUnusedNodesPass()(model)
    for value in [value for value in model.graph.inputs if not value.uses()]:
        model.graph.inputs.remove(value)


def sorted_graph(model: ir.Model, *, modified: bool) -> PassResult:
    """Return the result of a pass that appended nodes, after sorting the graph."""
    if modified:
        TopologicalSortPass()(model)
    return PassResult(model, modified=modified)
