"""Finds the gates of a graph: the points where the network is piecewise, or nearly so."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from regime_proto.program.gate_patterns import COMPOSED, Plane, Spelling, inner_nodes, read_gate
from regime_proto.program.program import Program
from regime_proto.program.rewrite import PATH_KEY
from regime_proto.program.values import SHAPE_OPS, bodies
from regime_proto.runtime.ir import ir
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.header import Layer


@dataclass(frozen=True)
class Gate:
    """One use of an activation in the graph.

    Parameters
    ----------
    node : str
        Name of its last node.
    op, kind, path : str
        Operator, kind (``relu``, ``piecewise``, ``smooth``), and path of the module it comes from.
    shape : tuple of int
        Shape of the activation for the whole probe.
    value : str
        Name of the value that the thresholds are compared with.
    planes : tuple of Plane
        One per threshold.
    default : bool
        Whether it is tracked by default.
    reason : str
        Why it is not; empty if it is.
    doubtful : bool
        Whether it is probably not an activation: it is tracked only if requested by name or module.
    nested : bool
        Whether it is inside control flow, where it cannot be tracked.
    """

    node: str
    op: str
    kind: str
    path: str
    shape: tuple[int, ...]
    value: str
    planes: tuple[Plane, ...]
    default: bool = True
    reason: str = ""
    doubtful: bool = False
    nested: bool = False

    @property
    def trackable(self) -> bool:
        """Whether it can be tracked at all."""
        return bool(self.planes)

    def layer(self, samples: int, stored: int | None = None) -> Layer:
        """Return the gate as a layer of the trajectory, with `stored` units per sample, or all."""
        size = math.prod(self.shape) // samples
        thresholds = tuple(plane.threshold for plane in self.planes)
        return Layer(self.node, self.op, self.kind, self.path, size, thresholds, stored)


def pre_activation(node: ir.Node, gate: Gate) -> ir.Value:
    """Return the input of a gate, given its last node.

    This is the value compared with the thresholds, except for a ReLU, whose output is compared instead.
    """
    if gate.value == node.outputs[0].name:
        z = node.inputs[0]
        assert z is not None  # noqa: S101
        return z
    return _made_of(node, gate.value)


def _made_of(node: ir.Node, name: str) -> ir.Value:
    """Return the value with that name among those that a node is computed from."""
    pending, seen = [node], {node}
    while pending:
        for value in pending.pop().inputs:
            if value is None:
                continue
            if value.name == name:
                return value
            producer = value.producer()
            if producer is not None and producer not in seen:
                seen.add(producer)
                pending.insert(0, producer)
    raise ValueError(f"no value {name} before node {node.name}")


def find_gates(program: Program) -> tuple[Gate, ...]:
    """Return every gate of a program, tracked or not, in execution order.

    Raises
    ------
    RegimeError
        The graph has no gate.
    """
    graph = program.model.graph
    reached = _reached(graph, set(program.probe_inputs))
    gates = [_gate(node, spelling, reached) for node, spelling in _spelled(graph)]
    gates += _nested(graph)
    if not gates:
        present = sorted({node.op_type for node in graph})
        raise RegimeError(
            f"the model has no gate to track; its graph holds {', '.join(present)}; the protocol "
            "needs ReLUs or other activations with thresholds"
        )
    return tuple(gates)


def _spelled(nodes: Iterable[ir.Node]) -> list[tuple[ir.Node, Spelling]]:
    """Return the gates, by their last node; a part of a larger gate (the Softplus of a Mish) is not a separate gate."""
    spelled = {node: spelling for node in nodes if (spelling := read_gate(node)) is not None}
    parts: set[ir.Node] = set()
    for node in spelled:
        if node.op_type in COMPOSED:
            inner = {node, *inner_nodes(node)}
            parts |= {part for part in inner - {node} if _is_used_only_by(part, inner)}
    return [(node, spelling) for node, spelling in spelled.items() if node not in parts]


def _is_used_only_by(node: ir.Node, users: set[ir.Node]) -> bool:
    return all(
        not value.is_graph_output() and all(user in users for user in value.consumers()) for value in node.outputs
    )


def _gate(node: ir.Node, spelling: Spelling, reached: set[ir.Value]) -> Gate:
    value = spelling.value
    static = value.shape is not None and value.shape.is_static()
    shape = tuple(int(length) for length in value.shape) if static else ()  # type: ignore[union-attr, arg-type]
    planes, default, reason = spelling.planes, False, spelling.doubt
    if value not in reached:
        planes, reason = (), "it does not depend on the probe"
    elif not static:
        planes, reason = (), "its shape is unknown: export the model with a fixed probe"
    elif spelling.kind == "smooth" and not reason:
        reason = "smooth: tracked on request (--gates kind:smooth)"
    else:
        default = not reason
    path = node.metadata_props.get(PATH_KEY, "")
    name, op, kind, doubtful = str(node.name), spelling.op, spelling.kind, bool(spelling.doubt)
    return Gate(name, op, kind, path, shape, str(value.name), planes, default, reason, doubtful)


def _nested(graph: ir.Graph) -> Iterator[Gate]:
    """Yield the gates inside control flow: they may run any number of times, or never."""
    for outer in graph:
        for body in bodies(outer):
            for node, spelling in _spelled(body.all_nodes()):
                path = node.metadata_props.get(PATH_KEY, "")
                reason = f"inside the {outer.op_type} {outer.name}, which does not always run it once"
                name, op, kind = str(node.name), spelling.op, spelling.kind
                yield Gate(name, op, kind, path, (), "", (), default=False, reason=reason, nested=True)


def _reached(graph: ir.Graph, inputs: set[str]) -> set[ir.Value]:
    """Return the values that depend on the named inputs by more than their shape."""
    reached = {value for value in graph.inputs if value.name in inputs}
    for node in graph:
        if node.op_type in SHAPE_OPS:
            continue
        used = [value for value in node.inputs if value is not None]
        used += [value for body in bodies(node) for inner in body.all_nodes() for value in inner.inputs if value]
        if any(value in reached for value in used):
            reached.update(node.outputs)
    return reached


def select_gates(gates: Iterable[Gate], patterns: Sequence[str] = ()) -> tuple[Gate, ...]:
    """Return the gates to track.

    Parameters
    ----------
    gates : iterable of Gate
    patterns : sequence of str
        Globs for module paths and node names, ``op:`` globs for operators, ``kind:`` globs for kinds (the last two
        skip doubtful gates). A gate is tracked if any pattern matches it and none that begins with ``!`` does.
        Without patterns, or with ``!`` patterns only, all ReLUs and piecewise gates are selected.

    Raises
    ------
    RegimeError
        A pattern matches nothing, or only gates that cannot be tracked; or no gate is left.
    """
    gates = tuple(gates)
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    for pattern in (*wanted, *unwanted):
        _require_match(gates, pattern)
    for pattern in wanted:
        _require_trackable(gates, pattern)
    chosen = [gate for gate in gates if gate.trackable and _is_asked_for(gate, wanted)]
    chosen = [gate for gate in chosen if not any(_fits(gate, pattern) for pattern in unwanted)]
    if not chosen:
        reasons = "; ".join(f"{gate.node} ({gate.op}): {gate.reason or 'excluded'}" for gate in gates[:3])
        raise RegimeError(f"none of the {len(gates)} gates in the graph is left to track: {reasons}")
    return tuple(chosen)


def _require_match(gates: Sequence[Gate], pattern: str) -> None:
    if not any(_fits(gate, pattern) for gate in gates):
        known = sorted({f"op:{gate.op}" for gate in gates} | {f"kind:{gate.kind}" for gate in gates})
        named = [gates[0].node, *[gate.path for gate in gates if gate.path][:1]]
        raise RegimeError(
            f"--gates {pattern!r} matches no gate; expected {', '.join(known)}, or node names and "
            f"module paths such as {', '.join(map(repr, named))} (regime inspect lists them)"
        )


def _require_trackable(gates: Sequence[Gate], pattern: str) -> None:
    fitting = [gate for gate in gates if _fits(gate, pattern)]
    if not any(gate.trackable for gate in fitting):
        raise RegimeError(f"--gates {pattern!r}: {fitting[0].node} cannot be tracked: {fitting[0].reason}")


def _is_asked_for(gate: Gate, wanted: Sequence[str]) -> bool:
    """Whether any pattern selects a gate; without patterns, whether it is tracked by default."""
    return any(_is_meant(gate, pattern) for pattern in wanted) if wanted else gate.default


def _is_meant(gate: Gate, pattern: str) -> bool:
    return _fits(gate, pattern) and not (gate.doubtful and pattern.startswith(("op:", "kind:")))


def _fits(gate: Gate, pattern: str) -> bool:
    prefix, colon, glob = pattern.partition(":")
    if colon and prefix in ("op", "kind"):
        return fnmatchcase(getattr(gate, prefix).lower(), glob.lower())
    return fnmatchcase(gate.path, pattern) or fnmatchcase(gate.node, pattern)
