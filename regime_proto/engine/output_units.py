"""Finds the output-unit axis of a weight, and the bias that is added to the output."""

from collections.abc import Iterator, Sequence

from regime_proto.program.program import Program, Tensor
from regime_proto.quantities.base import OutputUnits
from regime_proto.runtime.ir import ir

_AS_IT_IS = ("Identity", "Cast", "QuantizeLinear", "DequantizeLinear")


def find_output_units(program: Program) -> dict[str, OutputUnits]:
    """Return the output units of every trainable tensor with at least two axes.

    The axis is inferred from the operator that uses the weight: Conv, ConvTranspose, Gemm or MatMul, also through
    transpositions. For other operators it is the first axis, as in PyTorch's layers. The bias is the operator's own
    bias input, or, for a product without one, the tensor added to its output.
    """
    values = {str(value.name): value for value in program.model.graph.inputs}
    trainable = {tensor.name: tensor for tensor in program.trainable}
    return {
        name: _units_of(tensor, values.get(name), trainable)
        for name, tensor in trainable.items()
        if len(tensor.shape) > 1
    }


def _units_of(tensor: Tensor, value: ir.Value | None, trainable: dict[str, Tensor]) -> OutputUnits:
    for node, position, axes in _consumers(value, tuple(range(len(tensor.shape)))):
        found = _output_axis(node, position, len(axes))
        if found is not None:
            axis = axes[found]
            return OutputUnits(axis, _bias(node, tensor.shape[axis], trainable))
    return OutputUnits(0)


def _consumers(value: ir.Value | None, axes: tuple[int, ...]) -> Iterator[tuple[ir.Node, int, tuple[int, ...]]]:
    """Yield the operators that use a weight, and, for each axis of their input, the axis of the weight."""
    for node, position in () if value is None else value.uses():
        if node.op_type in _AS_IT_IS and position == 0:
            yield from _consumers(node.outputs[0], axes)
        elif node.op_type == "Transpose":
            order = node.attributes.get_ints("perm", list(reversed(range(len(axes)))))
            yield from _consumers(node.outputs[0], tuple(axes[axis] for axis in order))
        else:
            yield node, position, axes


def _output_axis(node: ir.Node, position: int, count: int) -> int | None:
    """Return the axis of a product's input that corresponds to its output units; None for other operators."""
    if node.op_type == "Conv" and position == 1:
        return 0
    if node.op_type == "ConvTranspose" and position == 1:
        return 1
    if node.op_type == "Gemm" and position < 2:
        transposed = bool(node.attributes.get_int("transA" if position == 0 else "transB", 0))
        return int(transposed) if position == 0 else int(not transposed)
    if node.op_type == "MatMul":
        return count - 1 if position == 1 else count - 2
    return None


def _bias(node: ir.Node, units: int, trainable: dict[str, Tensor]) -> str | None:
    place = 2 if node.op_type in ("Conv", "ConvTranspose", "Gemm") else None
    if place is not None and len(node.inputs) > place:
        return _as_bias([node.inputs[place]], units, trainable)
    uses = list(node.outputs[0].uses())
    if len(uses) == 1 and uses[0][0].op_type == "Add":
        return _as_bias(uses[0][0].inputs, units, trainable)
    return None


def _as_bias(values: Sequence[ir.Value | None], units: int, trainable: dict[str, Tensor]) -> str | None:
    for value in values:
        while value is not None and (made := value.producer()) is not None and made.op_type in _AS_IT_IS:
            value = made.inputs[0]
        tensor = None if value is None else trainable.get(str(value.name))
        if tensor is not None and tensor.size == units and len(tensor.shape) == 1:
            return tensor.name
    return None
