"""Infers which initializers are trained, and which are running statistics, from the operators that use them."""

from collections.abc import Iterator

from regime_proto.program.values import DOMAINS, FLOATS
from regime_proto.runtime.ir import ir

# The inputs of an operator that training changes. ONNX Runtime's own operators come from its optimizer.
_TRAINED = {
    "Attention": (1, 2),
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "DeformConv": (1, 3),
    "FusedConv": (1, 2),
    "FusedGemm": (0, 1, 2),
    "FusedMatMul": (0, 1),
    "GRU": (1, 2, 3),
    "Gemm": (0, 1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LSTM": (1, 2, 3, 7),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3),
    "SimplifiedLayerNormalization": (1,),
    "SkipLayerNormalization": (2, 3, 4),
    "SkipSimplifiedLayerNormalization": (2, 3),
}
_STATISTICS = {"BatchNormalization": (3, 4)}
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div")
_LINEAR = ("MatMul", "Gemm", "Conv", "ConvTranspose")
# Operators whose output is still the weight, only with a different layout or rounding.
_PASSED_ON = (
    "Cast", "CastLike", "DequantizeLinear", "Expand", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Slice",
    "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
# A tensor that the runtime needs to plan shapes or kernels stays a constant, whatever else uses it.
_PLANNED = {"DequantizeLinear": (1, 2), "QuantizeLinear": (1, 2), "Resize": (1, 2), "Upsample": (1,)}


def find_weights(model: ir.Model) -> dict[str, bool]:
    """Return the initializers that are weights, with whether training changes them.

    Values are ignored, so that all files of a run give the same answer.

    Parameters
    ----------
    model : ir.Model
        After `GatherInitializers`.

    Returns
    -------
    dict of str to bool
        In graph order. False means running statistics; an initializer that is absent is a constant.
    """
    roles = {str(name): _role(value) for name, value in model.graph.initializers.items()}
    return {name: role for name, role in roles.items() if role is not None}


def _role(value: ir.Value) -> bool | None:
    """Return True for a trainable weight, False for a statistic, None for a constant."""
    if value.const_value is None or value.const_value.dtype not in FLOATS or value.const_value.size == 0:
        return None
    uses = list(_uses(value))
    if any(index in _PLANNED.get(node.op_type, ()) for node, index in uses):
        return None
    if any(_is_trained(node, index, value.const_value) for node, index in uses):
        return True
    return False if any(index in _STATISTICS.get(node.op_type, ()) for node, index in uses) else None


def _uses(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Yield the nodes that use a value, with the input index, also after operators that pass it on."""
    pending, seen = [value], {value}
    while pending:
        for node, index in pending.pop().uses():
            if node.domain not in DOMAINS:
                continue
            if node.op_type == "Concat" or (node.op_type in _PASSED_ON and index == 0):
                following = [output for output in node.outputs if output not in seen]
                pending += following
                seen.update(following)
            else:
                yield node, index


def _is_trained(node: ir.Node, index: int, tensor: ir.TensorProtocol) -> bool:
    if node.op_type in _ELEMENTWISE:
        return tensor.size > 1 or (len(tensor.shape) > 0 and _is_bias(node, index))
    if node.op_type == "Gather":
        return index == 0 and len(tensor.shape) > 1
    return node.op_type == "Einsum" or index in _TRAINED.get(node.op_type, ())


def _is_bias(node: ir.Node, index: int) -> bool:
    """Whether the node adds its input `index` to a layer's output: the bias of a single unit."""
    other = node.inputs[1 - index]
    producer = None if other is None else other.producer()
    return node.op_type == "Add" and producer is not None and producer.op_type in _LINEAR
