"""Compares two states: on the host with NumPy, or on the device if weights and masks stay there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from regime_proto.program.edit import new_constant, new_node
from regime_proto.quantities.deltas import weight_deltas
from regime_proto.runtime.device import Device, Placed
from regime_proto.runtime.ir import ir
from regime_proto.schema.flips import FlipCounter
from regime_proto.schema.header import Layer
from regime_proto.schema.types import Array


@dataclass(frozen=True)
class Comparable:
    """The part of a state that is kept until its successor has been compared with it.

    Parameters
    ----------
    weights : mapping of str to array
        The trainable tensors, under the program's names.
    placed : mapping of str to placed array
        The same on the device.
    planes : tuple of placed arrays
        Bool masks on the device, if it keeps them.
    packed : (sample, byte) uint8
    """

    weights: Mapping[str, Array]
    placed: Mapping[str, Placed]
    planes: tuple[Placed, ...]
    packed: Array


class Comparer(Protocol):
    """Compares a state with the previous one."""

    def compare(self, current: Comparable, previous: Comparable) -> tuple[Array, Array, Array]:
        """Return Σ|Δ| and √ΣΔ², both (tensor,) float64, and flips, (layer, sample) uint32."""


class HostComparer:
    """Compares with NumPy, on the arrays of the state and on packed masks.

    Parameters
    ----------
    names : sequence of str
        The trainable tensors.
    layers : sequence of Layer
    """

    def __init__(self, names: Sequence[str], layers: Sequence[Layer]) -> None:
        self._names = names
        self._flips = FlipCounter(layers)

    def compare(self, current: Comparable, previous: Comparable) -> tuple[Array, Array, Array]:
        """See `Comparer`."""
        l1, l2 = weight_deltas(current.weights, previous.weights, self._names)
        return l1, l2, self._flips.count(current.packed, previous.packed)


class DeviceComparer:
    """Compares with a separate graph, on weights and bool masks on the device; only sums are copied back.

    Parameters
    ----------
    device : Device
    tensors : mapping of str to placed array
        The trainable tensors of any state, for their types and ranks.
    layers : sequence of Layer
    """

    def __init__(self, device: Device, tensors: Mapping[str, Placed], layers: Sequence[Layer]) -> None:
        self._names = list(tensors)
        planes = [len(layer.thresholds) for layer in layers]
        self._session = device.session(comparing_graph(list(tensors.values()), planes))

    def compare(self, current: Comparable, previous: Comparable) -> tuple[Array, Array, Array]:
        """See `Comparer`."""
        feeds = self._weights("current", current.placed) | self._weights("previous", previous.placed)
        for side, state in (("current", current), ("previous", previous)):
            feeds |= {f"{side}.mask.{index}": plane for index, plane in enumerate(state.planes)}
        outputs = self._session.run(feeds)
        l1, squares, flips = (outputs[name].numpy() for name in ("l1", "squares", "flips"))
        return l1, np.sqrt(squares), flips.astype(np.uint32)

    def _weights(self, side: str, placed: Mapping[str, Placed]) -> dict[str, Placed]:
        return {f"{side}.weight.{index}": placed[name] for index, name in enumerate(self._names)}


def comparing_graph(tensors: Sequence[Placed], planes: Sequence[int]) -> ir.Model:
    """Build the graph of `DeviceComparer`; flips are sums of float32 ones, exact below 2²⁴ units per layer."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="compare")

    def node(op: str, *inputs: ir.Value, name: str | None = None, **attributes: int) -> ir.Value:
        return new_node(graph, op, inputs, name or f"value_{len(graph)}", None, None, **attributes)

    def pair(kind: str, index: int, dtype: ir.DataType, rank: int) -> tuple[ir.Value, ir.Value]:
        values = [
            ir.Value(
                name=f"{side}.{kind}.{index}",
                type=ir.TensorType(dtype),
                shape=ir.Shape([f"{kind}_{index}_{axis}" for axis in range(rank)]),
            )
            for side in ("current", "previous")
        ]
        graph.inputs.extend(values)
        return values[0], values[1]

    def joined(parts: list[ir.Value], name: str, dtype: ir.DataType) -> None:
        first = new_constant(graph, "first", np.array([0], np.int64))
        output = node("Concat", *(node("Unsqueeze", part, first) for part in parts), name=name, axis=0)
        output.type = ir.TensorType(dtype)
        graph.outputs.append(output)

    l1, squares, flips = [], [], []
    double, float32 = ir.DataType.DOUBLE, ir.DataType.FLOAT
    for index, tensor in enumerate(tensors):
        stored = ir.DataType(tensor.element_type())
        current, previous = pair("weight", index, stored, len(tensor.shape()))
        if stored not in (float32, double):
            current, previous = (node("Cast", value, to=float32.value) for value in (current, previous))
        change = node("Cast", node("Abs", node("Sub", current, previous)), to=double.value)
        l1.append(node("ReduceSum", change, keepdims=0))
        squares.append(node("ReduceSum", node("Mul", change, change), keepdims=0))
    number = 0
    units = new_constant(graph, "units", np.array([1], np.int64))
    for count in planes:
        changed = None
        for _ in range(count):
            flipped = node("Xor", *pair("mask", number, ir.DataType.BOOL, 2))
            changed = flipped if changed is None else node("Or", changed, flipped)
            number += 1
        assert changed is not None  # noqa: S101
        ones = node("Cast", changed, to=float32.value)
        flips.append(node("Cast", node("ReduceSum", ones, units, keepdims=0), to=ir.DataType.INT64.value))
    joined(l1, "l1", double)
    joined(squares, "squares", double)
    joined(flips, "flips", ir.DataType.INT64)
    return ir.Model(graph, ir_version=10)
