"""Writes the observations of a recorder in the background, and resumes the trajectory of an earlier run."""

import hashlib
import json
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import h5py
import numpy as np

from regime_proto.recording.first_state import read_start, start_path, write_start
from regime_proto.schema.errors import RegimeWarning, TrajectoryError
from regime_proto.schema.header import Header, Observation
from regime_proto.schema.reader import existing_header, open_checked, read_header, read_metrics, read_quantities
from regime_proto.schema.segments import Segments, check_segments, open_segment, ordered_segments
from regime_proto.schema.types import Array
from regime_proto.schema.writer import TrajectoryWriter

# Name of the attribute that lists the steps at which a run was resumed.
RESUMES = "resumed_from_steps"
# Observations that may wait to be written; they too are lost if the process is killed.
_WAITING = 8

Opener = Callable[[Path], AbstractContextManager[h5py.File]]


class Journal:
    """A trajectory that grows while a model is trained.

    A separate thread writes the observations. An error in it stops the recording with a warning, but not the training.
    Observations that are already written are kept.

    Parameters
    ----------
    segments : Segments
        The segments, which the caller keeps locked until `close`.
    header : Header
    protocol : sequence
        Everything that must be the same to resume the file, so that observations stay comparable.
    seconds : float
        Time after which a segment is written, full or not, in seconds.

    Attributes
    ----------
    past : list of (int, array or None)
        Step and flips of each layer for every observation of an earlier run. None instead of the flips if the change
        to the observation must not be used.
    start : list of arrays
        The first state of that run, if later ones are compared with it: the trainable tensors in order.
    stopped : str
        Why writing has stopped; empty while it works.
    """

    def __init__(self, segments: Segments, header: Header, protocol: Sequence[object], *, seconds: float) -> None:
        self._segments = segments
        self._protocol = list(protocol)
        self._writer = TrajectoryWriter(segments, header, seconds=seconds)
        self._chain = _Chain(self._protocol)
        self.past: list[tuple[int, Array | None]] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="regime-journal")
        self._waiting: deque[Future[None]] = deque()
        self._resumes: list[str] = []
        self._needs_first = {one.name for one in header.quantities if one.against == "first"}
        self.start: list[Array] = []
        self._valid = True
        self.stopped = ""

    def take_up(self) -> None:
        """Read the observations of an earlier run, interrupted or finished, if there is one; nothing is dropped yet.

        Raises
        ------
        TrajectoryError
            It was recorded with a different program, probe, choice of gates or engine.
        RegimeError
            Its first state, with which later ones are compared, is missing.
        """
        output, paths = self._segments.output, ordered_segments(self._segments.folder)
        check_segments(paths)
        left = _left_in(paths[-1:], open_segment), _left_in([output] if existing_header(output) else [], open_checked)
        if paths and left[0] >= left[1]:
            for path in paths:
                with open_segment(path, check=False) as file:
                    self._read_past(file)
            self._writer.resume(self._fingerprints())
        elif output.exists():
            # A process that joined the segments was killed while it deleted them.
            self._segments.clear()
            self._take_up_output(output)
        if self._writer.count != len(self.past):
            raise TrajectoryError(self._foreign(self._segments.folder))
        self._resumes = str(self._writer.header.extra.get(RESUMES, "")).split()

    def _take_up_output(self, output: Path) -> None:
        with open_checked(output) as file:
            self._read_past(file)
            found, metrics = str(file.attrs["source_fingerprint"]), read_metrics(file)
        if self._fingerprints()[-1] != found:
            raise TrajectoryError(self._foreign(output))
        self._writer.add_metrics(*metrics)
        if not self._writer.take_up(output, self._fingerprints()):
            raise TrajectoryError(
                f"{output}: was recorded with a different engine, device, mask policy or choice of quantities "
                "(measure=); resume with the same settings, or choose another output"
            )
        self._writer.flush()

    def _read_past(self, file: h5py.File) -> None:
        held = {quantity.name for quantity in read_quantities(file)}
        if self._needs_first and self._needs_first <= held and not self.past:
            run, step = str(file.attrs["run_id"]), int(file["step"][0])
            self.start = read_start(start_path(self._segments.output), run=run, step=step)
        flips = file["flips"][...].sum(axis=2, dtype=np.int64)
        for step, row, valid in zip(file["step"][...].tolist(), flips, file["valid"][...].tolist(), strict=True):
            usable = bool(self.past) and valid and self._valid
            self.past.append((step, row if usable else None))
            self._valid = bool(valid)

    @property
    def extra(self) -> Mapping[str, object]:
        """Attributes that the format does not define, including those of an earlier run."""
        return self._writer.header.extra

    def keep_start(self, step: int, start: Sequence[Array]) -> None:
        """Write the state of the first observation, made at `step`, in the background.

        Parameters
        ----------
        step : int
        start : sequence of arrays
            The trainable tensors in the order of the trajectory.
        """
        path, run = start_path(self._segments.output), str(self._writer.header.attributes["run_id"])
        self._submit(lambda: write_start(path, start, run=run, step=step))

    def _foreign(self, where: object) -> str:
        return (
            f"{where}: holds a different run: the model, probe, gates or units differ, or it was converted from "
            "checkpoints; resume with the same settings, or choose another output"
        )

    def _fingerprints(self) -> list[str]:
        chain = _Chain(self._protocol)
        return [chain.add(step) for step, _ in self.past]

    def keep(self, count: int) -> tuple[int, Array | None] | None:
        """Drop all but the first `count` observations of the earlier run, and resume after them.

        Returns
        -------
        tuple of (int, array or None), or None
            Step and masks, (sample, byte) uint8, of the last observation that is kept. None instead of the masks if
            they are not stored. None if no observation is kept.
        """
        self._settle()
        kept = [step for step, _ in self.past[:count]]
        self.past = []
        self._chain = _Chain(self._protocol)
        for step in kept:
            self._chain.add(step)
        if kept:
            self._writer.note(**{RESUMES: " ".join([*self._resumes, str(kept[-1])])})
        try:
            self._writer.cut_back(count, fingerprint=self._chain.value)
            mask = self._writer.row(count - 1).get("mask") if kept else None
        except TrajectoryError as error:
            self.stop(str(error))
            mask = None
        return (kept[-1], None if mask is None else np.asarray(mask)) if kept else None

    def annotate(self, **attributes: object) -> None:
        """Add root attributes."""
        self._submit(lambda: self._writer.annotate(**attributes))

    def note(self, **extra: object) -> None:
        """Add attributes that the format does not define."""
        self._submit(lambda: self._writer.note(**extra))

    def append(self, observation: Observation) -> None:
        """Write one observation, in the background."""
        fingerprint = self._chain.add(observation.step)
        names = tuple(observation.metrics)

        def write() -> None:
            self._writer.add_metrics(*names)
            self._writer.append(observation, fingerprint=fingerprint)

        self._submit(write)

    def _submit(self, work: Callable[[], None]) -> None:
        if self.stopped:
            return
        self._waiting.append(self._started(work))
        while self._waiting and (self._waiting[0].done() or len(self._waiting) > _WAITING):
            self._collect()

    def _started(self, work: Callable[[], None]) -> Future[None]:
        try:
            return self._pool.submit(work)
        except RuntimeError:
            # The interpreter is exiting and starts no more threads; earlier ones have finished.
            done: Future[None] = Future()
            try:
                work()
            except TrajectoryError as error:
                done.set_exception(error)
            else:
                done.set_result(None)
            return done

    def _collect(self) -> None:
        try:
            self._waiting.popleft().result()
        except (TrajectoryError, OSError) as error:
            self.stop(str(error))

    def stop(self, reason: str) -> None:
        """Stop writing, and warn with the reason."""
        if not self.stopped:
            self.stopped = reason
            warnings.warn(f"recording has stopped, training continues: {reason}", RegimeWarning, stacklevel=2)

    def _settle(self) -> None:
        """Wait until everything is written."""
        while self._waiting:
            self._collect()

    def flush(self) -> None:
        """Write everything to segments."""
        self._submit(self._writer.flush)
        self._settle()

    def abandon(self) -> None:
        """Write everything to segments, and leave them to be resumed or merged."""
        self.flush()
        self._release()

    def close(self) -> None:
        """Join the segments into the output."""
        self.flush()
        if not self.stopped and self._writer.count:
            self._submit(self._finish)
            self._settle()
        self._release()

    def _finish(self) -> None:
        self._writer.close()

    def _release(self) -> None:
        self._pool.shutdown()
        self._segments.__exit__(None, None, None)


def _left_in(paths: Sequence[Path], opener: Opener) -> tuple[int, int]:
    """Return how often a run was resumed, and its last step; values below all others if there is no file."""
    for path in paths:
        with opener(path) as file:
            extra = read_header(file).extra
            return len(str(extra.get(RESUMES, "")).split()), int(file["step"][-1])
    return -1, -1


class _Chain:
    """Computes the `source_fingerprint` of a trajectory that ends at a given step: a hash of protocol and steps."""

    def __init__(self, protocol: Sequence[object]) -> None:
        self._link: object = list(protocol)
        self.value = ""

    def add(self, step: int) -> str:
        link = json.dumps([self._link, step]).encode()
        self._link = self.value = hashlib.sha256(link).hexdigest()
        return self.value
