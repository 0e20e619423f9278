"""The affine map of a piecewise affine network around a sample (docs/protocol.md, section 8), and its radius."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from regime_proto.program.affine import (
    FreezePools,
    expose_taken,
    find_pools,
    name_of,
    not_affine,
    places_of_windows,
    pooled_name,
    rivals,
    taken_name,
    values_of,
)
from regime_proto.program.beside_masks import region_name, region_of, sample_axis, sample_outputs
from regime_proto.program.edit import prune
from regime_proto.program.freezing import KINDS, FreezeGates, frozen_name
from regime_proto.program.gates import find_gates, pre_activation
from regime_proto.program.program import Program
from regime_proto.program.sample_axes import FIXED, axes_of, sample_first
from regime_proto.program.sequences import SplitWithoutSequences
from regime_proto.runtime.device import Device, Placed, Session
from regime_proto.runtime.ir import ir
from regime_proto.runtime.memory import available_bytes
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array
from regime_proto.schema.words import few

# Relative to the outputs; the float32 error of an exact map is far below this, and that of a wrong map far above.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class AffineMap:
    """The network around one sample: f(x') = matrix · x' + offset for all x' in the sample's region.

    Parameters
    ----------
    sample : int
    matrix : (output, input) float64
        K, the Jacobian of the frozen network.
    offset : (output,) float64
        c.
    inputs : (input,) float64
        The sample itself.
    outputs : (output,) float64
        The outputs of the network for it.
    residual : float
        ‖f(x) − Kx − c‖₂.
    radius : float
        Radius of the largest ball around the sample in which no unit changes its region and no pooling its selected
        element; infinite if nothing can change, 0 if a unit is at its threshold or a max-pooling has a tie.
    limit : str
        The gate or max-pooling that changes at the radius, in words; empty if nothing can change.
    """

    sample: int
    matrix: Array
    offset: Array
    inputs: Array
    outputs: Array
    residual: float
    radius: float
    limit: str


@dataclass(frozen=True)
class Natural:
    """One pass of the unfrozen network over all samples of the probe.

    Parameters
    ----------
    placed : mapping of str to placed array
        The weights of the state.
    outputs : (sample, output) float64
    regions : mapping of str to array
        By input name of the frozen graph.
    z, taken : tuple of array
        The inputs of gates, and the elements selected by poolings.
    """

    placed: Mapping[str, Placed]
    outputs: Array
    regions: Mapping[str, Array]
    z: tuple[Array, ...]
    taken: tuple[Array, ...]


class Linearizer:
    """Finds the affine maps of one state.

    Parameters
    ----------
    program : Program
    probe : mapping of str to array
        By program input.
    device : Device
    outputs_of : str, optional
        The node or module of a gate whose outputs are mapped instead of those of the network.

    Raises
    ------
    RegimeError
        The network is not affine even with all its gates frozen; the message names the cause.
    """

    def __init__(
        self, program: Program, probe: Mapping[str, Array], device: Device, *, outputs_of: str | None = None
    ) -> None:
        self._device = device
        self._probe = {name: probe[name] for name in program.probe_inputs}
        self.samples, self._axes = axes_of(probe, program.probe_inputs)
        self._input = _real_input(self._probe, self._axes)
        targets = _targets(program, self.samples, outputs_of)
        pruned = _pruned(program, targets)
        kept = {node.name for node in pruned.graph}
        gates = [gate for gate in find_gates(program) if gate.node in kept and gate.trackable]
        self._gates = [gate for gate in gates if gate.kind in KINDS]
        self._smooth = [gate for gate in gates if gate.kind not in KINDS]
        self._pools = find_pools(pruned.graph)
        nodes = {node.name: node for node in pruned.graph}
        self._z = [str(pre_activation(nodes[gate.node], gate).name) for gate in self._gates]
        self._smooth_z = [str(pre_activation(nodes[gate.node], gate).name) for gate in self._smooth]
        windows = [places_of_windows(pool, nodes[pool.node]) for pool in self._pools]
        self._targets = targets
        self._natural = device.session(self._natural_graph(program))
        model, self._results, self._rivals = self._frozen_graph(program, windows)
        self._frozen = device.session(model)

    def _natural_graph(self, program: Program) -> ir.Model:
        """Return the network with further outputs: the region of every unit, and the element each pooling selects."""
        model = _pruned(program, self._targets)
        graph = model.graph
        by_name = {value.name: value for value in values_of(graph)}
        numbered = [(index, gate, by_name[z]) for index, (gate, z) in enumerate(zip(self._gates, self._z, strict=True))]
        outputs = [
            region_of(graph, index, number, z, plane)
            for index, gate, z in numbered
            for number, plane in enumerate(gate.planes)
        ]
        outputs += [*dict.fromkeys(z for _, _, z in numbered), *expose_taken(graph, self._pools)]
        graph.outputs.extend(value for value in outputs if value not in set(graph.outputs))
        return _sorted(model)

    def _frozen_graph(self, program: Program, windows: Sequence[Array]) -> tuple[ir.Model, list[str], list[str]]:
        """Return the frozen network, the names of its outputs, and those of the margins of poolings."""
        model = _pruned(program, self._targets)
        FreezeGates(self._gates)(model)
        FreezePools(self._pools)(model)
        graph = model.graph
        results = [str(value.name) for value in graph.outputs]
        others = rivals(graph, self._pools, windows)
        by_name = {value.name: value for value in values_of(graph)}
        held = set(graph.outputs)
        graph.outputs.extend(by_name[name] for name in dict.fromkeys(self._z) if by_name[name] not in held)
        graph.outputs.extend(others)
        _sorted(model)
        self._require_affine(graph)
        self._rival_pools = [
            pool.node for pool, places in zip(self._pools, windows, strict=True) for _ in range(len(places))
        ]
        return model, results, [str(value.name) for value in others]

    def _require_affine(self, graph: ir.Graph) -> None:
        """Raise an error unless the frozen network is affine; it names the cause and the possible alternatives."""
        node, others = not_affine(graph, [self._input])
        if node is None:
            return
        where = f"{name_of(node)} is not affine in the inputs, however the gates are frozen"
        for gate, z in zip(self._smooth, self._smooth_z, strict=True):
            if z not in others:
                where = f"gate {gate.node} ({gate.op}) is smooth, not piecewise affine"
                break
        paths = [gate.path for gate in self._gates]
        possible = [
            gate.path if gate.path and paths.count(gate.path) == 1 else gate.node
            for gate, z in zip(self._gates, self._z, strict=True)
            if z not in others
        ]
        advice = "and no gate before it could be mapped instead"
        if possible:
            # The last one gives the map of the most layers.
            other = f" (or {few(possible[-2::-1])})" if len(possible) > 1 else ""
            advice = f"map the outputs of a layer before it: --outputs-of {possible[-1]}{other}"
        raise RegimeError(f"{where}, so there is no affine map{'; ' if possible else ', '}{advice}")

    @property
    def inputs(self) -> int:
        """Number of values in one sample."""
        return int(self._probe[self._input].size // self.samples)

    def run(self, weights: Mapping[str, Array]) -> Natural:
        """Run the network with one state, given under the program's names."""
        placed = {name: self._device.place(_wide(array)) for name, array in weights.items()}
        found = _run(self._natural, placed, self._placed(self._probe))
        regions = {
            frozen_name(index, plane): found[region_name(index, plane)]
            for index, gate in enumerate(self._gates)
            for plane in range(len(gate.planes))
        }
        z = tuple(found[name] for name in self._z)
        taken = tuple(found[taken_name(index)] for index in range(len(self._pools)))
        return Natural(placed, self._rows(found, self._targets), regions, z, taken)

    def maps(
        self,
        natural: Natural,
        samples: Sequence[int],
        progress: Callable[[int, int], None] | None = None,
    ) -> list[AffineMap]:
        """Return the maps of some samples.

        Parameters
        ----------
        natural : Natural
            The pass of a state; see `run`.
        samples : sequence of int
        progress : callable, optional
            Called with the number of samples done and their total.

        Raises
        ------
        RegimeError
            A map does not reproduce the outputs of the network.
        """
        self._require_room(natural.outputs.shape[1], len(samples))
        found = []
        for number, sample in enumerate(samples, start=1):
            found.append(self._map(natural, sample))
            if progress is not None:
                progress(number, len(samples))
        return found

    def _require_room(self, outputs: int, maps: int) -> None:
        needed = 8 * maps * self.inputs * outputs
        if needed > available_bytes() // 2:
            raise RegimeError(
                f"the maps of {maps} samples need {needed / 1e9:.1f} GB ({outputs} outputs by "
                f"{self.inputs} inputs each), more than half of the free memory; choose fewer "
                "with --samples"
            )

    def regions(self, natural: Natural) -> int:
        """Return the number of different regions that contain samples of the probe."""
        rows = [_by_sample(array, self.samples) for array in (*natural.regions.values(), *natural.taken)]
        return len(np.unique(np.concatenate(rows, axis=1).astype(np.int64), axis=0)) if rows else 1

    def _map(self, natural: Natural, sample: int) -> AffineMap:
        fixed = {name: _repeated(array, self.samples, sample) for name, array in natural.regions.items()}
        fixed |= {
            pooled_name(index): _repeated(array, self.samples, sample) for index, array in enumerate(natural.taken)
        }
        others = {
            name: array if self._axes[name] == FIXED else _repeated(array, self.samples, sample, self._axes[name])
            for name, array in self._probe.items()
            if name != self._input
        }
        feeds = {**natural.placed, **self._placed({**fixed, **others})}
        x = np.moveaxis(self._probe[self._input], self._axes[self._input], 0)[sample].astype(np.float64).ravel()
        # A power of two near the magnitude of the inputs: dividing by it is exact.
        scale = 2.0 ** np.round(np.log2(max(np.abs(x).max(), 2.0**-20)))
        origin = _run(self._frozen, feeds, self._placed({self._input: self._batch(np.zeros((0, len(x))))}))
        offset = self._rows(origin, self._results)[0]
        squares = [np.zeros(len(_one(origin[name], self.samples))) for name in self._watched]
        columns = []
        for start in range(0, len(x), self.samples):
            basis = scale * np.eye(min(self.samples, len(x) - start), len(x), k=start)
            found = _run(self._frozen, feeds, self._placed({self._input: self._batch(basis)}))
            columns.append((self._rows(found, self._results)[: len(basis)] - offset) / scale)
            for total, name in zip(squares, self._watched, strict=True):
                moved = _by_sample(found[name], self.samples).astype(np.float64)
                moved -= _by_sample(origin[name], self.samples)
                total += np.square(moved[: len(basis)] / scale).sum(axis=0)
        matrix = np.concatenate(columns).T
        outputs = natural.outputs[sample]
        residual = float(np.linalg.norm(outputs - matrix @ x - offset))
        size = max(float(np.linalg.norm(outputs)), float(np.linalg.norm(offset)))
        if not residual <= _TOLERANCE * size:
            raise RegimeError(
                f"sample {sample}: f(x) and Kx + c differ by {residual:.1e}, relative to a size "
                f"of {size:.1e}, so the network is not an affine map around this sample; its "
                "samples may depend on each other, or it contains NaN"
            )
        at_x = _run(self._frozen, feeds, self._placed({self._input: self._batch(x[None])}))
        radius, limit = self._radius(natural, at_x, squares, sample)
        return AffineMap(sample, matrix, offset, x, outputs, residual, radius, limit)

    @property
    def _watched(self) -> list[str]:
        """The values that must not cross a threshold: gate inputs, and the margins of poolings over other elements."""
        return [*dict.fromkeys(self._z), *self._rivals]

    def _radius(
        self, natural: Natural, at_x: Mapping[str, Array], squares: Sequence[Array], sample: int
    ) -> tuple[float, str]:
        """Return the smallest distance at which a unit or a pooling changes, and its name."""
        lengths = dict(zip(self._watched, (np.sqrt(total) for total in squares), strict=True))
        found = [(np.inf, "")]
        for gate, name, z in zip(self._gates, self._z, natural.z, strict=True):
            values = _one(z, self.samples, sample).astype(np.float64)
            for plane in gate.planes:
                found.append((_nearest(np.abs(values - plane.threshold), lengths[name]), f"gate {gate.node}"))
        for name, pool in zip(self._rivals, self._rival_pools, strict=True):
            nearest = _nearest(np.abs(_one(at_x[name], self.samples)), lengths[name])
            found.append((nearest, f"max-pooling {pool}" if nearest else f"a tie in max-pooling {pool}"))
        radius, limit = min(found, key=lambda one: one[0])
        return float(radius), limit

    def _rows(self, found: Mapping[str, Array], names: Sequence[str]) -> Array:
        """Return some outputs, concatenated, (sample, output) float64."""
        rows = [_by_sample(found[name], self.samples) for name in names]
        return np.concatenate(rows, axis=1).astype(np.float64)

    def _batch(self, rows: Array) -> Array:
        """Return an input of the probe's shape whose first samples are the given rows and the others 0."""
        like = np.moveaxis(self._probe[self._input], self._axes[self._input], 0)
        batch = np.zeros((self.samples, like[0].size))
        batch[: len(rows)] = rows
        return np.moveaxis(batch.reshape(like.shape), 0, self._axes[self._input]).astype(like.dtype)

    def _placed(self, arrays: Mapping[str, Array]) -> dict[str, object]:
        return {name: self._device.place(array) for name, array in arrays.items()}


def _real_input(probe: Mapping[str, Array], axes: Mapping[str, int]) -> str:
    real = [name for name, array in probe.items() if array.dtype.kind == "f" and axes[name] != FIXED]
    if len(real) != 1:
        found = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in probe.items())
        raise RegimeError(
            f"an affine map needs exactly one input with real numbers for each sample; the probe has {found}"
        )
    return real[0]


def _targets(program: Program, samples: int, outputs_of: str | None) -> list[str]:
    if outputs_of is None:
        outputs, reason = sample_outputs(program, samples)
        if not outputs:
            raise RegimeError(f"no output to map: {reason}")
        return [output.name for output in outputs]
    gates = [gate for gate in find_gates(program) if outputs_of in (gate.node, gate.path) and not gate.nested]
    if not gates:
        raise RegimeError(f"--outputs-of {outputs_of!r}: no gate with that node or module; regime inspect lists them")
    nodes = {node.name: node for node in program.model.graph}
    return [str(nodes[gates[-1].node].outputs[0].name)]


def _pruned(program: Program, targets: Sequence[str]) -> ir.Model:
    """Return the part of the graph that computes the given values."""
    model = program.parse_model()
    SplitWithoutSequences()(model)
    by_name = {value.name: value for value in values_of(model.graph)}
    model.graph.outputs.clear()
    model.graph.outputs.extend(by_name[name] for name in targets)
    return _sorted(model)


def _sorted(model: ir.Model) -> ir.Model:
    prune(model)
    model.graph.sort()
    return model


def _run(session: Session, *feeds: Mapping[str, object]) -> dict[str, Array]:
    merged = {name: value for part in feeds for name, value in part.items()}
    return {name: value.numpy() for name, value in session.run(merged).items()}


def _wide(array: Array) -> Array:
    """Return weights in the types of the program."""
    return array if array.dtype == np.float64 or array.dtype.kind in "iub" else array.astype(np.float32)


def _axis(shape: Sequence[int], samples: int) -> int:
    """Return the sample axis of a value; -1 for a leading axis of samples × something."""
    axis = sample_axis(shape, samples)
    if axis is None:
        raise RegimeError(
            f"a value of shape {list(shape)} has no axis of {samples} samples, so a single sample "
            "has no map; map the outputs of a layer before it: --outputs-of LAYER (regime "
            "inspect lists them)"
        )
    return axis


def _by_sample(array: Array, samples: int) -> Array:
    """Return a value as (sample, unit)."""
    return sample_first(array, _axis(array.shape, samples), samples)


def _one(array: Array, samples: int, sample: int = 0) -> Array:
    """Return the units of one sample."""
    found: Array = _by_sample(array, samples)[sample]
    return found


def _repeated(array: Array, samples: int, sample: int, axis: int | None = None) -> Array:
    """Return an array with one sample repeated instead of all."""
    axis = _axis(array.shape, samples) if axis is None else axis
    if axis < 0:
        rows = array.reshape(samples, -1)
        return np.ascontiguousarray(np.broadcast_to(rows[sample], rows.shape)).reshape(array.shape)
    return np.repeat(np.take(array, [sample], axis=axis), samples, axis=axis)


def _nearest(distances: Array, lengths: Array) -> float:
    """Return the smallest distance in input space; a value that no input affects never changes."""
    moving = lengths > 0
    return float(np.min(distances[moving] / lengths[moving])) if moving.any() else np.inf
