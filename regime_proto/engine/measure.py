"""Measures parameter states: masks, flips, weight deltas, and the requested quantities."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from regime_proto.checkpoints.source import Checkpoint, State
from regime_proto.engine.calibrated import Calibrated, chosen, layers_of, measures_of
from regime_proto.engine.compare import Comparable, Comparer, DeviceComparer, HostComparer
from regime_proto.engine.frozen import FrozenSession, Known, may_be_constant
from regime_proto.engine.masks import Permutation, find_rows, only_rows, pack_masks
from regime_proto.engine.seeing import Between, beside_of, preactivations_of
from regime_proto.engine.session import BRIEFLY, NOTHING_SEEN, Masks, MaskSession, Placer, Running, Seen
from regime_proto.engine.variants import Variants, VariantSessions
from regime_proto.program.gates import Gate
from regime_proto.program.probe import COUNTED
from regime_proto.program.program import Program
from regime_proto.quantities import base as quantities
from regime_proto.quantities.deltas import non_finite
from regime_proto.quantities.interior_flips import INTERIOR_POINTS
from regime_proto.quantities.measuring import Measures
from regime_proto.runtime.device import Device, Placed
from regime_proto.schema.errors import RegimeWarning
from regime_proto.schema.flips import FlipCounter
from regime_proto.schema.header import Observation
from regime_proto.schema.types import Array


@dataclass(frozen=True)
class Bound:
    """A state that is ready to run.

    Parameters
    ----------
    checkpoint : Checkpoint
    epoch : float
    metrics : mapping of str to float
    weights : mapping of str to array
        Under the program's names.
    placed : mapping of str to placed array
        The same on the device.
    """

    checkpoint: Checkpoint
    epoch: float
    metrics: Mapping[str, float]
    weights: Mapping[str, Array]
    placed: Mapping[str, Placed]


@dataclass(frozen=True)
class Measured:
    """A state whose masks are known.

    Parameters
    ----------
    state : Bound
    comparable : Comparable
    finite : bool
        Whether no activation was NaN or Inf.
    seen : Seen
        Further results of the pass.
    """

    state: Bound
    comparable: Comparable
    finite: bool
    seen: Seen = NOTHING_SEEN

    @property
    def known(self) -> Known:
        """The state with its known outputs and regions."""
        assert self.seen.outputs is not None  # noqa: S101
        return Known(self.state.placed, self.seen.regions, self.seen.outputs)


@dataclass(frozen=True)
class Reference:
    """A reference state, with which all others are compared.

    Parameters
    ----------
    state : State
    known : Known, optional
        Set if the functions of other states are compared with its own.
    """

    state: quantities.State
    known: Known | None


@dataclass(frozen=True)
class MeterSettings:
    """The settings of a meter.

    Parameters
    ----------
    sample_units : int, optional
        Store at most this many units per gate.
    seed : int
        Random seed for `sample_units`.
    variants : Variants, optional
        Set if the graphs of the checkpoints differ.
    threads : int
        Threads per pass; 1 if several passes run at once.
    measured : tuple of Quantity
        The quantities to measure in addition to weight deltas and flips.
    defers : bool
        Leave the check of sample axes that the shapes of the gates determine to the caller, who
        calls `Meter.require_samples`; if the shapes are ambiguous, the axes are found immediately.
    last : mapping of str to array, optional
        The last state, under the program's names, if a quantity is measured relative to it.
    interior_points : int
        Number of points between two states for `interior_flips`.
    """

    sample_units: int | None = None
    seed: int = 0
    variants: Variants | None = None
    threads: int = 1
    measured: tuple[quantities.Quantity, ...] = ()
    defers: bool = False
    last: Mapping[str, Array] | None = None
    interior_points: int = INTERIOR_POINTS


@dataclass(frozen=True, kw_only=True)
class Meter(Calibrated):
    """Turns states into observations.

    Parameters
    ----------
    session : MaskSession
    placer : Placer
    comparer : Comparer
    references : mapping of str to Reference
        The first and last states, if quantities are measured relative to them.
    others : VariantSessions, optional
        Programs and sessions of checkpoints whose graphs differ.
    frozen : FrozenSession, optional
        Set if the functions of states are compared.
    between : Between, optional
        Set if points between two states are evaluated.
    """

    session: MaskSession
    placer: Placer
    comparer: Comparer
    references: Mapping[str, Reference] = field(default_factory=dict)
    others: VariantSessions | None = None
    frozen: FrozenSession | None = None
    between: Between | None = None

    @classmethod
    def calibrate(
        cls,
        program: Program,
        gates: Sequence[Gate],
        probe: Mapping[str, Array],
        device: Device,
        first: Mapping[str, Array],
        *,
        settings: MeterSettings = MeterSettings(),
    ) -> "Meter":
        """Create a meter, after finding the sample and token axes of every gate.

        Parameters
        ----------
        program : Program
        gates : sequence of Gate
        probe : mapping of str to array
            By program input; `COUNTED` may be among them.
        device : Device
        first : mapping of str to array
            The first state, under the program's names.
        settings : MeterSettings

        Raises
        ------
        RegimeError
            A gate has no sample axis.
        """
        placer = Placer(device, first)
        placed = placer.place(first, "the first checkpoint")
        permutation = Permutation.of(probe, program.probe_inputs)
        rows = only_rows(gates, permutation.samples) if settings.defers and COUNTED not in probe else None
        unverified = permutation if rows else None
        if not rows:
            plain = MaskSession(program, gates, probe, device, dtypes=placer.dtypes, running=BRIEFLY)
            rows = find_rows(plain, placed, permutation, probe.get(COUNTED))
        rows = chosen(rows, gates, settings.sample_units, settings.seed)
        layers = layers_of(gates, rows)

        measures = measures_of(settings.measured, program, layers, rows)
        plainly = Running(settings.threads)
        running = replace(plainly, beside=beside_of(measures, program, permutation.samples))

        def session_of(program: Program, gates: Sequence[Gate]) -> MaskSession:
            return MaskSession(program, gates, probe, device, dtypes=placer.dtypes, rows=rows, running=running)

        names = [tensor.name for tensor in program.trainable]
        variants = settings.variants
        comparer: Comparer = HostComparer(names, layers)
        if device.resident:
            comparer = DeviceComparer(device, {name: placed[name] for name in names}, layers)
        session = session_of(program, gates)
        _tell_of_host(session)
        frozen = between = None

        def frozen_with(constants: Mapping[str, Array]) -> FrozenSession:
            given = constants if may_be_constant(program, constants, device) else {}
            dtypes = placer.dtypes
            return FrozenSession(
                program, gates, probe, device, dtypes=dtypes, rows=rows, running=running, constants=given
            )

        if measures.frozen_against:
            frozen = frozen_with({})
        if quantities.INTERIOR in measures.needs():
            plain = MaskSession(program, gates, probe, device, dtypes={}, rows=rows, running=plainly)
            between = Between(plain, settings.interior_points)
        references = {
            name: _reference(measures, name, state, session, placer, frozen_with)
            for name, state in (("first", first), ("last", settings.last))
            if state is not None and measures.needs(name)
        }
        others = None if variants is None else VariantSessions(variants, gates, session_of)
        return cls(
            program=program,
            device=device,
            gates=tuple(gates),
            rows=rows,
            layers=layers,
            measures=measures,
            unverified=unverified,
            session=session,
            placer=placer,
            comparer=comparer,
            references=references,
            others=others,
            frozen=frozen,
            between=between,
        )

    def run(self, weights: Mapping[str, Array]) -> Masks:
        """Return the masks of one state, given under the program's names."""
        return self.session.run(self.placer.place(weights, "state"))

    def program_of(self, checkpoint: Checkpoint) -> tuple[Program, MaskSession]:
        """Return the program of a checkpoint, and its session."""
        return (self.program, self.session) if self.others is None else self.others.of(checkpoint)

    def require_samples(self, state: Bound, masks: Callable[[], Measured]) -> None:
        """Verify once, by permuting the probe, that every gate follows its samples.

        Parameters
        ----------
        state : Bound
        masks : callable
            Waits for its masks, which a different thread may be computing.

        Raises
        ------
        RegimeError
            The units of a gate mix samples; the message names the gate.
        """
        if self.unverified is None:
            return
        _, session = self.program_of(state.checkpoint)
        permuted = pack_masks(session.run(state.placed, self.unverified.permuted))
        flips = FlipCounter(self.layers).count(permuted, masks().comparable.packed[self.unverified.order])
        self.unverified.require_followed(session.gates, flips.sum(axis=1), self.layer_units.sum(axis=1))

    def bind(self, checkpoint: Checkpoint, state: State) -> Bound:
        """Rename the tensors of a state to the program's names, and place them on the device."""
        where = str(checkpoint.path)
        program, _ = self.program_of(checkpoint)
        weights = program.bind(state, where)
        return Bound(checkpoint, state.epoch, state.metrics, weights, self.placer.place(weights, where))

    def measure(self, state: Bound) -> Measured:
        """Run one state through the session."""
        _, session = self.program_of(state.checkpoint)
        masks = session.run(state.placed)
        planes = masks.planes if self.session.device.resident else ()
        comparable = Comparable(state.weights, state.placed, planes, pack_masks(masks))
        return Measured(state, comparable, masks.finite, masks.seen)

    def compare(self, current: Measured, previous: Measured | None) -> Observation:
        """Return the observation of `current`."""
        names = self.names
        if previous is None:
            l1 = l2 = np.full(len(names), np.nan)
            flips = np.zeros((len(self.layers), self.rows[0].samples), np.uint32)
        else:
            l1, l2, flips = self.comparer.compare(current.comparable, previous.comparable)
        before = current if previous is None else previous
        # A finite sum of |Δ| proves that both states are finite; otherwise at least one is not.
        suspects = [name for name, value in zip(names, l1, strict=True) if not np.isfinite(value)]
        return Observation(
            step=current.state.checkpoint.step,
            epoch=current.state.epoch,
            valid=current.finite and not non_finite(current.comparable.weights, suspects),
            weight_delta_l1=l1,
            weight_delta_l2=l2,
            flips=flips,
            mask=current.comparable.packed,
            metrics=current.state.metrics,
            flip_fraction_error=self.flip_fraction_error(current.comparable.packed, before.comparable.packed),
            quantities=self._quantities(current, previous),
        )

    def _quantities(self, current: Measured, previous: Measured | None) -> dict[str, Array]:
        """Return the quantities of a state by name."""
        if not self.measures.quantities:
            return {}
        state = _state(self.measures, current.comparable.weights, current.comparable.packed, current.seen)
        others = {name: reference.state for name, reference in self.references.items()}
        before = None
        if previous is not None:
            before = _state(self.measures, previous.comparable.weights, previous.comparable.packed, previous.seen)
            if self.between is not None:
                ends = (previous.comparable.weights, current.comparable.weights)
                state = replace(state, interior=self.between.masks(*ends))
        state = replace(state, changes=self._changes(current, previous))
        where = str(current.state.checkpoint.path)
        return self.measures.row(state, {"previous": before, **others}, where)

    def _changes(self, current: Measured, previous: Measured | None) -> dict[str, Array]:
        """Return the change of a state's function relative to other states, by the name of these."""
        if self.frozen is None:
            return {}
        known = {name: reference.known for name, reference in self.references.items()}
        known["previous"] = None if previous is None else previous.known
        against = {name: known[name] for name in self.measures.frozen_against}
        return {name: self.frozen.changes(current.known, other) for name, other in against.items() if other is not None}


def _reference(
    measures: Measures,
    name: str,
    weights: Mapping[str, Array],
    session: MaskSession,
    placer: Placer,
    frozen_with: Callable[[Mapping[str, Array]], FrozenSession],
) -> Reference:
    """Return a reference state, with the data needed to compare others with it.

    Parameters
    ----------
    measures : Measures
    name : str
        ``first`` or ``last``.
    weights : mapping of str to array
    session : MaskSession
    placer : Placer
    frozen_with : callable
        Returns a session of the frozen network, with the given weights as constants if possible.
    """
    needs, tensors = measures.needs(name), measures.network.tensors
    is_run = needs != {quantities.WEIGHTS}
    # Copies: they are still needed after the underlying file has been rewritten or removed.
    kept = {key: np.array(array) for key, array in weights.items() if is_run or key in tensors}
    if not is_run:
        return Reference(quantities.State(kept), None)
    placed = placer.place(kept, f"the {name} checkpoint")
    masks = session.run(placed)
    known = None
    if quantities.FROZEN in needs:
        assert masks.seen.outputs is not None  # noqa: S101
        known = Known(placed, masks.seen.regions, masks.seen.outputs, frozen_with(kept))
    return Reference(_state(measures, kept, pack_masks(masks), masks.seen), known)


def _state(measures: Measures, weights: Mapping[str, Array], packed: Array, seen: Seen) -> quantities.State:
    """Return the view of a state for quantities."""
    return quantities.State(
        weights={name: weights[name] for name in measures.network.tensors},
        masks=packed,
        preactivations=preactivations_of(seen, measures.network.layer_units),
        outputs=seen.outputs,
        fingerprint=seen.fingerprint,
    )


def _tell_of_host(session: MaskSession) -> None:
    if session.on_host:
        nodes = "; ".join(f"{operator}: {', '.join(names[:3])}" for operator, names in session.on_host.items())
        count = sum(map(len, session.on_host.values()))
        warnings.warn(
            f"device {session.device}: ONNX Runtime has no GPU kernel for some nodes of the "
            f"graph, so the CPU computes them: {count} ({nodes}); --device cpu may be faster",
            RegimeWarning,
            stacklevel=3,
        )
