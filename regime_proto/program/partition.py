"""Cuts a graph into parts with few weights each, at points where few weight-dependent values are live."""

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx
import onnx.shape_inference

from regime_proto.program.program import ProgramError
from regime_proto.runtime.ir import ir
from regime_proto.schema.words import counted

# Only tensors can be passed from one part to the next, not sequences of tensors, for example.
_NO_TENSOR = 2**60


@dataclass(frozen=True)
class Cutting:
    """Limits on the parts of a graph.

    Parameters
    ----------
    budget : int
        Bytes of weights in a part, in the types used in computation; a larger tensor gets its own part.
    least : int
        Minimum number of parts.
    """

    budget: int
    least: int = 1


@dataclass(frozen=True)
class Part:
    """Nodes of a graph that run together.

    Parameters
    ----------
    nodes : tuple of int
        Their indices in the graph, each after those that it depends on.
    weights : tuple of str
        The weights that they use; all are inputs of the graph.
    inputs : tuple of str
        All other values that they use but do not compute: values of earlier parts, and other inputs of the graph.
    outputs : tuple of str
        Outputs of the graph, and values that later parts use.
    """

    nodes: tuple[int, ...]
    weights: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Partition:
    """A graph that is cut into parts.

    Parameters
    ----------
    model : onnx.ModelProto
    shared : Part
        The nodes that depend on no weights, and are therefore the same for all states.
    parts : tuple of Part
        In execution order.
    weight_bytes : tuple of int
        For each of the parts.
    live_bytes : int
        Most bytes that are live at a cut.
    peak_bytes : int
        Most bytes that are live at a node, in addition to the weights.
    """

    model: onnx.ModelProto
    shared: Part
    parts: tuple[Part, ...]
    weight_bytes: tuple[int, ...]
    live_bytes: int
    peak_bytes: int

    @cached_property
    def needed_after(self) -> tuple[frozenset[str], ...]:
        """For each part, the values that later parts still use."""
        needed = [frozenset[str]()]
        for part in reversed(self.parts[1:]):
            needed.append(needed[-1] | set(part.inputs))
        return tuple(reversed(needed))

    def model_of(self, part: Part) -> ir.Model:
        """Return a part as a separate graph."""
        source = self.model.graph
        nodes = [source.node[number] for number in part.nodes]
        used = {name for node in nodes for name in _used(node)} | set(part.outputs)
        graph = onnx.GraphProto(name=source.name)
        graph.node.extend(nodes)
        graph.initializer.extend(tensor for tensor in source.initializer if tensor.name in used)
        graph.input.extend(self._described[name] for name in (*part.weights, *part.inputs))
        graph.output.extend(self._described[name] for name in part.outputs)
        made = {name for node in nodes for name in node.output}
        graph.value_info.extend(
            value for value in source.value_info if value.name in made and value.name not in part.outputs
        )
        model = onnx.ModelProto()
        model.CopyFrom(self._frame)
        model.graph.CopyFrom(graph)
        found: ir.Model = ir.from_proto(model)
        return found

    @cached_property
    def _frame(self) -> onnx.ModelProto:
        """The model without its graph."""
        frame = onnx.ModelProto()
        frame.CopyFrom(self.model)
        frame.ClearField("graph")
        return frame

    @cached_property
    def _described(self) -> dict[str, onnx.ValueInfoProto]:
        return _described(self.model.graph)


def partition(model: onnx.ModelProto, weights: Mapping[str, int], cutting: Cutting) -> Partition:
    """Cut a graph.

    Nodes that depend on weights alone (widening or transposing a weight) are repeated in every part
    that uses them; nodes that depend on no weights run once. The other nodes are ordered so that
    few bytes are live, and cut so that the sum of live bytes over all cuts is least.

    Parameters
    ----------
    model : onnx.ModelProto
        With operators already fused, so that no cut prevents a fusion; see `Device.optimized`.
    weights : mapping of str to int
        Bytes of each weight, in the type used in computation; not all need to be inputs of the graph.
    cutting : Cutting

    Raises
    ------
    ProgramError
        The graph cannot be cut into that many parts.
    """
    # Fused nodes have no shape information yet.
    graph = _Graph(onnx.shape_inference.infer_shapes(model), weights)
    order = graph.in_order()
    budget = min(cutting.budget, 2 * graph.weight_bytes // cutting.least)
    cuts = graph.cuts(order, budget)
    while len(cuts) < cutting.least and budget:
        budget = budget * 3 // 4
        cuts = graph.cuts(order, budget)
    if len(cuts) < cutting.least:
        raise ProgramError(
            f"--parts {cutting.least}: the program can be cut into at most "
            f"{counted(len(cuts), 'part')}; give --parts {len(cuts)} or less"
        )
    return graph.partition(order, cuts)


class _Graph:
    """The nodes of a graph, grouped by their dependencies."""

    def __init__(self, model: onnx.ModelProto, weights: Mapping[str, int]) -> None:
        self._model = model
        self._weights = {value.name: weights[value.name] for value in model.graph.input if value.name in weights}
        self._nodes = list(model.graph.node)
        self._used = [tuple(dict.fromkeys(_used(node))) for node in self._nodes]
        self._maker = {name: number for number, node in enumerate(self._nodes) for name in node.output if name}
        self._outputs = {value.name for value in model.graph.output}
        self._constants = {tensor.name for tensor in model.graph.initializer}
        self._sizes = self._sizes_of(model.graph)
        self._repeated, self._others = self._sorted()
        self._made = {name for number in self._others for name in self._nodes[number].output if name}

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(self._weights.values())

    def _sorted(self) -> tuple[set[int], list[int]]:
        """Return the nodes that each part repeats, and those that depend on weights and other values.

        The former depend on weights alone, or compute a value that cannot be passed on.
        """
        given = {value.name for value in self._model.graph.input} - set(self._weights)
        on_weights, on_more = set(self._weights), set(given)
        repeated: set[int] = set()
        others: list[int] = []
        for number, node in enumerate(self._nodes):
            weighs = not on_weights.isdisjoint(self._used[number])
            is_output = not self._outputs.isdisjoint(node.output)
            goes_on = is_output or not on_more.isdisjoint(self._used[number])
            if weighs:
                on_weights.update(node.output)
            if goes_on:
                on_more.update(node.output)
            if weighs and goes_on:
                others.append(number)
            elif weighs or (not is_output and max(map(self._size, node.output), default=0) >= _NO_TENSOR):
                repeated.add(number)
        return repeated, others

    def _size(self, name: str) -> int:
        return self._sizes[name] if name else 0

    def _sizes_of(self, graph: onnx.GraphProto) -> dict[str, int]:
        described = _described(graph)
        sizes: dict[str, int] = {name: _bytes(value, 0) for name, value in described.items()}
        for number, node in enumerate(self._nodes):
            largest = max((sizes.get(name, 0) for name in self._used[number] if name not in self._weights), default=0)
            for name in node.output:
                sizes[name] = _bytes(described[name], largest) if name in described else _NO_TENSOR
        return sizes

    def in_order(self) -> list[int]:
        """Return the nodes to cut, in an order in which each next node adds the fewest live bytes."""
        users = self._users(self._others)
        left = {name: len(found) for name, found in users.items()}
        waiting = {number: sum(1 for name in self._activations(number)) for number in self._others}

        def added(number: int) -> int:
            made = sum(self._sizes[name] for name in self._nodes[number].output if name in users)
            return made - sum(self._sizes[name] for name in self._activations(number) if left[name] == 1)

        ready = [(added(number), number) for number in self._others if not waiting[number]]
        heapq.heapify(ready)
        order: dict[int, None] = {}
        while ready:
            grows, number = heapq.heappop(ready)
            # Outdated entry: since it was added, other users of its inputs may have been scheduled.
            if number in order or grows != added(number):
                continue
            order[number] = None
            changed = {user for name in self._activations(number) for user in users[name]}
            for name in self._activations(number):
                left[name] -= 1
            for name in self._nodes[number].output:
                for user in users.get(name, ()):
                    waiting[user] -= 1
                    changed.add(user)
            for user in changed - order.keys():
                if not waiting[user]:
                    heapq.heappush(ready, (added(user), user))
        return list(order)

    def _users(self, numbers: Iterable[int]) -> dict[str, list[int]]:
        """Return, for each value computed by one of some nodes, those of the nodes that use it."""
        chosen = list(numbers)
        users: dict[str, list[int]] = {}
        made = {name for number in chosen for name in self._nodes[number].output}
        for number in chosen:
            for name in self._used[number]:
                if name in made:
                    users.setdefault(name, []).append(number)
        return users

    def _activations(self, number: int) -> list[str]:
        """Return the values that a node uses and other nodes to be cut compute."""
        return [name for name in self._used[number] if name in self._made]

    def _closure(self, number: int) -> tuple[set[int], set[str]]:
        """Return the repeated nodes and the weights that a node needs."""
        nodes: set[int] = set()
        weights: set[str] = set()
        pending = list(self._used[number])
        while pending:
            name = pending.pop()
            maker = self._maker.get(name)
            if name in self._weights:
                weights.add(name)
            elif maker in self._repeated and maker not in nodes:
                nodes.add(maker)
                pending += self._used[maker]
        return nodes, weights

    def _live(self, order: Sequence[int]) -> list[int]:
        """Return the live bytes before each node and after the last one."""
        place = {number: at for at, number in enumerate(order)}
        change = [0] * (len(order) + 2)
        for name, users in self._users(order).items():
            change[place[self._maker[name]] + 1] += self._sizes[name]
            change[max(place[user] for user in users) + 1] -= self._sizes[name]
        return list(itertools.accumulate(change))[: len(order) + 1]

    def cuts(self, order: Sequence[int], budget: int) -> list[range]:
        """Return the range of positions in `order` for each part."""
        needed = [self._closure(number)[1] for number in order]
        alive = self._live(order)
        best = [0.0] + [math.inf] * len(order)
        begins = [0] * (len(order) + 1)
        for stop in range(1, len(order) + 1):
            for start in self._fitting(needed, stop, budget):
                cost = best[start] + (1 + alive[start] if start else 0)
                # At equal cost prefer the longest part.
                if cost <= best[stop]:
                    best[stop], begins[stop] = cost, start
        if best[-1] >= _NO_TENSOR:
            raise ProgramError(
                f"the program cannot be cut into parts of {budget / 1e9:.2f} GB of weights: "
                "sequences of tensors are live at every cut; use --parts off"
            )
        ranges: list[range] = []
        stop = len(order)
        while stop:
            ranges.append(range(begins[stop], stop))
            stop = begins[stop]
        return ranges[::-1]

    def _fitting(self, needed: Sequence[set[str]], stop: int, budget: int) -> Iterator[int]:
        """Yield the possible starts of a part that ends at `stop`, shortest part first."""
        held: set[str] = set()
        size = largest = 0
        for start in range(stop - 1, -1, -1):
            new = needed[start] - held
            if new:
                held |= new
                size += sum(self._weights[name] for name in new)
                largest = max(largest, sum(self._weights[name] for name in needed[start]))
            if size > budget and size > largest:
                return
            yield start

    def partition(self, order: Sequence[int], ranges: Sequence[range]) -> Partition:
        """Return the parts."""
        alive = self._live(order)
        shared = self._shared()
        part_of = {number: index for index, places in enumerate(ranges) for number in (order[at] for at in places)}
        users = self._users(order)
        later = {
            name for name, found in users.items() if any(part_of[user] != part_of[self._maker[name]] for user in found)
        }
        parts = tuple(self._part([order[at] for at in places], later) for places in ranges)
        peaks = [
            (alive[at] + sum(map(self._size, self._nodes[number].output))) % _NO_TENSOR
            for at, number in enumerate(order)
        ]
        return Partition(
            self._model,
            shared,
            parts,
            tuple(sum(self._weights[name] for name in part.weights) for part in parts),
            max((alive[places.start] for places in ranges), default=0),
            max(peaks, default=0),
        )

    def _part(self, numbers: Sequence[int], later: set[str]) -> Part:
        closures = [self._closure(number) for number in numbers]
        weights = {name for _, held in closures for name in held}
        nodes = (*sorted({maker for makers, _ in closures for maker in makers}), *numbers)
        made = {name for number in nodes for name in self._nodes[number].output}
        used = dict.fromkeys(name for number in nodes for name in self._used[number])
        inputs = tuple(name for name in used if name not in made | weights | self._constants)
        outputs = tuple(
            name for number in numbers for name in self._nodes[number].output if name in self._outputs | later
        )
        return Part(nodes, tuple(sorted(weights)), inputs, outputs)

    def _shared(self) -> Part:
        """Return the nodes that depend on no weights."""
        chosen = {*range(len(self._nodes))} - self._repeated - set(self._others)
        chosen |= {maker for number in chosen for maker in self._closure(number)[0]}
        made = {name for number in chosen for name in self._nodes[number].output if name}
        wanted = {name for number in {*self._repeated, *self._others} for name in self._used[number]}
        outputs = tuple(
            name for name in sorted(made) if name in wanted | self._outputs and self._sizes[name] < _NO_TENSOR
        )
        used = dict.fromkeys(name for number in sorted(chosen) for name in self._used[number])
        inputs = tuple(name for name in used if name not in made | self._constants)
        return Part(tuple(sorted(chosen)), (), inputs, outputs)


def _used(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the values that a node uses, including outer values used in its subgraphs."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
            own |= {name for inner in body.node for name in inner.output}
            outside = [name for inner in body.node for name in _used(inner)]
            outside += [value.name for value in body.output]
            yield from (name for name in outside if name not in own)


def _described(graph: onnx.GraphProto) -> dict[str, onnx.ValueInfoProto]:
    """Return the values of a graph that have type information."""
    return {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}


def _bytes(value: onnx.ValueInfoProto, otherwise: int) -> int:
    """Return the bytes of a tensor; `otherwise` if its shape is unknown."""
    held = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not held.elem_type:
        return _NO_TENSOR
    if not held.HasField("shape") or not all(length.HasField("dim_value") for length in held.shape.dim):
        return otherwise
    return int(ir.DataType(held.elem_type).itemsize * math.prod(length.dim_value for length in held.shape.dim))
