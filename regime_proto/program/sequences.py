"""Splits tensors without sequences, for which ONNX Runtime has no GPU kernel."""

import numpy as np

from regime_proto.program.edit import new_constant
from regime_proto.program.values import constant
from regime_proto.runtime.ir import InPlacePass, PassResult, ir

# In earlier operator sets the lengths of the parts were an attribute.
_LENGTHS_ARE_AN_INPUT = 13


class SplitWithoutSequences(InPlacePass):
    """Replace every ``SplitToSequence`` with a ``Split``, if the lengths and the selected parts are constant.

    ``torch.export`` writes `torch.split` this way, with which GPT-2 separates queries, keys and
    values. The parts keep their names.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Replace them in the outer graph."""
        if model.graph.opset_imports.get("", 0) < _LENGTHS_ARE_AN_INPUT:
            return PassResult(model, modified=False)
        found = [node for node in model.graph if node.op_type == "SplitToSequence" and node.domain == ""]
        replaced = [_replace(model.graph, node) for node in found]
        return PassResult(model, modified=any(replaced))


def _replace(graph: ir.Graph, node: ir.Node) -> bool:
    lengths, users = _lengths(node), [user for user, _ in node.outputs[0].uses()]
    if lengths is None or node.outputs[0].is_graph_output() or any(user.graph is not graph for user in users):
        return False
    parts = {user: _part(user, len(lengths)) for user in users}
    if any(part is None for part in parts.values()):
        return False
    sizes = new_constant(graph, f"regime_lengths_{node.name}", np.array(lengths, np.int64))
    axis = node.attributes.get_int("axis", 0)
    split = ir.node(
        "Split", [node.inputs[0], sizes], {"axis": axis}, num_outputs=len(lengths), name=f"{node.name}_parts"
    )
    graph.insert_before(node, split)
    for user, part in parts.items():
        taken, old = ir.node("Identity", [split.outputs[part or 0]], name=user.name), user.outputs[0]
        new = taken.outputs[0]
        new.name, new.shape, new.type = old.name, old.shape, old.type
        graph.insert_before(user, taken)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        graph.remove(user, safe=True)
    graph.remove(node, safe=True)
    return True


def _lengths(node: ir.Node) -> list[int] | None:
    """Return the lengths of the parts; None if they are not known in advance."""
    source = node.inputs[0]
    split = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if split is None or source is None or source.shape is None:
        return None
    if split.ndim:
        return [int(length) for length in split]
    whole, length = source.shape[node.attributes.get_int("axis", 0)], int(split)
    if not isinstance(whole, int) or length < 1:
        return None
    return [min(length, whole - start) for start in range(0, whole, length)]


def _part(user: ir.Node, count: int) -> int | None:
    """Return the index of the part that a node selects; None if it does something else, or this is unknown."""
    number = constant(user.inputs[1]) if user.op_type == "SequenceAt" and user.domain == "" else None
    if number is None or not -count <= int(number) < count:
        return None
    return int(number) % count
