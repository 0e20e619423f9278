"""Inlines control flow whose branch is known in advance, so that the gates in it run exactly once."""

from collections import Counter
from collections.abc import Collection, Iterator

import numpy as np

from regime_proto.program.values import FLOATS, SHAPE_OPS, bodies
from regime_proto.runtime.device import Device
from regime_proto.runtime.ir import (
    InPlacePass,
    PassResult,
    PostconditionError,
    RemoveUnusedNodesPass,
    ShapeInferencePass,
    ir,
)
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")


class InlineConstantBranches(InPlacePass):
    """Replace every ``If`` that takes the same branch for all weights and any probe of this shape with that branch.

    This is the case if the condition depends only on constants and fixed shapes. An inlined branch may contain
    further ones; those inside an ``If``, ``Loop`` or ``Scan`` that stays are left unchanged.

    Parameters
    ----------
    weights : collection of str, optional
        The initializers that differ between states. Default: all of a floating-point type.
    """

    def __init__(self, weights: Collection[str] | None = None) -> None:
        self.weights = weights

    def call(self, model: ir.Model) -> PassResult:
        """Inline until no known condition is left."""
        modified = False
        # An operator unknown to shape inference must not stop it for the others.
        shapes = ShapeInferencePass(check_type=False, strict_mode=False)
        while any(node.op_type == "If" for node in model.graph):
            # Shapes after an If are often known only once it has been inlined.
            modified |= shapes(model).modified
            known = self._known(model)
            if not known:
                return PassResult(model, modified=modified)
            for node, taken in known:
                _inline(model, node, taken)
            modified = True
            # Remove the nodes that computed the conditions.
            RemoveUnusedNodesPass()(model)
        if modified:
            shapes(model)
        return PassResult(model, modified=modified)

    def ensures(self, model: ir.Model) -> None:
        """Check that no known condition is left."""
        if self._known(model):
            raise PostconditionError(
                f"the If {self._known(model)[0][0].name} always takes the same branch, but was not inlined"
            )

    def _known(self, model: ir.Model) -> list[tuple[ir.Node, ir.Graph]]:
        """Return every ``If`` of the outer graph that always takes the same branch, with that branch."""
        return [(node, taken) for node in model.graph if (taken := self._taken(model, node)) is not None]

    def _taken(self, model: ir.Model, node: ir.Node) -> ir.Graph | None:
        """Return the branch that an ``If`` always takes; None if that is unknown."""
        if node.op_type != "If" or node.domain not in ("", "ai.onnx"):
            return None
        condition = node.inputs[0]
        assert condition is not None  # noqa: S101
        value = self._evaluate(model, condition)
        return None if value is None else node.attributes["then_branch" if value else "else_branch"].as_graph()

    def _evaluate(self, model: ir.Model, condition: ir.Value) -> bool | None:
        """Compute `condition` if it is constant."""
        cone = self._cone(condition)
        if cone is None:
            return None
        nodes, constants = cone
        copies: dict[ir.Value, ir.Value] = {}
        for value, array in constants.items():
            tensor = ir.tensor(array, name=value.name)
            copies[value] = ir.Value(
                name=value.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
            )
        initializers = list(copies.values())
        copied = []
        for node in nodes:
            inputs = [None if value is None else copies[value] for value in node.inputs]
            outputs = [ir.Value(name=value.name, type=value.type, shape=value.shape) for value in node.outputs]
            copies.update(zip(node.outputs, outputs, strict=True))
            attributes = list(node.attributes.values())
            copied.append(ir.Node(node.domain, node.op_type, inputs, attributes, outputs=outputs))
        output = ir.Value(name="regime_condition", type=ir.TensorType(ir.DataType.BOOL))
        copied.append(ir.node("Identity", [copies[condition]], outputs=[output]))
        graph = ir.Graph(
            [],
            [output],
            nodes=copied,
            initializers=initializers,
            opset_imports=dict(model.graph.opset_imports),
            name="condition",
        )
        try:
            session = Device("cpu", resident=False).session(ir.Model(graph, ir_version=model.ir_version))
            result: Array = session.run({})["regime_condition"].numpy()
        except RegimeError:
            # With operators unknown to ONNX Runtime the condition stays unknown.
            return None
        return bool(result.reshape(-1)[0])

    def _cone(self, condition: ir.Value) -> tuple[list[ir.Node], dict[ir.Value, Array]] | None:
        """Return the nodes that compute `condition`, in order, and the constants they start from.

        None if it depends on anything else.
        """
        nodes: dict[ir.Node, None] = {}
        constants: dict[ir.Value, Array] = {}
        pending = [condition]
        while pending:
            value = pending.pop()
            array = self._constant(value)
            if array is not None:
                constants[value] = array
                continue
            node = value.producer()
            if node is None or node.op_type in _RANDOM or any(True for _ in bodies(node)):
                return None
            if node not in nodes:
                pending += [used for used in node.inputs if used is not None]
            nodes[node] = None
        graph = condition.graph
        order = nodes if graph is None else (node for node in graph if node in nodes)
        return list(order), constants

    def _constant(self, value: ir.Value) -> Array | None:
        """Return the constant content of a value, if it is known without running the graph."""
        node = value.producer()
        if node is not None and node.op_type in SHAPE_OPS:
            return _static_shape(node)
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None or value.is_graph_input():
            return None
        if value.is_initializer() and self._may_be_weight(value):
            return None
        return np.asarray(tensor.numpy())

    def _may_be_weight(self, value: ir.Value) -> bool:
        return value.dtype in (*FLOATS, None) if self.weights is None else value.name in self.weights


def _static_shape(node: ir.Node) -> Array | None:
    measured = node.inputs[0]
    if measured is None or measured.shape is None or not measured.shape.is_static():
        return None
    lengths = np.array(measured.shape.numpy(), np.int64)
    if node.op_type == "Size":
        return np.array(lengths.prod(), np.int64)
    bounds = {name: node.attributes[name].as_int() for name in ("start", "end") if name in node.attributes}
    return lengths[bounds.get("start", 0) : bounds.get("end", len(lengths))]


def _inline(model: ir.Model, node: ir.Node, taken: ir.Graph) -> None:
    """Replace `node` with the nodes of `taken`."""
    graph = model.graph
    results = list(taken.outputs)
    for branch in bodies(node):
        branch.outputs.clear()
        if branch is not taken:
            _let_go(branch)
    node.attributes.clear()
    moved, initializers = list(taken), list(taken.initializers.values())
    names = Counter(_names(model))
    names.update(str(value.name) for inner in (taken, *taken.subgraphs()) for value in _graph_values(inner))
    names.update(str(inner.name) for inner in taken.all_nodes())
    taken.initializers.clear()
    taken.remove(moved)
    for value in (*initializers, *(value for inner in moved for value in inner.outputs)):
        value.name = _unique(str(value.name), names)
    for inner in moved:
        inner.name = _unique(inner.name or f"node_{inner.op_type}", names)
    for value in initializers:
        graph.register_initializer(value)
    graph.insert_before(node, moved)
    for result, output in zip(results, node.outputs, strict=True):
        replacement = result
        if output.is_graph_output():
            # The graph's outputs keep their names, and a branch may return an input, or one value twice.
            names[f"{node.name}_output"] += 1
            copy = ir.node("Identity", [result], name=_unique(f"{node.name}_output", names))
            replacement = copy.outputs[0]
            replacement.name, replacement.type, output.name = output.name, output.type, None
            graph.insert_before(node, copy)
        if replacement.shape is None:
            replacement.shape = output.shape
        ir.convenience.replace_all_uses_with(output, replacement, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _let_go(branch: ir.Graph) -> None:
    """Disconnect the nodes of a branch that never runs from their inputs."""
    branch.outputs.clear()
    for node in branch.all_nodes():
        for position in range(len(node.inputs)):
            node.replace_input_with(position, None)


def _graph_values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from dict.fromkeys((*graph.inputs, *graph.initializers.values()))
    for node in graph:
        yield from (value for value in node.outputs if value.name)


def _names(model: ir.Model) -> Iterator[str]:
    """Yield the names of all values and nodes."""
    for graph in model.graphs():
        yield from (str(value.name) for value in _graph_values(graph))
        yield from (str(node.name) for node in graph)


def _unique(name: str, names: Counter[str]) -> str:
    """Return `name`, with a number appended if the name is in use, and count it."""
    names[name] -= 1
    candidate, number = name, 1
    while names[candidate] > 0:
        candidate, number = f"{name}_{number}", number + 1
    names[candidate] += 1
    return candidate
