"""Measures parameter states: masks, flips, weight deltas, and the quantities that were asked for."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from regime_proto.checkpoints.source import Checkpoint, State
from regime_proto.engine.calibrated import Calibrated, chosen, layers_of, measures_of
from regime_proto.engine.compare import Comparable, Comparer, DeviceComparer, HostComparer
from regime_proto.engine.masks import Permutation, find_rows, only_rows, pack_masks
from regime_proto.engine.session import BRIEFLY, Masks, MaskSession, Placer, Running
from regime_proto.engine.variants import Variants, VariantSessions
from regime_proto.program.gates import Gate
from regime_proto.program.probe import COUNTED
from regime_proto.program.program import Program
from regime_proto.quantities import base as quantities
from regime_proto.quantities.deltas import non_finite
from regime_proto.runtime.device import Device, Placed
from regime_proto.schema.errors import RegimeWarning
from regime_proto.schema.flips import FlipCounter
from regime_proto.schema.header import Observation
from regime_proto.schema.types import Array


@dataclass(frozen=True)
class Bound:
    """A state that is ready to be run.

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
    """

    state: Bound
    comparable: Comparable
    finite: bool


@dataclass(frozen=True)
class MeterSettings:
    """What a meter is asked for.

    Parameters
    ----------
    sample_units : int, optional
        Keep at most so many units of each gate.
    seed : int
        Of their choice.
    variants : Variants, optional
        Where the checkpoints' graphs differ.
    threads : int
        Of a pass; one, where several are under way at once.
    measured : tuple of Quantity
        What is to be measured beside weight deltas and flips.
    defers : bool
        Leave it to the caller to verify that the samples are where the shapes of the gates say, by
        `Meter.require_samples`; where these do not say it, that is found out all the same.
    """

    sample_units: int | None = None
    seed: int = 0
    variants: Variants | None = None
    threads: int = 1
    measured: tuple[quantities.Quantity, ...] = ()
    defers: bool = False


@dataclass(frozen=True, kw_only=True)
class Meter(Calibrated):
    """Turns states into observations.

    Parameters
    ----------
    session : MaskSession
    placer : Placer
    comparer : Comparer
    first : State, optional
        A copy of the first state, where quantities are held against it.
    others : VariantSessions, optional
        Programs and sessions of checkpoints whose graphs differ.
    """

    session: MaskSession
    placer: Placer
    comparer: Comparer
    first: quantities.State | None = None
    others: VariantSessions | None = None

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
        """Make a meter, after finding samples and tokens in every gate.

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

        running = Running(settings.threads)

        def session_of(program: Program, gates: Sequence[Gate]) -> MaskSession:
            return MaskSession(program, gates, probe, device, dtypes=placer.dtypes, rows=rows, running=running)

        names = [tensor.name for tensor in program.trainable]
        variants = settings.variants
        comparer: Comparer = HostComparer(names, layers)
        if device.resident:
            comparer = DeviceComparer(device, {name: placed[name] for name in names}, layers)
        session = session_of(program, gates)
        _tell_of_host(session)
        measures = measures_of(settings.measured, program, layers, rows)
        kept = None
        if measures.keep_first:
            masks = pack_masks(session.run(placed)) if measures.keep_first_masks else None
            # A copy: it is needed when the file that it may be a view of was written again, or is gone.
            kept = quantities.State({name: np.array(first[name]) for name in names}, masks)
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
            first=kept,
            others=others,
        )

    def run(self, weights: Mapping[str, Array]) -> Masks:
        """Return the masks of one state, given under the program's names."""
        return self.session.run(self.placer.place(weights, "state"))

    def program_of(self, checkpoint: Checkpoint) -> tuple[Program, MaskSession]:
        """Return the program of a checkpoint, and its session."""
        return (self.program, self.session) if self.others is None else self.others.of(checkpoint)

    def require_samples(self, state: Bound, masks: Callable[[], Measured]) -> None:
        """Verify, unless that is done, that every gate follows the samples of the probe, by permuting these.

        Parameters
        ----------
        state : Bound
        masks : callable
            Waits for its masks, which another thread may be at.

        Raises
        ------
        RegimeError
            Names a gate whose units mix the samples.
        """
        if self.unverified is None:
            return
        _, session = self.program_of(state.checkpoint)
        permuted = pack_masks(session.run(state.placed, self.unverified.permuted))
        flips = FlipCounter(self.layers).count(permuted, masks().comparable.packed[self.unverified.order])
        self.unverified.require_followed(session.gates, flips.sum(axis=1), self.layer_units.sum(axis=1))

    def bind(self, checkpoint: Checkpoint, state: State) -> Bound:
        """Give the tensors of a state the program's names, and place them on the device."""
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
        return Measured(state, comparable, masks.finite)

    def compare(self, current: Measured, previous: Measured | None) -> Observation:
        """Return the observation of `current`."""
        names = self.names
        if previous is None:
            l1 = l2 = np.full(len(names), np.nan)
            flips = np.zeros((len(self.layers), self.rows[0].samples), np.uint32)
        else:
            l1, l2, flips = self.comparer.compare(current.comparable, previous.comparable)
        before = current if previous is None else previous
        # A finite sum of |Δ| shows that both states are finite; otherwise one of them is to blame.
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
            quantities=self.measures.row(
                self._seen(current),
                None if previous is None else self._seen(previous),
                self.first,
                str(current.state.checkpoint.path),
            ),
        )

    def _seen(self, measured: Measured) -> quantities.State:
        """Return what quantities see of a state."""
        weights = {name: measured.comparable.weights[name] for name in self.measures.network.tensors}
        return quantities.State(weights, measured.comparable.packed)


def _tell_of_host(session: MaskSession) -> None:
    if session.on_host:
        nodes = "; ".join(f"{operator}: {', '.join(names[:3])}" for operator, names in session.on_host.items())
        count = sum(map(len, session.on_host.values()))
        warnings.warn(
            f"device {session.device}: ONNX Runtime has no kernel on the card for nodes of the graph, which the CPU "
            f"computes: {count} ({nodes}); --device cpu may be faster",
            RegimeWarning,
            stacklevel=3,
        )
