"""The part of an exported torch program that leads to the masks, run by torch itself."""

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
        Plane after plane; arrays on the CPU, else tensors.
    total : scalar tensor
        Finite if all activations are.
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
        """Return the masks as one tensor, (sample, byte), where they are."""
        return torch.cat(self.planes, dim=1)


class MaskGraph:
    """The operators of an exported program up to the last gate, each gate followed by the packing of its bits.

    Activations are freed as soon as nothing needs them. Hooks, modes and modules play no part: it is operators only.

    Parameters
    ----------
    both : torch_export.Exported
        Nothing of its weights is kept.
    gates : sequence of Gate
        Their values have the names of the nodes in `both.exported`.
    rows : sequence of Rows
        How each gate becomes rows of units.
    weights : mapping of str to tensor
        Those of the model: half-precision ones are widened to float32 where they are used.
    probe : mapping of str to array
        By input.
    beside : Beside
        What a run returns beside the masks: outputs, and what is kept of the inputs of gates.

    Attributes
    ----------
    weights : frozenset of str
        The names of those that it needs.

    Raises
    ------
    RegimeError
        A gate's value is not in the graph by itself.
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
        # In a new graph nodes may be called otherwise.
        needed = set(graph.nodes)
        inputs = [name for name, node in nodes.items() if node.op == "placeholder" and node in needed]
        self._inputs = [(name, targets.get(name)) for name in inputs]
        self.weights = frozenset(target for _, target in self._inputs if target is not None)
        self._device = device
        self._is_random = any(_is_random(node.target) for node in graph.nodes)
        self._module = torch.fx.GraphModule(exported.graph_module, graph)

    def run(self, weights: Mapping[str, torch.Tensor]) -> TorchMasks:
        """Return the masks of the weights, by name in the model."""
        values = [self._fixed[name] if target is None else weights[target] for name, target in self._inputs]
        with self._undisturbed():
            outputs, near, found = self._module(*values)
            total = torch.stack([total for _, total in outputs]).sum()
            margins, squares = (torch.stack(parts) for parts in zip(*near, strict=True)) if near else (None, None)
        planes = [plane for planes, _ in outputs for plane in planes]
        return TorchMasks(planes, total, _by_sample(found, self._samples), margins, squares)

    @contextlib.contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Leave gradients, autocast and random states out of it, and keep to float32 and repeatable kernels."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.autocast(self._device.type, enabled=False))
            if self._is_random:
                stack.enter_context(torch.random.fork_rng([self._device] if self._device.type == "cuda" else []))
                # Not those of other cards, which nothing puts back.
                torch.default_generator.manual_seed(0)
                if self._device.type == "cuda":
                    torch.cuda.default_generators[self._device.index or 0].manual_seed(0)
            if self._device.type == "cuda":
                stack.enter_context(repeatable())
            yield


# By the settings of torch 2.9 and later: to read those before it is an error where a user has set these.
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
    """Let torch compute on CUDA in float32 and by repeatable kernels; the settings are put back afterwards."""
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
    """Append what a run returns: masks of every gate, what is kept of their inputs, and outputs of the network."""
    masks = tuple(_packing(graph, nodes, gate, row, device) for gate, row in gates)
    near = tuple(_reducing(graph, nodes, gate, row, device) for gate, row in gates) if beside.preactivations else ()
    return masks, near, tuple(nodes[name] for name in outputs) if beside.outputs else ()


def _packing(graph: Any, nodes: Mapping[str, Any], gate: Gate, rows: Rows, device: torch.device) -> Any:
    node = nodes.get(gate.value)
    if node is None:
        raise RegimeError(f"gate {gate.node} ({gate.op}): torch computes its value inside of one operator")
    with graph.inserting_after(node):
        return graph.call_function(packing(gate, rows, device), (node,))


def _reducing(graph: Any, nodes: Mapping[str, Any], gate: Gate, rows: Rows, device: torch.device) -> Any:
    node = nodes[gate.value]
    # Of a ReLU that is the output, which tells the masks as well.
    z = node.args[0] if gate.kind == "relu" else node
    with graph.inserting_after(z):
        return graph.call_function(reducing(gate, rows, device), (z,))


def _by_sample(outputs: Sequence[torch.Tensor], samples: int) -> torch.Tensor | None:
    """Return those outputs side by side that hold real numbers for each sample; None if there is none."""
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
    """Return what makes, of a gate's input, the smallest distance from a threshold and Σz² of every sample."""
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
    """Return what makes the packed planes of a gate's value, and one number that is finite if all activations are."""
    bits_of = _host_bits(rows) if device.type == "cpu" else _device_bits(rows, device)

    def pack(value: torch.Tensor) -> tuple[list[Any], torch.Tensor]:
        turned = value.movedim(rows.axis, 0) if rows.axis > 0 else value
        units = turned.reshape(rows.samples, -1)
        return [bits_of(units, plane) for plane in gate.planes], value.sum()

    return pack


Bits = Callable[[torch.Tensor, Plane], Any]
"""From units, (sample, unit), to the packed bits of a plane, (sample, byte), those of the chosen and counted units."""


def _host_bits(rows: Rows) -> Bits:
    """Compare and pack with NumPy, which is several times as fast at both as torch."""

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
    """Pack bool (sample, unit), eight units to a byte, the first in the highest bit, where the bits are."""
    padded = torch.nn.functional.pad(bits.view(torch.uint8), (0, -bits.shape[1] % 8))
    return (padded.view(len(bits), -1, 8) * _bits_on(bits.device)).sum(dim=2, dtype=torch.uint8)


@cache
def _bits_on(device: torch.device) -> torch.Tensor:
    """Return what the bits of a byte are worth; to copy it there waits for the device, so that is done once."""
    return torch.tensor(_BITS, dtype=torch.uint8, device=device)


def _buffers(signature: Any, *, persistent: bool = True) -> dict[str, str]:
    """Return the buffers that are part of a state dict, or those that are not, by the names of their inputs."""
    apart = set(signature.non_persistent_buffers)
    return {name: target for name, target in signature.inputs_to_buffers.items() if (target in apart) != persistent}


def _widen(graph: Any, placeholder: Any) -> None:
    with graph.inserting_after(placeholder):
        wide = graph.call_method("float", (placeholder,))
    placeholder.replace_all_uses_with(wide)
    wide.args = (placeholder,)


def _prune(graph: Any) -> None:
    """Drop what no output needs, assertions and inputs among it."""
    for node in reversed(list(graph.nodes)):
        if node.op != "output" and not node.users:
            graph.erase_node(node)
