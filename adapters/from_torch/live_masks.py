"""Runs the part of an exported torch program that leads to the masks, with torch itself."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from regime_proto.adapters.from_torch.exporter import Exported
from regime_proto.adapters.from_torch.live_weights import HALF
from regime_proto.program.beside_masks import NOTHING, Beside, sample_axis
from regime_proto.program.gate_patterns import Plane
from regime_proto.program.gates import Gate
from regime_proto.program.mask_outputs import Rows
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

_BITS = (128, 64, 32, 16, 8, 4, 2, 1)


@dataclass(frozen=True)
class TorchMasks:
    """The masks of one state.

    Parameters
    ----------
    planes : list of (sample, byte) uint8
        One entry for each plane; arrays on the CPU, otherwise tensors.
    total : scalar tensor
        Finite if all activations are finite.
    outputs : (sample, output) tensor, optional
    margins, squares : (layer, sample) tensor, optional
        See `program.beside_masks`.
    """

    planes: list[Any]
    total: torch.Tensor
    outputs: torch.Tensor | None = None
    margins: torch.Tensor | None = None
    squares: torch.Tensor | None = None

    def packed(self) -> Array:
        """Return the masks as one array, (sample, byte)."""
        if isinstance(self.planes[0], torch.Tensor):
            return np.asarray(self.packed_there().cpu().numpy())
        return np.concatenate(self.planes, axis=1)

    def packed_there(self) -> torch.Tensor:
        """Return the masks as one tensor, (sample, byte), on their device."""
        return torch.cat(self.planes, dim=1)


class MaskGraph:
    """The operators of an exported program up to the last gate, each gate followed by the packing of its bits.

    Activations are freed as soon as they are no longer needed. Only operators run: hooks, modes and modules have no
    effect.

    Parameters
    ----------
    both : torch_export.Exported
        The exported program, whose weights are not kept.
    gates : sequence of Gate
        Gates whose values have the names of nodes in `both.exported`.
    rows : sequence of Rows
        How each gate becomes rows of units.
    weights : mapping of str to tensor
        Weights of the model; half-precision ones are widened to float32 where they are used.
    probe : mapping of str to array
        Arrays by input.
    beside : Beside
        Further results of a forward pass: outputs of the network, and statistics of the inputs of gates.

    Attributes
    ----------
    weights : frozenset of str
        Names of the weights that the masks need.

    Raises
    ------
    RegimeError
        The value of a gate is not a node of the graph.
    """

    def __init__(
        self,
        both: Exported,
        gates: Sequence[Gate],
        rows: Sequence[Rows],
        weights: Mapping[str, torch.Tensor],
        probe: Mapping[str, Array],
        *,
        beside: Beside = NOTHING,
    ) -> None:
        device = next(iter(weights.values())).device
        graph = torch.fx.Graph()
        copies: dict[Any, Any] = {}
        exported = both.exported
        graph.graph_copy(exported.graph, copies)
        nodes = {original.name: copy for original, copy in copies.items()}
        signature = exported.graph_signature
        targets = {**signature.inputs_to_parameters, **_buffers(signature)}
        constants = {**signature.inputs_to_lifted_tensor_constants, **_buffers(signature, persistent=False)}
        self._fixed = {name: exported.constants[target] for name, target in constants.items()}
        self._fixed |= {
            placeholder: torch.from_numpy(probe[name].copy()).to(device) for placeholder, name in both.inputs.items()
        }
        for name, target in targets.items():
            if weights[target].dtype in HALF:
                _widen(graph, nodes[name])
        graph.output(
            _outputs(graph, nodes, list(zip(gates, rows, strict=True)), device, beside, signature.user_outputs)
        )
        self._samples = rows[0].samples
        _prune(graph)
        # Nodes may have different names in a new graph.
        needed = set(graph.nodes)
        inputs = [name for name, node in nodes.items() if node.op == "placeholder" and node in needed]
        self._inputs = [(name, targets.get(name)) for name in inputs]
        self.weights = frozenset(target for _, target in self._inputs if target is not None)
        self._device = device
        self._is_random = any(_is_random(node.target) for node in graph.nodes)
        self._module = torch.fx.GraphModule(exported.graph_module, graph)

    def run(self, weights: Mapping[str, torch.Tensor]) -> TorchMasks:
        """Compute the masks for weights, given by name in the model."""
        values = [self._fixed[name] if target is None else weights[target] for name, target in self._inputs]
        with self._undisturbed():
            outputs, near, found = self._module(*values)
            total = torch.stack([total for _, total in outputs]).sum()
            margins, squares = (torch.stack(parts) for parts in zip(*near, strict=True)) if near else (None, None)
        planes = [plane for planes, _ in outputs for plane in planes]
        return TorchMasks(planes, total, _by_sample(found, self._samples), margins, squares)

    @contextlib.contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Run without gradients and autocast, with unchanged random states, in float32 and with repeatable kernels."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.autocast(self._device.type, enabled=False))
            if self._is_random:
                stack.enter_context(torch.random.fork_rng([self._device] if self._device.type == "cuda" else []))
                # Random states of other GPUs are left alone, since nothing would restore them.
                torch.default_generator.manual_seed(0)
                if self._device.type == "cuda":
                    torch.cuda.default_generators[self._device.index or 0].manual_seed(0)
            if self._device.type == "cuda":
                stack.enter_context(repeatable())
            yield


# The settings of torch 2.9 and later: reading the older ones raises an error if a user has set the new ones.
_REPEATABLE: tuple[tuple[Any, str, object], ...] = (
    (torch.backends.cudnn, "enabled", True),
    (torch.backends.cudnn, "benchmark", False),
    (torch.backends.cudnn, "deterministic", True),
    (torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    (torch.backends.cudnn.rnn, "fp32_precision", "ieee"),
    (torch.backends.cuda.matmul, "fp32_precision", "ieee"),
)


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Let torch compute on CUDA in float32 and with repeatable kernels; the settings are restored afterwards."""
    before = [getattr(place, name) for place, name, _ in _REPEATABLE]
    try:
        for place, name, value in _REPEATABLE:
            setattr(place, name, value)
        yield
    finally:
        for (place, name, _), value in zip(_REPEATABLE, before, strict=True):
            setattr(place, name, value)


def _outputs(
    graph: Any,
    nodes: Mapping[str, Any],
    gates: Sequence[tuple[Gate, Rows]],
    device: torch.device,
    beside: Beside,
    outputs: Sequence[str],
) -> tuple[tuple[Any, ...], ...]:
    """Append the results of a forward pass: masks of every gate, statistics of their inputs, and network outputs."""
    masks = tuple(_packing(graph, nodes, gate, row, device) for gate, row in gates)
    near = tuple(_reducing(graph, nodes, gate, row, device) for gate, row in gates) if beside.preactivations else ()
    return masks, near, tuple(nodes[name] for name in outputs) if beside.outputs else ()


def _packing(graph: Any, nodes: Mapping[str, Any], gate: Gate, rows: Rows, device: torch.device) -> Any:
    node = nodes.get(gate.value)
    if node is None:
        raise RegimeError(f"gate {gate.node} ({gate.op}): torch computes its value inside a single operator")
    with graph.inserting_after(node):
        return graph.call_function(packing(gate, rows, device), (node,))


def _reducing(graph: Any, nodes: Mapping[str, Any], gate: Gate, rows: Rows, device: torch.device) -> Any:
    node = nodes[gate.value]
    # For a ReLU this is the output, from which the masks follow as well.
    z = node.args[0] if gate.kind == "relu" else node
    with graph.inserting_after(z):
        return graph.call_function(reducing(gate, rows, device), (z,))


def _by_sample(outputs: Sequence[torch.Tensor], samples: int) -> torch.Tensor | None:
    """Return the outputs that hold real numbers for each sample, concatenated; None if there are none."""
    found = []
    for output in outputs:
        if not isinstance(output, torch.Tensor) or not output.dtype.is_floating_point:
            continue
        axis = sample_axis(output.shape, samples)
        if axis is not None:
            found.append((output.movedim(axis, 0) if axis > 0 else output).reshape(samples, -1))
    return torch.cat(found, dim=1) if found else None


def reducing(
    gate: Gate, rows: Rows, device: torch.device
) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Return a function from the input z of a gate to the smallest distance from a threshold and Σz² of each sample."""
    counted = None if rows.counted is None else torch.from_numpy(rows.counted).to(device)
    chosen = None if rows.units is None else torch.from_numpy(rows.units).to(device)

    def reduce(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        turned = value.movedim(rows.axis, 0) if rows.axis > 0 else value
        units = turned.reshape(rows.samples, -1)
        units = units if chosen is None else units[:, chosen]
        distances = torch.stack([(units - plane.threshold).abs() for plane in gate.planes]).amin(dim=0)
        squares = units.square()
        if counted is not None:
            distances = torch.where(counted, distances, torch.inf)
            squares = torch.where(counted, squares, 0)
        return distances.amin(dim=1), squares.sum(dim=1, dtype=torch.float64)

    return reduce


def _is_random(target: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())


def packing(gate: Gate, rows: Rows, device: torch.device) -> Callable[[torch.Tensor], tuple[list[Any], torch.Tensor]]:
    """Return a function from a gate's value to its packed planes and a number that is finite if all activations are."""
    bits_of = _host_bits(rows) if device.type == "cpu" else _device_bits(rows, device)

    def pack(value: torch.Tensor) -> tuple[list[Any], torch.Tensor]:
        turned = value.movedim(rows.axis, 0) if rows.axis > 0 else value
        units = turned.reshape(rows.samples, -1)
        return [bits_of(units, plane) for plane in gate.planes], value.sum()

    return pack


Bits = Callable[[torch.Tensor, Plane], Any]
"""From units, (sample, unit), to the packed bits of a plane, (sample, byte), of the selected units."""


def _host_bits(rows: Rows) -> Bits:
    """Compare and pack with NumPy, which does both several times as fast as torch."""

    def bits_of(units: torch.Tensor, plane: Plane) -> Any:
        values = units.numpy() if rows.units is None else units.numpy()[:, rows.units]
        bits = values >= plane.threshold if plane.closed else values > plane.threshold
        return np.packbits(bits if rows.counted is None else bits & rows.counted, axis=1)

    return bits_of


def _device_bits(rows: Rows, device: torch.device) -> Bits:
    counted = None if rows.counted is None else torch.from_numpy(rows.counted).to(device)
    chosen = None if rows.units is None else torch.from_numpy(rows.units).to(device)

    def bits_of(units: torch.Tensor, plane: Plane) -> Any:
        values = units if chosen is None else units[:, chosen]
        bits = values >= plane.threshold if plane.closed else values > plane.threshold
        return packed_on_device(bits if counted is None else bits & counted)

    return bits_of


def packed_on_device(bits: torch.Tensor) -> torch.Tensor:
    """Pack bool (sample, unit) into bytes on their device, eight units per byte, the first in the highest bit."""
    padded = torch.nn.functional.pad(bits.view(torch.uint8), (0, -bits.shape[1] % 8))
    return (padded.view(len(bits), -1, 8) * _bits_on(bits.device)).sum(dim=2, dtype=torch.uint8)


@cache
def _bits_on(device: torch.device) -> torch.Tensor:
    """Return the values of the bits of a byte; cached, since copying them waits for the device."""
    return torch.tensor(_BITS, dtype=torch.uint8, device=device)


def _buffers(signature: Any, *, persistent: bool = True) -> dict[str, str]:
    """Return the buffers that are part of a state dict, or those that are not, by the name of their input."""
    apart = set(signature.non_persistent_buffers)
    return {name: target for name, target in signature.inputs_to_buffers.items() if (target in apart) != persistent}


def _widen(graph: Any, placeholder: Any) -> None:
    with graph.inserting_after(placeholder):
        wide = graph.call_method("float", (placeholder,))
    placeholder.replace_all_uses_with(wide)
    wide.args = (placeholder,)


def _prune(graph: Any) -> None:
    """Remove everything that no output needs, including assertions and inputs."""
    for node in reversed(list(graph.nodes)):
        if node.op != "output" and not node.users:
            graph.erase_node(node)
