"""Measures models larger than memory: the program runs in parts, with only the tensors of the current part loaded."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from regime_proto.checkpoints.deferred import loaded
from regime_proto.engine.calibrated import Calibrated, chosen, layers_of, measures_of
from regime_proto.engine.masks import Permutation, only_rows, planes_above, row_of, warn_of_tokens
from regime_proto.engine.measure import MeterSettings
from regime_proto.engine.noise_floor import SEED
from regime_proto.engine.part_graphs import PartGraph, ShapedLane
from regime_proto.engine.session import Placer
from regime_proto.program.gates import Gate
from regime_proto.program.mask_outputs import Rows
from regime_proto.program.partition import Cutting
from regime_proto.program.probe import COUNTED
from regime_proto.program.program import Program
from regime_proto.quantities.base import MASKS, Quantity
from regime_proto.runtime.device import Device, Placed
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

_PLAIN = MeterSettings()


@dataclass(frozen=True)
class Step:
    """The work on one part of a state.

    Parameters
    ----------
    index : int
        Index of the part.
    compared : tuple of int
        The tensors to compare with those of other states, by their index in the trajectory. Each is compared in the
        first part that uses it; those that no gate depends on come after the last part.
    """

    index: int
    compared: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PartsMeter(Calibrated):
    """Turns states into observations, part by part; see `part_states.observe_parts`.

    Parameters
    ----------
    probe : mapping of str to array
    placer : Placer
    cutting : Cutting
    graph : PartGraph
    begun : mapping of str to placed array
        The values shared by all states.
    steps : tuple of Step
    """

    probe: Mapping[str, Array]
    placer: Placer
    cutting: Cutting
    graph: PartGraph
    begun: Mapping[str, Placed] = field(repr=False)
    steps: tuple[Step, ...]

    @classmethod
    def calibrate(
        cls,
        program: Program,
        gates: Sequence[Gate],
        probe: Mapping[str, Array],
        device: Device,
        first: Mapping[str, Array],
        *,
        cutting: Cutting,
        settings: MeterSettings = _PLAIN,
    ) -> "PartsMeter":
        """Create a meter.

        Parameters
        ----------
        program : Program
        gates : sequence of Gate
        probe : mapping of str to array
            By program input; `COUNTED` may be among them.
        device : Device
        first : mapping of str to array
            The first state, under the program's names, not loaded. Its types are used; its tensors
            are read only if the shapes of the gates do not determine the sample axes.
        cutting : Cutting
        settings : MeterSettings

        Raises
        ------
        RegimeError
            A quantity needs whole states, a gate has no sample axis, or the program cannot be cut.
        """
        require_measurable(settings.measured)
        placer = Placer(device, first)
        permutation = Permutation.of(probe, program.probe_inputs)
        rows = only_rows(gates, permutation.samples) if COUNTED not in probe else None
        unverified = permutation if rows else None
        if not rows:
            plain = PartGraph(program, gates, device, dtypes=placer.dtypes, cutting=cutting)
            rows = _found_rows(plain, gates, placer, first, permutation)
        rows = chosen(rows, gates, settings.sample_units, settings.seed)
        layers = layers_of(gates, rows)
        graph = PartGraph(program, gates, device, dtypes=placer.dtypes, cutting=cutting, rows=rows)
        return cls(
            program=program,
            device=device,
            gates=tuple(gates),
            rows=rows,
            layers=layers,
            measures=measures_of(settings.measured, program, layers, rows),
            unverified=unverified,
            probe=probe,
            placer=placer,
            cutting=cutting,
            graph=graph,
            begun=graph.begin(probe),
            steps=tuple(_steps(graph, program, cutting.budget)),
        )

    def nudged(self) -> tuple[PartGraph, Mapping[str, Placed]]:
        """Return the graph in which every weight is moved by one unit in the last place, and its initial values."""
        graph = PartGraph(
            self.program,
            self.gates,
            self.device,
            dtypes=self.placer.dtypes,
            cutting=self.cutting,
            rows=self.rows,
            nudged=SEED,
        )
        return graph, graph.begin(self.probe)

    def memory_bytes(self, workers: int, group: int) -> int:
        """Return the estimated memory for observing, in addition to the libraries, in bytes.

        Parameters
        ----------
        workers : int
            Number of states that run a part at once.
        group : int
            Number of states that go through the parts together.
        """
        cut = self.graph.partition
        masks = self.rows[0].samples * sum(layer.bytes for layer in self.layers)
        # Weights that must be assembled also need memory in their saved form.
        at_once = 3 * max(cut.weight_bytes, default=0) // 2 + 2 * cut.peak_bytes
        return workers * at_once + (group + 1) * (cut.live_bytes + masks)

    def place(self, weights: Mapping[str, Array], where: str) -> dict[str, Placed]:
        """Place tensors on the device; see `Placer.place`."""
        return self.placer.place(weights, where)


def require_measurable(measured: Sequence[Quantity]) -> None:
    """Raise an error if a quantity needs a whole state.

    Raises
    ------
    RegimeError
        A quantity does; the message names it.
    """
    whole = [one for one in measured if one.term is None and set(one.needs) != {MASKS}]
    if whole:
        raise RegimeError(
            f"--measure {whole[0].name}: needs a whole state, but states are measured in parts; "
            "leave it out, or use --parts off"
        )


def _steps(graph: PartGraph, program: Program, budget: int) -> Iterator[Step]:
    """Yield the parts, each with the tensors to compare in it, then the tensors that no part uses."""
    sizes = {tensor.name: 4 * tensor.size for tensor in program.trainable}
    places = {name: place for place, name in enumerate(sizes)}
    for index in range(len(graph)):
        taken = [name for name in graph.weights(index) if name in places]
        yield Step(index, tuple(sorted(places.pop(name) for name in taken)))
    index, held, size = len(graph), list[int](), 0
    for name, place in places.items():
        if held and size + sizes[name] > budget:
            yield Step(index, tuple(held))
            index, held, size = index + 1, [], 0
        held.append(place)
        size += sizes[name]
    if held:
        yield Step(index, tuple(held))


def _found_rows(
    graph: PartGraph, gates: Sequence[Gate], placer: Placer, first: Mapping[str, Array], permutation: Permutation
) -> tuple[Rows, ...]:
    """Find the sample axis of every gate by running the first state on the probe and on the permuted one."""
    lanes = [ShapedLane(graph, graph.begin(probe)) for probe in (permutation.probe, permutation.permuted)]
    found: dict[int, Rows] = {}
    counted = permutation.probe.get(COUNTED)
    with ThreadPoolExecutor(len(lanes)) as pool:
        for index in range(len(graph)):
            session = graph.session(index)
            weights = {name: loaded(first[name]) for name in graph.weights(index)}
            placed = placer.place(weights, "the first checkpoint")
            list(pool.map(lambda lane: lane.run(index, session, placed), lanes))  # noqa: B023
            for number, names in enumerate(graph.planes):
                if all(name in lanes[0].planes for name in names):
                    # Release them: in the shapes of their gates they use one byte per unit.
                    mask, other = (planes_above([lane.planes.pop(name) for name in names]) for lane in lanes)
                    found[number] = row_of(gates[number], mask, other, permutation, counted)
    rows = tuple(found[number] for number in range(len(gates)))
    warn_of_tokens(rows, counted)
    return rows
