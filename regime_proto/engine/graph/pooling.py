"""Brings pooling over many axes into a form that ONNX Runtime runs."""

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

# ONNX Runtime pools over so many axes at most.
_AXES = 3


class PoolFewerAxes(InPlacePass):
    """Rewrite every ``MaxPool`` over more axes than ONNX Runtime pools over, where its window is wider than one in few.

    So exporters write pooling of (sample, row, column, channel). The other axes are moved to the samples.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite; shapes must be known."""
        found = [node for node in model.graph if node.op_type == "MaxPool" and node.domain == ""]
        rewritten = [_rewrite(node, model.graph) for node in found]
        return PassResult(model, modified=any(rewritten))


def _rewrite(node: ir.Node, graph: ir.Graph) -> bool:
    source, result = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or result.shape is None or len(node.outputs) > 1:
        return False
    before, after = source.shape.numpy(), result.shape.numpy()
    count = len(before) - 2
    windows = {name: _numbers(node, name, default, count) for name, default in (("strides", 1), ("dilations", 1))}
    windows |= {"kernel_shape": _numbers(node, "kernel_shape", 1, count), "pads": _numbers(node, "pads", 0, 2 * count)}
    active = [
        axis
        for axis in range(count)
        if windows["kernel_shape"][axis] > 1 or windows["strides"][axis] > 1 or any(windows["pads"][axis::count])
    ]
    if count <= _AXES or not 0 < len(active) <= _AXES:
        return False
    others = [axis for axis in range(len(before)) if axis - 2 not in active]
    order = [*others, *(axis + 2 for axis in active)]
    kept = {name: [values[axis] for axis in active] for name, values in windows.items() if name != "pads"}
    kept["pads"] = [windows["pads"][axis + end] for end in (0, count) for axis in active]
    attributes = [ir.AttrInt64s(name, values) for name, values in kept.items()]
    attributes += [node.attributes[name] for name in ("auto_pad", "ceil_mode") if name in node.attributes]

    moved = ir.node("Transpose", [source], {"perm": order})
    flat = _reshaped(moved.outputs[0], [-1, 1, *(before[axis + 2] for axis in active)], f"{node.name}_samples", graph)
    pooled = ir.Node("", "MaxPool", [flat.outputs[0]], attributes, name=node.name)
    whole = _reshaped(pooled.outputs[0], [after[axis] for axis in order], f"{node.name}_axes", graph)
    back = ir.node("Transpose", [whole.outputs[0]], {"perm": [order.index(axis) for axis in range(len(order))]})
    back.outputs[0].name, back.outputs[0].shape, back.outputs[0].type = result.name, result.shape, result.type
    graph.insert_before(node, [moved, flat, pooled, whole, back])
    ir.convenience.replace_all_uses_with(result, back.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return True


def _reshaped(value: ir.Value, shape: Sequence[int], name: str, graph: ir.Graph) -> ir.Node:
    """Return a node that gives `value` another shape, which becomes an initializer of that name."""
    lengths = ir.Value(name=name, const_value=ir.tensor([int(length) for length in shape], ir.DataType.INT64, name))
    graph.register_initializer(lengths)
    return ir.node("Reshape", [value, lengths])


def _numbers(node: ir.Node, name: str, default: int, count: int) -> list[int]:
    attribute = node.attributes.get(name)
    return [default] * count if attribute is None else [int(number) for number in attribute.as_ints()]
