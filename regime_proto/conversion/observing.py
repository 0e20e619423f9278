"""Runs the checkpoints of a plan and writes what is observed, the noise floor with it."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from regime_proto.checkpoints.source import Checkpoint, Source, State
from regime_proto.conversion import measured_files
from regime_proto.conversion.plan import Plan
from regime_proto.engine.executors.threads import Task, observe
from regime_proto.engine.measure import Bound, Measured, Meter, MeterSettings
from regime_proto.engine.noise_floor import NoiseFloor, measure_noise, measure_one
from regime_proto.quantities.deltas import non_finite
from regime_proto.runtime.device import find_device
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array
from regime_proto.schema.writer import TrajectoryWriter

Progress = Callable[[int, int], None]


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
    path = plan.source.checkpoints[0].path
    weights = plan.program.bind(first, str(path))
    held = [quantity.name for quantity in plan.quantities if quantity.against == "first"]
    broken = non_finite(weights, [tensor.name for tensor in plan.program.trainable]) if held else []
    if broken:
        raise RegimeError(
            f"{path}: {broken[0]} holds NaN or Inf, so later states cannot be held against this one; leave the "
            f"checkpoint out (--steps), or the quantity {held[0]}"
        )
    settings = MeterSettings(
        plan.sample_units, plan.sample_seed, variants=plan.variants, measured=plan.quantities, defers=defers
    )
    return Meter.calibrate(plan.program, plan.gates, plan.probe, find_device(device), weights, settings=settings)


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


class Observing:
    """Writes the observations of a plan that are not written yet.

    Parameters
    ----------
    plan : Plan
    meter : Meter
    writer : TrajectoryWriter
    workers : int, optional
        As many as the plan says, if not given.
    progress : callable, optional
        Called with the number of observations done and their total.
    remembers : bool
        Whether this process keeps what the checkpoints were like; see `measured_files`.
    """

    def __init__(
        self,
        plan: Plan,
        meter: Meter,
        writer: TrajectoryWriter,
        *,
        workers: int | None,
        progress: Progress | None,
        remembers: bool = True,
    ) -> None:
        self._plan = plan
        self._remembers = remembers
        self._meter = meter
        self._writer = writer
        self._workers = workers
        self._progress = progress
        self._noise: NoiseFloor | None = None

    def begin(self, reading: Reading, gaps: Sequence[range], *, noise: str) -> None:
        """Write observations of the plan, and measure the noise floor of its last state.

        Parameters
        ----------
        reading : Reading
        gaps : sequence of range
            Those that are missing; see `TrajectoryWriter.resume`.
        noise : str
            One of `settings.NOISE`.
        """
        if not gaps or gaps[0].start > 1:
            reading.let_go()

        def measure(last: Bound, masks: Callable[[], Measured]) -> None:
            if noise == "quick":
                self._noise = measure_one(self._meter, self._plan.probe, last, masks)
            elif noise == "full":
                self._noise = measure_noise(self._meter, self._plan.probe, self._noise_states())

        verify: Task | None = self._meter.require_samples
        for rows in gaps:
            is_last = rows.stop == len(self._plan.fingerprints)
            self._observe(reading, rows, with_first=verify, with_last=measure if is_last else None)
            verify = None

    def go_on(self, plan: Plan) -> None:
        """Write those of the plan of a run that has grown."""
        self._plan = plan
        self._observe(plan.source.read, range(self._writer.count, len(plan.fingerprints)))

    def _observe(
        self,
        read: Callable[[Checkpoint], State],
        rows: range,
        *,
        with_first: Task | None = None,
        with_last: Task | None = None,
    ) -> None:
        source, writer = self._plan.source, self._writer
        checkpoints, fingerprints = source.checkpoints, self._plan.fingerprints
        writer.go_to(rows.start)
        for checkpoint in checkpoints[: max(0, rows.start - 1)]:
            # Some of them were needed to begin with.
            source.release(checkpoint)
        observations = observe(
            self._meter,
            checkpoints,
            read,
            rows=rows,
            workers=self._workers or self._meter.device.at_once(self._plan.workers),
            copies=source.copies,
            with_first=with_first,
            with_last=with_last,
        )
        try:
            for index, observation in zip(rows, observations, strict=True):
                if self._noise is not None:
                    writer.annotate(**self._noise.attributes)
                    self._noise = None
                writer.append(observation, fingerprint=fingerprints[index])
                if self._progress is not None:
                    self._progress(index + 1, len(checkpoints))
        finally:
            # What is fetched is known by its commit.
            if source.copies is None and self._remembers:
                measured_files.remember(fingerprints, checkpoints, rows.start, writer.count)

    def _noise_states(self) -> Iterator[Mapping[str, Array]]:
        """Yield the first, the middle and the last state; one that is damaged is an error when its turn comes."""
        source, program = self._plan.source, self._plan.program
        checkpoints = source.checkpoints
        for checkpoint in dict.fromkeys((checkpoints[0], checkpoints[len(checkpoints) // 2], checkpoints[-1])):
            with contextlib.suppress(RegimeError):
                yield program.bind(source.read(checkpoint), str(checkpoint.path))
