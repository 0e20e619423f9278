"""Finds the gates of a graph: the places where the network is piecewise."""

import math
import warnings
from dataclasses import dataclass

import onnx_ir as ir

from regime_proto.engine.program import Program
from regime_proto.engine.rewrite import PATH_KEY
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.header import Layer


@dataclass(frozen=True)
class Gate:
    """One use of an activation in the graph.

    Parameters
    ----------
    node : str
        Name of the node.
    op, kind, path : str
        ONNX operator, kind of the gate, path of the module it came from.
    shape : tuple of int
        Shape of the activation for the whole probe.
    """

    node: str
    op: str
    kind: str
    path: str
    shape: tuple[int, ...]

    def layer(self, samples: int) -> Layer:
        """Return the gate as a layer of the trajectory."""
        return Layer(self.node, self.op, self.kind, self.path, math.prod(self.shape) // samples)


def find_gates(program: Program) -> tuple[Gate, ...]:
    """Return the gates of a program, in execution order.

    Raises
    ------
    RegimeError
        The graph has no gate.
    """
    graph = program.model.graph
    gates = tuple(_gate(node) for node in graph if _is_gate(node))
    nested = sum(_is_gate(node) for node in graph.all_nodes()) - len(gates)
    if nested:
        warnings.warn(
            f"{nested} ReLU inside the control flow (If, Loop, Scan) of the graph are not tracked",
            RegimeWarning,
            stacklevel=2,
        )
    if not gates:
        present = sorted({node.op_type for node in graph})
        raise RegimeError(
            f"the model has no ReLU to track; its graph holds {', '.join(present)}: "
            "the protocol needs a network with ReLU activations"
        )
    return gates


def _is_gate(node: ir.Node) -> bool:
    return node.op_type == "Relu" and node.domain == ""


def _gate(node: ir.Node) -> Gate:
    output = node.outputs[0]
    if output.shape is None or not output.shape.is_static():
        raise RegimeError(f"gate {node.name}: the shape of its output is not known; export with a fixed probe")
    shape = tuple(int(length) for length in output.shape)  # type: ignore[arg-type]
    return Gate(str(node.name), node.op_type, "relu", node.metadata_props.get(PATH_KEY, ""), shape)
