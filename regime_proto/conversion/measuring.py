"""Makes observations of the checkpoints of a plan: states whole, or part by part."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from regime_proto.checkpoints.source import Checkpoint, Source, State
from regime_proto.conversion.parting import Parting, parted, parting_of
from regime_proto.conversion.plan import Plan
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.engine.executors.threads import observe
from regime_proto.engine.measure import Bound, Measured, Meter, MeterSettings
from regime_proto.engine.noise_floor import NoiseFloor, measure_noise, measure_one
from regime_proto.engine.part_states import Besides, observe_parts
from regime_proto.engine.parts import PartsMeter
from regime_proto.quantities.deltas import non_finite
from regime_proto.runtime.device import find_device
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.header import Observation
from regime_proto.schema.types import Array

TakeNoise = Callable[[NoiseFloor], None]


def calibrated(plan: Plan, device: str, first: State, *, defers: bool = False) -> Meter:
    """Make the meter of a plan, on the first checkpoint.

    Parameters
    ----------
    plan : Plan
    device : str
    first : State
        That checkpoint.
    defers : bool
        See `MeterSettings`.

    Raises
    ------
    RegimeError
        Later states are to be held against it, and it holds NaN or Inf.
    """
    weights = _reference(plan, plan.source.checkpoints[0], first, "first")
    last = None
    if any(quantity.against == "last" for quantity in plan.quantities):
        checkpoint = plan.source.checkpoints[-1]
        last = _reference(plan, checkpoint, plan.source.read(checkpoint), "last")
    settings = MeterSettings(
        plan.sample_units,
        plan.sample_seed,
        variants=plan.variants,
        measured=plan.quantities,
        defers=defers,
        last=last,
        interior_points=plan.interior_points,
    )
    return Meter.calibrate(plan.program, plan.gates, plan.probe, find_device(device), weights, settings=settings)


def _reference(plan: Plan, checkpoint: Checkpoint, state: State, name: str) -> dict[str, Array]:
    """Return a state under the program's names; it holds numbers only, if others are held against it."""
    weights = plan.program.bind(state, str(checkpoint.path))
    held = [quantity.name for quantity in plan.quantities if quantity.against == name]
    broken = non_finite(weights, [tensor.name for tensor in plan.program.trainable]) if held else []
    if broken:
        checkpoints = plan.source.checkpoints
        others = checkpoints[1:] if checkpoint == checkpoints[0] else checkpoints[:-1]
        steps = f"--steps {others[0].step}:{others[-1].step}" if len(others) > 1 else "--steps"
        raise RegimeError(
            f"{checkpoint.path}: {broken[0]} holds NaN or Inf, so other states cannot be held against this one; leave "
            f"the checkpoint out: {steps}, or --measure by name only what is not held against the {name} checkpoint, "
            f"as {held[0]} is"
        )
    return weights


class Reading:
    """Reads the checkpoints of a plan: at once the first one, which is needed to begin with, and that one only once.

    Parameters
    ----------
    source : Source
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._first: State | None = source.read(source.checkpoints[0])

    @property
    def first(self) -> State:
        """The first checkpoint, as long as it is held."""
        assert self._first is not None  # noqa: S101
        return self._first

    def let_go(self) -> None:
        """Let the first checkpoint go."""
        self._first = None

    def __call__(self, checkpoint: Checkpoint) -> State:
        """Read a checkpoint; the first one is let go."""
        if self._first is None or checkpoint != self._source.checkpoints[0]:
            return self._source.read(checkpoint)
        state, self._first = self._first, None
        return state


@dataclass(frozen=True)
class Whole:
    """Several states are in memory at a time.

    Parameters
    ----------
    meter : Meter
    reading : Reading
    workers : int, optional
        As many as the plan says, if not given.
    """

    meter: Meter
    reading: Reading
    workers: int | None

    def let_go(self) -> None:
        """Let the first checkpoint go."""
        self.reading.let_go()

    def observe(
        self, plan: Plan, rows: range, *, verify: bool = False, noise: str = "none", take_noise: TakeNoise
    ) -> Iterator[Observation]:
        """Yield observations of a plan.

        Parameters
        ----------
        plan : Plan
        rows : range
        verify : bool
            Verify that the gates follow the samples, on the first state that is run.
        noise : str
            How the noise floor is measured, when the last state is run; one of `settings.NOISE`.
        take_noise : callable
            Takes it, before the last observation is yielded.
        """

        def measure(last: Bound, masks: Callable[[], Measured]) -> None:
            if noise == "quick":
                take_noise(measure_one(self.meter, plan.probe, last, masks))
            elif noise == "full":
                take_noise(measure_noise(self.meter, plan.probe, _noise_states(plan)))

        return observe(
            self.meter,
            plan.source.checkpoints,
            self.reading,
            rows=rows,
            workers=self.workers or self.meter.device.at_once(plan.workers),
            copies=plan.source.copies,
            with_first=self.meter.require_samples if verify else None,
            with_last=measure,
        )


@dataclass(frozen=True)
class PartByPart:
    """Of every state only the tensors of one part are in memory.

    Parameters
    ----------
    meter : PartsMeter
    parting : Parting
    """

    meter: PartsMeter
    parting: Parting

    def let_go(self) -> None:
        """Do nothing: no checkpoint is held."""

    def observe(
        self, plan: Plan, rows: range, *, verify: bool = False, noise: str = "none", take_noise: TakeNoise
    ) -> Iterator[Observation]:
        """See `Whole.observe`; the noise floor is measured ``quick`` or not at all."""
        assert plan.source.read_lazily is not None  # noqa: S101
        return observe_parts(
            self.meter,
            plan.source.checkpoints,
            plan.source.read_lazily,
            rows=rows,
            group=self.parting.group(self.meter),
            workers=self.parting.workers,
            copies=plan.source.copies,
            besides=Besides(verify, take_noise if noise == "quick" else None),
        )


Measuring = Whole | PartByPart


def measuring_of(plan: Plan, settings: ConversionSettings, *, defers: bool = True) -> Measuring:
    """Return what measures a plan, after a look at its first checkpoint.

    Parameters
    ----------
    plan : Plan
    settings : ConversionSettings
    defers : bool
        See `MeterSettings`; part by part it is always so.

    Raises
    ------
    RegimeError
        See `calibrated` and `parting_of`.
    """
    parting = parting_of(plan, settings)
    if parting is not None:
        return PartByPart(parted(plan, parting), parting)
    reading = Reading(plan.source)
    return Whole(calibrated(plan, settings.device, reading.first, defers=defers), reading, settings.workers)


def _noise_states(plan: Plan) -> Iterator[Mapping[str, Array]]:
    """Yield the first, the middle and the last state; one that is damaged is an error when its turn comes."""
    checkpoints = plan.source.checkpoints
    for checkpoint in dict.fromkeys((checkpoints[0], checkpoints[len(checkpoints) // 2], checkpoints[-1])):
        with contextlib.suppress(RegimeError):
            yield plan.program.bind(plan.source.read(checkpoint), str(checkpoint.path))
