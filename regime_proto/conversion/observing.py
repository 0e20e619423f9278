"""Writes the observations of a plan's checkpoints, and the noise floor."""

from collections.abc import Callable, Sequence

from regime_proto.conversion import measured_files
from regime_proto.conversion.measuring import Measuring
from regime_proto.conversion.plan import Plan
from regime_proto.engine.noise_floor import NoiseFloor
from regime_proto.schema.writer import TrajectoryWriter

Progress = Callable[[int, int], None]


class Observing:
    """Writes the missing observations of a plan.

    Parameters
    ----------
    plan : Plan
    measuring : Measuring
    writer : TrajectoryWriter
    progress : callable, optional
        Called with the number of observations done and their total.
    remembers : bool
        Whether this process records the state of the checkpoint files; see `measured_files`.
    """

    def __init__(
        self,
        plan: Plan,
        measuring: Measuring,
        writer: TrajectoryWriter,
        *,
        progress: Progress | None,
        remembers: bool = True,
    ) -> None:
        self._plan = plan
        self._remembers = remembers
        self._measuring = measuring
        self._writer = writer
        self._progress = progress
        self._noise: NoiseFloor | None = None

    def begin(self, gaps: Sequence[range], *, noise: str) -> None:
        """Write observations of the plan, and measure the noise floor of its last state.

        Parameters
        ----------
        gaps : sequence of range
            The missing observations; see `TrajectoryWriter.resume`.
        noise : str
            One of `settings.NOISE`.
        """
        if not gaps or gaps[0].start > 1:
            self._measuring.let_go()
        for number, rows in enumerate(gaps):
            is_last = rows.stop == len(self._plan.fingerprints)
            self._observe(rows, verify=number == 0, noise=noise if is_last else "none")

    def go_on(self, plan: Plan) -> None:
        """Write the new observations of the plan of a run with new checkpoints."""
        self._plan = plan
        self._observe(range(self._writer.count, len(plan.fingerprints)))

    def _observe(self, rows: range, *, verify: bool = False, noise: str = "none") -> None:
        source, writer = self._plan.source, self._writer
        checkpoints, fingerprints = source.checkpoints, self._plan.fingerprints
        writer.go_to(rows.start)
        for checkpoint in checkpoints[: max(0, rows.start - 1)]:
            # Calibration has already read some of them.
            source.release(checkpoint)
        observations = self._measuring.observe(
            self._plan, rows, verify=verify, noise=noise, take_noise=self._take_noise
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
            # A downloaded file is identified by its commit.
            if source.copies is None and self._remembers:
                measured_files.remember(fingerprints, checkpoints, rows.start, writer.count)

    def _take_noise(self, noise: NoiseFloor) -> None:
        self._noise = noise
