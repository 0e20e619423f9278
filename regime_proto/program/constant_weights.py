"""Turns fixed weights into constants: a session can then fuse the operators around them and choose their layout."""

from collections.abc import Mapping

from regime_proto.program.edit import new_node, replace_uses, sorted_graph
from regime_proto.runtime.ir import InPlacePass, PassResult, ir
from regime_proto.schema.types import Array


class ConstantWeights(InPlacePass):
    """Turn weight inputs into initializers without data; a session receives the data separately.

    Parameters
    ----------
    weights : mapping of str to array
        By input, in the types of the inputs; arrays that are not inputs of the graph are ignored.
    """

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.weights = weights

    def call(self, model: ir.Model) -> PassResult:
        """Move the inputs, so that values computed from constants alone can be folded."""
        graph = model.graph
        moved = [value for value in graph.inputs if value.name in self.weights]
        for value in moved:
            graph.inputs.remove(value)
            value.const_value = _without_data(str(value.name), self.weights[str(value.name)])
            graph.register_initializer(value)
        # ONNX Runtime has no kernel for CastLike, and expands it only after constant folding: the
        # zero bias that exporters create with it would prevent a convolution from being fused.
        alike = [node for node in graph if node.op_type == "CastLike" and _type_of_cast(node) is not None]
        for node in alike:
            dtype, output = _type_of_cast(node), node.outputs[0]
            assert dtype is not None  # noqa: S101
            name = f"regime_cast_{output.name}"
            cast = new_node(graph, "Cast", [node.inputs[0]], name, dtype, output.shape, to=dtype.value)  # type: ignore[list-item]
            replace_uses(output, cast)
        return sorted_graph(model, modified=bool(moved or alike))


def _without_data(name: str, array: Array) -> ir.ExternalTensor:
    dtype = ir.DataType.from_numpy(array.dtype)
    return ir.ExternalTensor("session", 0, array.nbytes, dtype, shape=ir.Shape(array.shape), name=name)


def _type_of_cast(node: ir.Node) -> ir.DataType | None:
    like = node.inputs[1]
    return None if like is None or node.outputs[0].is_graph_output() else like.dtype
