"""Writes a trajectory so that a crash, a kill or a full disk loses at most the last segment.

A segment is a complete trajectory file that holds one row of chunks. It is built in memory, written under a temporary
name and renamed. A segment that is not yet full may be written early; a fuller one then replaces it as a whole. At the
end the segments are joined into the output and deleted.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from regime_proto.schema import hdf5, layout
from regime_proto.schema.assemble import join
from regime_proto.schema.errors import TrajectoryError
from regime_proto.schema.files import describe
from regime_proto.schema.header import Header, Observation
from regime_proto.schema.reader import open_checked, read_header, read_metrics, read_quantities, read_rows
from regime_proto.schema.segments import Segments, check_segments, open_segment, segments_by_number
from regime_proto.schema.types import Array
from regime_proto.schema.words import counted


class TrajectoryWriter:
    """Write observations, in order, to the trajectory whose segments are `segments`.

    Leaving the context normally joins the segments into the output, unless they are shared with other writers. After an
    exception, the observations are kept as segments, for `resume`.

    Parameters
    ----------
    segments : Segments
        Segments that the caller holds.
    header : Header
        Files that it embeds are kept next to the segments until the segments are joined.
    seconds : float
        An unfinished segment is written after this time, so that slow runs lose little.
    """

    def __init__(self, segments: Segments, header: Header, *, seconds: float = 30.0) -> None:
        self.header = replace(header, embedded={})
        self.count = 0
        # The number of rows in each segment, by its number.
        self._held: dict[int, int] = {}
        self._segments = segments
        self._embedded = dict(header.embedded)
        self._carries = frozenset(header.embedded)
        self._seconds = seconds
        self._written = time.monotonic()
        self._rows: list[dict[str, Array]] = []
        self._capacity = hdf5.chunk_steps(header)
        self._fingerprint = ""
        self._empty = b""

    def resume(self, fingerprints: Sequence[str], rows: range | None = None) -> list[range]:
        """Resume from the segments of an earlier, unfinished conversion; new rows follow the first stretch of segments.

        Parameters
        ----------
        fingerprints : sequence of str
            For each row to be written, the `source_fingerprint` of the trajectory that ends with it.
        rows : range, optional
            The rows that this writer is responsible for; by default all.

        Returns
        -------
        list of range
            The rows that no segment holds, in stretches; see `go_to`.

        Raises
        ------
        TrajectoryError
            The segments come from different inputs, or were computed by a different engine.
        """
        rows = range(len(fingerprints)) if rows is None else rows
        paths = self._segments.paths()
        if self._segments.is_shared:
            paths = _within(paths, rows, self._capacity)
        held = _held(paths, self.header, fingerprints, is_shared=self._segments.is_shared)
        # The attributes of the last segment apply.
        for index, length in reversed(held.items()):
            with open_segment(paths[index], check=False) as file:
                self._continue(file)
                self.add_metrics(*read_metrics(file))
                if index * self._capacity + length == len(fingerprints):
                    # It was measured along with the last observation.
                    self.annotate(**{name: file.attrs[name] for name in layout.NOISE_FLOORS if name in file.attrs})
            self._held[index] = length
        if not self._segments.is_shared:
            self._segments.clear_leftovers()
            self._segments.end_agreement()
            # Files that an earlier run was to embed, and that may be private, are no longer wanted.
            self._segments.remove([path for path in self._segments.carried() if path.name not in self._carries])
            self._segments.remove([path for index, path in paths.items() if index not in held])
        gaps = _gaps(held, rows, self._capacity)
        self._load(gaps[0].start if gaps else rows.stop)
        return gaps

    def go_to(self, row: int) -> None:
        """Continue at an observation: the first of a segment, or the one after those in a segment."""
        if row == self.count:
            return
        self.flush()
        self._load(row)

    def _load(self, row: int) -> None:
        """Continue after the written segments; rows that were not written are dropped."""
        # A segment that is not full is written again.
        self._rows = self._reopened(row // self._capacity) if row % self._capacity else []
        self.count = row

    def _reopened(self, index: int) -> list[dict[str, Array]]:
        """Return the rows of a segment that will be written again."""
        with open_segment(self._segments.path(index)) as file:
            self._fingerprint = file.attrs["source_fingerprint"]
            return _rows(file)

    def take_up(self, trajectory: Path, fingerprints: Sequence[str]) -> int:
        """Continue after a finished trajectory of the first part of the run, and return its number of rows.

        Parameters
        ----------
        trajectory : Path
            May be the output itself.
        fingerprints : sequence of str
            As in `resume`; that of the trajectory is among them.

        Returns
        -------
        int
            0 if its rows do not match the new ones: a different engine, or different masks, metrics or quantities.
        """
        with open_checked(trajectory) as file:
            if not _goes_on(file, self.header):
                return 0
            self._continue(file)
            for start in range(0, len(file["step"]), self._capacity):
                for row in _split(read_rows(file, self.header, start, start + self._capacity)):
                    self._add(row, fingerprints[self.count])
        return self.count

    def cut_back(self, count: int, *, fingerprint: str) -> None:
        """Keep only the first `count` rows.

        Parameters
        ----------
        count : int
        fingerprint : str
            The `source_fingerprint` of the trajectory that ends with them.
        """
        self.flush()
        full = count // self._capacity
        kept = self._stored(full)[: count % self._capacity] if count % self._capacity else []
        later = {index: path for index, path in self._segments.paths().items() if index >= full + bool(kept)}
        self._segments.remove(list(later.values()))
        self._rows, self.count, self._fingerprint = kept, count, fingerprint
        self._held = {index: length for index, length in self._held.items() if index not in later}
        self.flush()

    def row(self, number: int) -> dict[str, Array]:
        """Return the written row of one observation: the growing variables by name, masks if they are kept."""
        self.flush()
        return self._stored(number // self._capacity)[number % self._capacity]

    def _stored(self, index: int) -> list[dict[str, Array]]:
        """Return the rows of a segment."""
        with open_segment(self._segments.path(index)) as file:
            return _rows(file)

    def _continue(self, file: h5py.File) -> None:
        self.header = self.header.with_attributes(run_id=file.attrs["run_id"], created=file.attrs["created"])
        self.header = replace(self.header, extra={**read_header(file).extra, **self.header.extra})

    def annotate(self, **attributes: object) -> None:
        """Add or change root attributes; they apply from the next segment on, and to the output."""
        self.header = self.header.with_attributes(**attributes)
        self._empty = b""

    def note(self, **extra: object) -> None:
        """Add or change attributes of the group `layout.EXTRA`, which the format leaves to its users."""
        self.header = replace(self.header, extra={**self.header.extra, **extra})
        self._empty = b""
        if self.count and not self._rows:
            # The last segment is full, and the output gets its attributes from it.
            self._rows = self._reopened((self.count - 1) // self._capacity)
            self.flush()
            self._rows = []

    def add_metrics(self, *names: str) -> None:
        """Add metrics; observations that lack one hold NaN."""
        metrics = tuple(dict.fromkeys((*self.header.metrics, *names)))
        if metrics != self.header.metrics:
            self.header = replace(self.header, metrics=metrics)
            self._empty = b""

    def append(self, observation: Observation, *, fingerprint: str) -> None:
        """Add one observation.

        Parameters
        ----------
        observation : Observation
        fingerprint : str
            The `source_fingerprint` of a trajectory that ends here.

        Raises
        ------
        TrajectoryError
            The segment could not be written, for example because the disk is full.
        """
        row = observation.arrays(self.header)
        if not self.header.mask_policy.keeps(self.count):
            del row["mask_step"], row["mask"]
        self._add(row, fingerprint)

    def _add(self, row: dict[str, Array], fingerprint: str) -> None:
        self._rows.append(row)
        self._fingerprint = fingerprint
        self.count += 1
        full = len(self._rows) == self._capacity
        if full or time.monotonic() - self._written > self._seconds:
            self.flush()
        if full:
            self._rows = []

    def flush(self) -> None:
        """Write the current segment, even if it is not full."""
        self._written = time.monotonic()
        if not self._rows:
            return
        absent: dict[str, Any] = {variable.name: np.float64(np.nan) for variable in layout.metrics(self.header.metrics)}
        full_rows = [absent | row for row in self._rows]
        names = [variable.name for variable in self.header.variables if variable.grows]
        rows = {name: [row[name] for row in full_rows if name in row] for name in names}
        # Most of the work of creating a small file is in the part that all segments share.
        self._empty = self._empty or hdf5.empty_image(self.header)
        index = (self.count - 1) // self._capacity
        first = {"first_observation": index * self._capacity} if index else {}
        content = hdf5.filled(self._empty, rows, source_fingerprint=self._fingerprint, **first)
        self.take(index, content, rows=len(self._rows))

    def take(self, index: int, content: bytes, *, rows: int) -> None:
        """Write segment number `index`, a complete trajectory file with `rows` rows.

        Raises
        ------
        TrajectoryError
            The segment could not be written, for example because the disk is full.
        """
        try:
            while self._embedded:
                name = next(iter(self._embedded))
                self._segments.carry(name, self._embedded[name])
                del self._embedded[name]
            self._segments.put(index, content, rows=rows)
            self._held[index] = rows
        except OSError as error:
            safe, path = sum(self._held.values()), self._segments.path(index)
            raise TrajectoryError(
                f"{path}: {describe(error)}; {counted(safe, 'observation')} "
                f"{'is' if safe == 1 else 'are'} safe in {path.parent}: "
                "fix this and run the same command again to resume"
            ) from None

    def close(self) -> Path:
        """Join the segments into the output, then delete them.

        Raises
        ------
        TrajectoryError
            The output could not be written; the segments are kept.
        """
        self.publish()
        self._segments.clear()
        return self._segments.output

    def publish(self) -> None:
        """Join the existing segments into the output, and keep them: more will follow.

        Raises
        ------
        TrajectoryError
            The output could not be written.
        """
        self.flush()
        try:
            join(self._segments)
        except TrajectoryError as error:
            raise TrajectoryError(
                f"{error}; all {counted(self.count, 'observation')} are safe in {self._segments.folder}: "
                "fix this and run the same command again"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None and self._segments.is_shared:
            self.flush()
        elif kind is None:
            self.close()
        else:
            # The current error is the one to report.
            with suppress(TrajectoryError):
                self.flush()


def rows_to_resume(folder: Path, header: Header, fingerprints: Sequence[str], rows: range | None = None) -> int:
    """Return the number of rows from which `TrajectoryWriter.resume` would continue, without changing anything.

    Raises
    ------
    TrajectoryError
        As in `TrajectoryWriter.resume`.
    """
    paths = segments_by_number(folder)
    if rows is not None:
        paths = _within(paths, rows, hdf5.chunk_steps(header))
    return sum(_held(paths, header, fingerprints, is_shared=rows is not None).values())


def rows_to_take_up(trajectory: Path, header: Header) -> int:
    """Return the number of rows that `TrajectoryWriter.take_up` would continue from, without changing anything."""
    with open_checked(trajectory) as file:
        return len(file["step"]) if _goes_on(file, header) else 0


def _held(paths: Mapping[int, Path], header: Header, fingerprints: Sequence[str], *, is_shared: bool) -> dict[int, int]:
    """Return the number of rows in each segment of a run, by its number; segments of other runs are left out.

    Raises
    ------
    TrajectoryError
        All segments (in a shared folder: any segment) belong to another run, or the new rows would be computed or kept
        differently from the existing ones.
    """
    capacity = hdf5.chunk_steps(header)
    check_segments(list(paths.values()))
    held: dict[int, int] = {}
    for index, path in paths.items():
        with open_segment(path, check=False) as file:
            end = index * capacity + len(file["step"])
            if end > len(fingerprints) or file.attrs["source_fingerprint"] != fingerprints[end - 1]:
                continue
            difference = _difference(file, header)
            if difference is not None:
                raise TrajectoryError(
                    f"{path.parent}: started with {difference}; use the former to resume, or restart with --overwrite"
                )
            held[index] = len(file["step"])
    # A process that shares a folder cannot remove the segments of others.
    if len(held) < (len(paths) if is_shared else min(1, len(paths))):
        raise TrajectoryError(
            f"{next(iter(paths.values())).parent}: holds an unfinished run with other inputs; choose another output, "
            + ("or remove that folder" if is_shared else "or discard it with --overwrite")
        )
    return held


def _within(paths: Mapping[int, Path], rows: range, capacity: int) -> dict[int, Path]:
    """Return the segments that hold any of these rows."""
    return {index: path for index, path in paths.items() if index * capacity in rows}


def _gaps(held: Mapping[int, int], rows: range, capacity: int) -> list[range]:
    """Return those of `rows` that no segment holds, in stretches.

    Parameters
    ----------
    held : mapping of int to int
        The number of rows by the number of the segment.
    rows : range
        Rows of whole segments, except at the end of the run.
    capacity : int
        The number of rows in a full segment.
    """
    gaps: list[range] = []
    for start in range(rows.start, rows.stop, capacity):
        missing = range(start + held.get(start // capacity, 0), min(start + capacity, rows.stop))
        if not missing:
            continue
        if gaps and gaps[-1].stop == missing.start:
            gaps[-1] = range(gaps[-1].start, missing.stop)
        else:
            gaps.append(missing)
    return gaps


def _goes_on(file: h5py.File, header: Header) -> bool:
    """Whether new rows can be in one file with those of this trajectory."""
    return _difference(file, header) is None and read_metrics(file) == header.metrics


def _difference(file: h5py.File, header: Header) -> str | None:
    """Return the first difference between the settings of new rows and those in a file, in words; None without."""
    for name in ("engine", "device", "mask_policy"):
        begun, now = (attributes.get(name) for attributes in (file.attrs, header.attributes))
        if begun != now:
            return f"{name} {begun}, now {now}"
    begun_names, names = ([one.name for one in held] for held in (read_quantities(file), header.quantities))
    if sorted(begun_names) != sorted(names):
        return f"the quantities {', '.join(begun_names) or 'none'}, now {', '.join(names) or 'none'}"
    return None


def _rows(file: h5py.File) -> list[dict[str, Array]]:
    return list(_split(read_rows(file, read_header(file))))


def _split(rows: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """Yield the rows of a segment, one observation at a time, with the mask of its step."""
    mask_row = {int(step): row for row, step in enumerate(rows["mask_step"])}
    growing = set(rows) - {"mask_step", "mask"}
    for row, step in enumerate(rows["step"]):
        observation = {name: rows[name][row] for name in growing}
        if int(step) in mask_row:
            observation |= {name: rows[name][mask_row[int(step)]] for name in ("mask_step", "mask")}
        yield observation
