"""Writes what a recorder observes: in the background, and further on where an earlier run stopped."""

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

# The attribute that lists the steps from which a run was resumed.
RESUMES = "resumed_from_steps"
# Observations that may wait to be written: a kill loses them, too.
_WAITING = 8

Opener = Callable[[Path], AbstractContextManager[h5py.File]]


class Journal:
    """A trajectory that grows while a model is trained.

    Observations are written by one thread of its own. An error there ends the recording with a warning, and not the
    training: what was written is kept.

    Parameters
    ----------
    segments : Segments
        In the hands of the caller until `close`.
    header : Header
    protocol : sequence
        What makes observations comparable: whoever goes on with the file must have the same.
    seconds : float
        A segment is written after this long, full or not.

    Attributes
    ----------
    past : list of (int, array or None)
        The observations of an earlier run that were taken up: steps, and flips of each layer, None where the change
        towards the observation is not to be used.
    start : list of arrays
        The first state of that run, where later ones are held against it: the trainable tensors in order.
    stopped : str
        Why nothing is written any more; empty while all is well.
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
        """Read what an earlier, interrupted or finished run left, if anything; nothing of it is dropped yet.

        Raises
        ------
        TrajectoryError
            It was made by another program, probe, choice of gates or engine.
        RegimeError
            Its first state, which later ones are held against, is not there any more.
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
            # Whoever joined the segments was killed while they were deleted.
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
                f"{output}: was recorded by another engine, on another device or with other masks or other quantities "
                "(measure=); go on with the former, or choose another output"
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
        """Attributes of the group for what the format does not define; those of an earlier run are among them."""
        return self._writer.header.extra

    def keep_start(self, step: int, start: Sequence[Array]) -> None:
        """Write the state of the first observation, whose step this is, in the background."""
        path, run = start_path(self._segments.output), str(self._writer.header.attributes["run_id"])
        self._submit(lambda: write_start(path, start, run=run, step=step))

    def _foreign(self, where: object) -> str:
        return (
            f"{where}: holds another run: another model, probe, gates or units, or checkpoints that were converted; "
            "give what it was recorded with, or another output"
        )

    def _fingerprints(self) -> list[str]:
        chain = _Chain(self._protocol)
        return [chain.add(step) for step, _ in self.past]

    def keep(self, count: int) -> tuple[int, Array | None] | None:
        """Drop all but the first `count` observations of the earlier run, and go on after them.

        Returns
        -------
        step : int
        mask : (sample, byte) uint8 or None
            Of the last one that is kept, if its masks are stored; None for both where none is kept.
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
        """Add attributes of the group for what the format does not define."""
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
            # The interpreter ends, and starts no thread any more; those before have done their work.
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
        """Write nothing any more, and say why."""
        if not self.stopped:
            self.stopped = reason
            warnings.warn(f"recording has stopped, training goes on: {reason}", RegimeWarning, stacklevel=2)

    def _settle(self) -> None:
        """Wait until all is written."""
        while self._waiting:
            self._collect()

    def flush(self) -> None:
        """Write everything into segments."""
        self._submit(self._writer.flush)
        self._settle()

    def abandon(self) -> None:
        """Write everything into segments, and leave them to be taken up or merged."""
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
    """Return how often a run had been resumed, and how far it came, as the file says; less than any where none is."""
    for path in paths:
        with opener(path) as file:
            extra = read_header(file).extra
            return len(str(extra.get(RESUMES, "")).split()), int(file["step"][-1])
    return -1, -1


class _Chain:
    """The `source_fingerprint` of a trajectory that ends at some step: a hash over protocol and steps."""

    def __init__(self, protocol: Sequence[object]) -> None:
        self._link: object = list(protocol)
        self.value = ""

    def add(self, step: int) -> str:
        link = json.dumps([self._link, step]).encode()
        self._link = self.value = hashlib.sha256(link).hexdigest()
        return self.value
