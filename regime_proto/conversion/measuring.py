"""Measures the checkpoints of a plan: with whole states, or part by part."""

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
from regime_proto.engine.part_states import Besides, observe_parts, unusable_reference
from regime_proto.engine.parts import PartsMeter
from regime_proto.quantities.deltas import non_finite
from regime_proto.runtime.device import find_device
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.header import Observation
from regime_proto.schema.types import Array

TakeNoise = Callable[[NoiseFloor], None]


def calibrated(plan: Plan, device: str, first: State, *, defers: bool = False) -> Meter:
    """Create the meter of a plan, calibrated on the first checkpoint.

    Parameters
    ----------
    plan : Plan
    device : str
    first : State
        The state of the first checkpoint.
    defers : bool
        See `MeterSettings`.

    Raises
    ------
    RegimeError
        A state with which others are to be compared holds NaN or Inf.
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
    """Return a state under the program's tensor names; raise an error if others need it and it is not finite."""
    weights = plan.program.bind(state, str(checkpoint.path))
    held = [quantity.name for quantity in plan.quantities if quantity.against == name]
    broken = non_finite(weights, [tensor.name for tensor in plan.program.trainable]) if held else []
    if broken:
        checkpoints = plan.source.checkpoints
        others = checkpoints[1:] if checkpoint == checkpoints[0] else checkpoints[:-1]
        steps = f"--steps {others[0].step}:{others[-1].step}" if len(others) > 1 else "--steps"
        where = f"{checkpoint.path}: {broken[0]}"
        raise unusable_reference(where, against=name, quantity=held[0], leave_out=steps)
    return weights


class Reading:
    """Reads the checkpoints of a plan; the first, which calibration needs, is read at once and kept until it is used.

    Parameters
    ----------
    source : Source
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._first: State | None = source.read(source.checkpoints[0])

    @property
    def first(self) -> State:
        """The state of the first checkpoint, as long as it is held."""
        assert self._first is not None  # noqa: S101
        return self._first

    def let_go(self) -> None:
        """Release the first checkpoint."""
        self._first = None

    def __call__(self, checkpoint: Checkpoint) -> State:
        """Read a checkpoint, and release it if it is the first."""
        if self._first is None or checkpoint != self._source.checkpoints[0]:
            return self._source.read(checkpoint)
        state, self._first = self._first, None
        return state


@dataclass(frozen=True)
class Whole:
    """Measures whole states, several of them in memory at a time.

    Parameters
    ----------
    meter : Meter
    reading : Reading
    workers : int, optional
        Checkpoints that are measured at once. Default: the number in the plan.
    """

    meter: Meter
    reading: Reading
    workers: int | None

    def let_go(self) -> None:
        """Release the first checkpoint."""
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
            Verify on the first measured state that the gates follow the samples.
        noise : str
            How the noise floor is measured on the last state; one of `settings.NOISE`.
        take_noise : callable
            Receives the noise floor before the last observation is yielded.
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
    """Measures states part by part, with only the tensors of one part in memory.

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
        """Yield observations as `Whole.observe` does; the noise floor is measured ``quick`` or not at all."""
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
    """Create the object that measures a plan, calibrated on the first checkpoint.

    Parameters
    ----------
    plan : Plan
    settings : ConversionSettings
    defers : bool
        See `MeterSettings`; always true when measuring part by part.

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
    """Yield the first, the middle and the last state; a damaged one raises an error in its turn."""
    checkpoints = plan.source.checkpoints
    for checkpoint in dict.fromkeys((checkpoints[0], checkpoints[len(checkpoints) // 2], checkpoints[-1])):
        with contextlib.suppress(RegimeError):
            yield plan.program.bind(plan.source.read(checkpoint), str(checkpoint.path))
