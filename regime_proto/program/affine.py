"""Turns a piecewise affine network into an affine map: pooling is frozen like gates, and the rest must be affine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from regime_proto.program.edit import new_constant, new_node, replace_uses, sorted_graph
from regime_proto.program.rewrite import PATH_KEY
from regime_proto.program.values import bodies
from regime_proto.runtime.ir import InPlacePass, PassResult, ir
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

# Operators that are affine in all their inputs jointly, or only move numbers.
_AFFINE = {
    "Add", "Sub", "Sum", "Mean", "Neg", "Identity", "Cast", "CastLike", "Concat", "Dropout", "ReduceSum", "ReduceMean",
    "AveragePool", "GlobalAveragePool", "Flatten", "Transpose",
}  # fmt: skip
# Operators that are affine in their first input if the others are fixed.
_AFFINE_IN_FIRST = {
    "Reshape", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "GatherElements", "Expand", "Tile", "Pad",
    "BatchNormalization", "DepthToSpace", "SpaceToDepth", "Div", "Resize",
}  # fmt: skip
# Operators that are affine in each input alone, but not in two at once.
_MULTILINEAR = {"Mul", "MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum"}
_SHAPES = ("Shape", "Size")


def pooled_name(pool: int) -> str:
    """Return the name of the input that selects the element of each pooling window, int64."""
    return f"regime_pooled_{pool}"


def taken_name(pool: int) -> str:
    """Return the name of the output that holds the selected element of each window, int64."""
    return f"regime_taken_{pool}"


@dataclass(frozen=True)
class Pool:
    """A MaxPool.

    Parameters
    ----------
    node : str
    before, after : tuple of int
        Shapes of its input and output: (sample, channel, row …).
    """

    node: str
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def places(self) -> int:
        """Elements in a channel of its input."""
        return int(np.prod(self.before[2:]))

    @property
    def windows(self) -> int:
        """Elements in a channel of its output."""
        return int(np.prod(self.after[2:]))


def find_pools(graph: ir.Graph) -> tuple[Pool, ...]:
    """Return every MaxPool in a graph whose shapes are known."""
    return tuple(
        Pool(str(node.name), _static(node.inputs[0]), _static(node.outputs[0]))
        for node in graph
        if node.op_type == "MaxPool" and _static(node.inputs[0]) and _static(node.outputs[0])
    )


def _static(value: ir.Value | None) -> tuple[int, ...]:
    if value is None or value.shape is None or not value.shape.is_static():
        return ()
    return tuple(int(length) for length in value.shape.numpy())


def expose_taken(graph: ir.Graph, pools: Sequence[Pool]) -> list[ir.Value]:
    """Append outputs with the element that each window selects in its channel, (sample, channel, window) int64."""
    nodes = {node.name: node for node in graph}
    found = []
    for index, pool in enumerate(pools):
        node = nodes[pool.node]
        name, integer = taken_name(index), ir.DataType.INT64
        indices = ir.Value(name=f"{name}_flat", type=ir.TensorType(integer))
        values = ir.Value(name=f"{name}_values", type=node.outputs[0].type)
        again = ir.Node("", "MaxPool", [node.inputs[0]], node.attributes.values(), outputs=[values, indices])
        graph.append(again)
        # MaxPool's indices run through all samples and channels.
        places = new_constant(graph, f"{name}_places", np.array(pool.places, np.int64))
        within = new_node(graph, "Mod", [indices, places], f"{name}_within", integer)
        shape = new_constant(graph, f"{name}_shape", np.array([*pool.after[:2], -1], np.int64))
        found.append(new_node(graph, "Reshape", [within, shape], name, integer))
    return found


class FreezePools(InPlacePass):
    """Replace every MaxPool by a selection of the elements given by new inputs; see `pooled_name`.

    Parameters
    ----------
    pools : sequence of Pool
    """

    def __init__(self, pools: Sequence[Pool]) -> None:
        self.pools = pools

    def call(self, model: ir.Model) -> PassResult:
        """Replace each with a gather."""
        graph = model.graph
        nodes = {node.name: node for node in graph}
        for index, pool in enumerate(self.pools):
            node, name = nodes[pool.node], pooled_name(index)
            shape = ir.Shape([*pool.after[:2], pool.windows])
            taken = ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64), shape=shape)
            graph.inputs.append(taken)
            chosen = _gathered(graph, pool, node.inputs[0], taken, f"{name}_chosen")
            after = new_constant(graph, f"{name}_after", np.array(pool.after, np.int64))
            output = node.outputs[0]
            whole = new_node(graph, "Reshape", [chosen, after], f"{name}_out", output.dtype, output.shape)
            replace_uses(output, whole)
        return sorted_graph(model, modified=bool(self.pools))


def _gathered(graph: ir.Graph, pool: Pool, source: ir.Value | None, places: ir.Value, name: str) -> ir.Value:
    """Return the elements of each channel at the given indices, (sample, channel, window)."""
    assert source is not None  # noqa: S101
    flat = new_constant(graph, f"{name}_flat_shape", np.array([*pool.before[:2], -1], np.int64))
    channels = new_node(graph, "Reshape", [source, flat], f"{name}_flat", source.dtype)
    return new_node(graph, "GatherElements", [channels, places], name, source.dtype, axis=2)


def rivals(graph: ir.Graph, pools: Sequence[Pool], windows: Sequence[Array]) -> list[ir.Value]:
    """Append, for every frozen pooling, the differences between a window's selected element and its other elements.

    Parameters
    ----------
    graph : onnx_ir.Graph
        After `FreezePools`.
    pools : sequence of Pool
    windows : sequence of (place, window) int64
        See `places_of_windows`.

    Returns
    -------
    list of onnx_ir.Value
        (sample, channel, window), pool after pool and place after place.
    """
    chosen = {str(value.name): value for node in graph for value in node.outputs}
    found = []
    for index, (pool, places) in enumerate(zip(pools, windows, strict=True)):
        taken = chosen[f"{pooled_name(index)}_chosen"]
        source = chosen[f"{pooled_name(index)}_chosen_flat"]
        for number, row in enumerate(places):
            name = f"regime_rival_{index}_{number}"
            whole = np.broadcast_to(row, (*pool.before[:2], pool.windows))
            places_here = new_constant(graph, f"{name}_places", np.ascontiguousarray(whole, np.int64))
            other = new_node(graph, "GatherElements", [source, places_here], f"{name}_other", source.dtype, axis=2)
            found.append(new_node(graph, "Sub", [taken, other], name, taken.dtype))
    return found


def places_of_windows(pool: Pool, node: ir.Node) -> Array:
    """Return the elements of a channel in each window, (place, window) int64; padding repeats an element inside.

    Raises
    ------
    RegimeError
        The padding is given by a rule, not by numbers.
    """
    rank = len(pool.before) - 2
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise RegimeError(
            f"{node.name}: pads by a rule (auto_pad), which cannot be frozen; export it with explicit pads"
        )
    kernel = node.attributes.get_ints("kernel_shape", [])
    strides, dilations = (node.attributes.get_ints(name, [1] * rank) for name in ("strides", "dilations"))
    pads = node.attributes.get_ints("pads", [0] * 2 * rank)
    axes = []
    for axis in range(rank):
        starts = np.arange(pool.after[2 + axis]) * strides[axis] - pads[axis]
        # Padding is never selected: the nearest element inside replaces it.
        inside = starts[None] + np.arange(kernel[axis])[:, None] * dilations[axis]
        axes.append(_held_inside(inside, pool.before[2 + axis], dilations[axis]))
    grids = np.meshgrid(*[np.arange(length) for length in (*kernel, *pool.after[2:])], indexing="ij")
    coordinates = [axes[axis][grids[axis], grids[rank + axis]] for axis in range(rank)]
    flat: Array = np.ravel_multi_index(coordinates, pool.before[2:])
    return flat.reshape(int(np.prod(kernel)), -1)


def _held_inside(places: Array, length: int, dilation: int) -> Array:
    """Return the indices, with those outside moved to an index inside of the same window."""
    while (low := places < 0).any():
        places = np.where(low, places + dilation, places)
    while (high := places >= length).any():
        places = np.where(high, places - dilation, places)
    return places


def not_affine(graph: ir.Graph, inputs: Sequence[str]) -> tuple[ir.Node | None, set[str]]:
    """Check whether all outputs of a graph are affine in some inputs jointly.

    Returns
    -------
    onnx_ir.Node or None
        The first operator that is not affine.
    set of str
        The values that are not affine, because they depend on such operators.
    """
    moving = {value for value in graph.inputs if value.name in inputs}
    first, others = None, set[ir.Value]()
    for node in graph:
        places = [place for place, value in enumerate(node.inputs) if value in moving or value in others]
        if not places or node.op_type in _SHAPES:
            continue
        is_affine = not any(bodies(node)) and _is_affine(node, places)
        first = node if first is None and not is_affine else first
        behind = not is_affine or any(value in others for value in node.inputs)
        (others if behind else moving).update(node.outputs)
    return first, {str(value.name) for value in others}


def name_of(node: ir.Node) -> str:
    """Return the text for a node in a message."""
    path = node.metadata_props.get(PATH_KEY, "")
    return f"{node.op_type} {node.name}{path and f' of {path}'}"


def _is_affine(node: ir.Node, moving: Sequence[int]) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in _AFFINE:
        return True
    if node.op_type in _AFFINE_IN_FIRST:
        return list(moving) == [0]
    if node.op_type == "Where":
        return 0 not in moving
    if node.op_type == "Gemm":
        return len({*moving} & {0, 1}) < 2
    # A bias may vary too.
    return node.op_type in _MULTILINEAR and len({*moving} - ({2} if node.op_type.startswith("Conv") else set())) == 1


def values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield all inputs of a graph and all outputs of its nodes."""
    yield from graph.inputs
    for node in graph:
        yield from node.outputs
