"""Rewrites pooling over many axes into a form that ONNX Runtime supports."""

from collections.abc import Sequence
from dataclasses import dataclass

from regime_proto.runtime.ir import InPlacePass, PassResult, ir

# Most axes over which ONNX Runtime pools.
_AXES = 3


class PoolFewerAxes(InPlacePass):
    """Rewrite every ``MaxPool`` over more axes than ONNX Runtime supports, if it pools along only few of them.

    Exporters write such pooling for (sample, row, column, channel). The other axes are merged into the samples.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the poolings whose shapes are known."""
        found = [node for node in model.graph if node.op_type == "MaxPool" and node.domain == ""]
        rewritten = [_rewrite(node, model.graph) for node in found]
        return PassResult(model, modified=any(rewritten))


@dataclass(frozen=True)
class _Windows:
    """The window of a pooling along each axis after the second."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[int]

    @classmethod
    def of(cls, node: ir.Node, count: int) -> "_Windows":
        """Read the attributes of a pooling over `count` axes."""
        kernel, strides, dilations = (
            _numbers(node, name, 1, count) for name in ("kernel_shape", "strides", "dilations")
        )
        return cls(kernel, strides, dilations, _numbers(node, "pads", 0, 2 * count))

    def active(self) -> list[int]:
        """Return the axes along which the pooling has an effect."""
        count = len(self.kernel)
        return [
            axis
            for axis in range(count)
            if self.kernel[axis] > 1 or self.strides[axis] > 1 or any(self.pads[axis::count])
        ]

    def along(self, axes: Sequence[int]) -> list[ir.Attr]:
        """Return the attributes of a pooling over these axes only."""
        kept = {
            "strides": [self.strides[axis] for axis in axes],
            "dilations": [self.dilations[axis] for axis in axes],
            "kernel_shape": [self.kernel[axis] for axis in axes],
            "pads": [self.pads[axis + end] for end in (0, len(self.kernel)) for axis in axes],
        }
        return [ir.AttrInt64s(name, values) for name, values in kept.items()]


def _rewrite(node: ir.Node, graph: ir.Graph) -> bool:
    source, result = node.inputs[0], node.outputs[0]
    before, after = _static(source), _static(result)
    if source is None or before is None or after is None or len(node.outputs) > 1:
        return False
    count = len(before) - 2
    windows = _Windows.of(node, count)
    active = windows.active()
    if count <= _AXES or not 0 < len(active) <= _AXES:
        return False
    attributes = windows.along(active)
    attributes += [node.attributes[name] for name in ("auto_pad", "ceil_mode") if name in node.attributes]
    others = [axis for axis in range(len(before)) if axis - 2 not in active]
    order = [*others, *(axis + 2 for axis in active)]

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


def _static(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the shape of a value; None if a length is symbolic or unknown."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(value.shape.numpy())


def _reshaped(value: ir.Value, shape: Sequence[int], name: str, graph: ir.Graph) -> ir.Node:
    """Return a node that reshapes `value`; the new shape becomes an initializer with the given name."""
    lengths = ir.Value(name=name, const_value=ir.tensor([int(length) for length in shape], ir.DataType.INT64, name))
    graph.register_initializer(lengths)
    return ir.node("Reshape", [value, lengths])


def _numbers(node: ir.Node, name: str, default: int, count: int) -> list[int]:
    attribute = node.attributes.get(name)
    return [default] * count if attribute is None else [int(number) for number in attribute.as_ints()]
