"""Small steps of graph rewriting that several passes take."""

from collections.abc import Iterable

from regime_proto.runtime.ir import PassResult, TopologicalSortPass, ir
from regime_proto.schema.types import Array


def new_constant(graph: ir.Graph, name: str, array: Array, dtype: ir.DataType | None = None) -> ir.Value:
    """Return an initializer, made once per name."""
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


def replace_uses(value: ir.Value, replacement: ir.Value, besides: Iterable[ir.Value] = ()) -> None:
    """Let what uses `value` use `replacement`, besides the nodes that make `replacement` and `besides`."""
    kept = {replacement.producer(), *(other.producer() for other in besides)}
    for node, position in list(value.uses()):
        if node not in kept:
            node.replace_input_with(position, replacement)


def sorted_graph(model: ir.Model, *, modified: bool) -> PassResult:
    """Return the result of a pass that appended nodes: they are put in order."""
    if modified:
        TopologicalSortPass()(model)
    return PassResult(model, modified=modified)
