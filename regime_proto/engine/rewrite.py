"""Graph rewriting as small onnx_ir passes: lift the weights, expose the masks, strip what is not needed."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult
from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass

from regime_proto.schema.errors import RegimeError

PATH_KEY = "regime_path"


class LiftWeights(InPlacePass):
    """Turn the initializers named in `names` into graph inputs, under new names where one is given.

    Parameters
    ----------
    names : mapping of str to str
        Initializer to input name.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def call(self, model: ir.Model) -> PassResult:
        """Lift; the other initializers stay constants."""
        lifted = [name for name in model.graph.initializers if name in self.names]
        for name in lifted:
            value = model.graph.initializers.pop(name)
            value.const_value = None
            value.name = self.names[name]
            model.graph.inputs.append(value)
        return PassResult(model, modified=bool(lifted))


class StripMetadata(InPlacePass):
    """Remove what an exporter left behind (source paths among it), and keep each node's module path.

    Parameters
    ----------
    paths : mapping of str to str
        Node name to module path.
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        self.paths = paths

    def call(self, model: ir.Model) -> PassResult:
        """Strip model, graphs, nodes and values."""
        modified = False
        model.doc_string = None
        for graph in model.graphs():
            graph.doc_string = None
            graph.metadata_props.clear()
            for value in (*graph.inputs, *graph.initializers.values()):
                value.doc_string = None
                value.metadata_props.clear()
            for node in graph:
                path = self.paths.get(str(node.name))
                kept = {PATH_KEY: path} if path else {}
                modified |= dict(node.metadata_props) != kept
                node.metadata_props.clear()
                node.metadata_props.update(kept)
                node.doc_string = None
                for value in node.outputs:
                    value.doc_string = None
                    value.metadata_props.clear()
        return PassResult(model, modified=modified)


class NameNodes(InPlacePass):
    """Give every node a name that no other node has: the name is the key of a layer."""

    def call(self, model: ir.Model) -> PassResult:
        """Keep the names that are unique already."""
        taken: set[str] = set()
        modified = False
        for node in model.graph.all_nodes():
            name = node.name or f"node_{node.op_type}"
            unique, number = name, 1
            while unique in taken:
                unique, number = f"{name}_{number}", number + 1
            taken.add(unique)
            if unique != node.name:
                node.name = unique
                modified = True
        return PassResult(model, modified=modified)


class ExposeMasks(InPlacePass):
    """Replace the graph's outputs by the masks of the gates, and by one check for NaN and Inf.

    The graph keeps only what the masks need: everything behind the last gate goes. A mask is ``output > 0``,
    which for ReLU equals ``z > 0`` and leaves the runtime free to fuse the ReLU into what stands before it.

    Parameters
    ----------
    gates : sequence of str
        Names of the gate nodes; mask ``i`` is output ``i``, and output ``len(gates)`` is the sum over all
        gate outputs, finite if and only if all are (float32 overflow aside).
    """

    def __init__(self, gates: Sequence[str]) -> None:
        self.gates = gates

    def call(self, model: ir.Model) -> PassResult:
        """Add the outputs, then prune."""
        graph = model.graph
        nodes = {str(node.name): node for node in graph}
        masks, sums = [], []
        for index, name in enumerate(self.gates):
            output = nodes[name].outputs[0]
            zero = _zero(graph, _dtype(output))
            masks.append(
                _append(graph, "Greater", [output, zero], f"regime_mask_{index}", ir.DataType.BOOL, output.shape)
            )
            total = _append(graph, "ReduceSum", [output], f"regime_sum_{index}", _dtype(output), keepdims=0)
            sums.append(
                _append(graph, "Cast", [total], f"regime_wide_{index}", ir.DataType.DOUBLE, to=ir.DataType.DOUBLE.value)
            )
        finite = _append(graph, "Sum", sums, "regime_total", ir.DataType.DOUBLE)
        graph.outputs.clear()
        graph.outputs.extend([*masks, finite])
        RemoveUnusedNodesPass()(model)
        TopologicalSortPass()(model)
        return PassResult(model, modified=True)


def _append(
    graph: ir.Graph,
    op: str,
    inputs: Iterable[ir.Value],
    name: str,
    dtype: ir.DataType,
    shape: ir.Shape | None = None,
    **attributes: int,
) -> ir.Value:
    """Append a node and return its output; no shape means a scalar."""
    output = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape([]) if shape is None else shape)
    graph.append(ir.node(op, list(inputs), attributes=attributes, name=name, outputs=[output]))
    return output


def _dtype(value: ir.Value) -> ir.DataType:
    if value.dtype is None:
        raise RegimeError(f"{value.name}: the graph does not say the type of this activation; export it again")
    return value.dtype


def _zero(graph: ir.Graph, dtype: ir.DataType) -> ir.Value:
    """Return the constant 0 of a type."""
    name = f"regime_zero_{dtype.name}"
    if name not in graph.initializers:
        scalar = ir.tensor(np.zeros((), dtype.numpy()), dtype=dtype, name=name)
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape([]), const_value=scalar)
        graph.register_initializer(value)
    return graph.initializers[name]
