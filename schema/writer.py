"""Writes a trajectory so that a crash, a kill or a full disk loses at most the last segment.

A segment is a complete trajectory file that holds one row of chunks. It is built in memory, written beside
its final name and renamed. A row that is not yet full may be written early; it is then replaced, whole, by a
fuller one. At the end the segments are joined into the output and deleted.
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

    Leaving the context normally joins the segments into the output, unless these are shared with other writers; leaving
    it by an exception keeps what was observed as segments, for `resume`.

    Parameters
    ----------
    segments : Segments
        In the hands of the caller.
    header : Header
        Files that it embeds are kept beside the segments until these are joined.
    seconds : float
        An unfinished segment is written after this long, so that slow runs lose little.
    """

    def __init__(self, segments: Segments, header: Header, *, seconds: float = 30.0) -> None:
        self.header = replace(header, embedded={})
        self.count = 0
        # How many rows each segment holds, by its number.
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
        """Take up the segments of an earlier, unfinished conversion; what is written next follows the first of them.

        Parameters
        ----------
        fingerprints : sequence of str
            For each row to be written, the `source_fingerprint` of the trajectory that ends with it.
        rows : range, optional
            Those that this writer is to see written; all, if not given.

        Returns
        -------
        list of range
            The rows that no segment holds, in stretches; see `go_to`.

        Raises
        ------
        TrajectoryError
            The segments come from other inputs, or were computed by another engine.
        """
        rows = range(len(fingerprints)) if rows is None else rows
        paths = self._segments.paths()
        if self._segments.is_shared:
            paths = _within(paths, rows, self._capacity)
        held = _held(paths, self.header, fingerprints, is_shared=self._segments.is_shared)
        # What the last one says counts.
        for index, length in reversed(held.items()):
            with open_segment(paths[index], check=False) as file:
                self._continue(file)
                self.add_metrics(*read_metrics(file))
                if index * self._capacity + length == len(fingerprints):
                    # It was measured beside the last observation.
                    self.annotate(**{name: file.attrs[name] for name in layout.NOISE_FLOORS if name in file.attrs})
            self._held[index] = length
        if not self._segments.is_shared:
            self._segments.clear_leftovers()
            self._segments.end_agreement()
            # What was to be carried before, and may be private, is not to be any more.
            self._segments.remove([path for path in self._segments.carried() if path.name not in self._carries])
            self._segments.remove([path for index, path in paths.items() if index not in held])
        gaps = _gaps(held, rows, self._capacity)
        self._load(gaps[0].start if gaps else rows.stop)
        return gaps

    def go_to(self, row: int) -> None:
        """Write from an observation on: the first of a segment, or the one that follows those in a segment."""
        if row == self.count:
            return
        self.flush()
        self._load(row)

    def _load(self, row: int) -> None:
        """Go on as the segments say; what was not written is dropped."""
        # A segment that is not full is written again.
        self._rows = self._reopened(row // self._capacity) if row % self._capacity else []
        self.count = row

    def _reopened(self, index: int) -> list[dict[str, Array]]:
        """Return the rows of a segment that is written again."""
        with open_segment(self._segments.path(index)) as file:
            self._fingerprint = file.attrs["source_fingerprint"]
            return _rows(file)

    def take_up(self, trajectory: Path, fingerprints: Sequence[str]) -> int:
        """Go on after a finished trajectory of the first part of the run, and return how many rows it holds.

        Parameters
        ----------
        trajectory : Path
            It may be the output itself.
        fingerprints : sequence of str
            As in `resume`; that of the trajectory is among them.

        Returns
        -------
        int
            0 where its rows would not go with those to come: made by another engine, with other masks, metrics or
            quantities.
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
        """Keep the first `count` rows only.

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
        """Return what was written of one observation: the growing variables by name, masks if they are kept."""
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
        """Add or change root attributes; they count from the next segment on, and for the output."""
        self.header = self.header.with_attributes(**attributes)
        self._empty = b""

    def note(self, **extra: object) -> None:
        """Add or change attributes of the group `layout.EXTRA`, which the format leaves to its users."""
        self.header = replace(self.header, extra={**self.header.extra, **extra})
        self._empty = b""
        if self.count and not self._rows:
            # The last segment is full, and the output takes its attributes from there.
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
        """Write the current segment as far as it goes."""
        self._written = time.monotonic()
        if not self._rows:
            return
        absent: dict[str, Any] = {variable.name: np.float64(np.nan) for variable in layout.metrics(self.header.metrics)}
        full_rows = [absent | row for row in self._rows]
        names = [variable.name for variable in self.header.variables if variable.grows]
        rows = {name: [row[name] for row in full_rows if name in row] for name in names}
        # Most of the work of making a small file is in what all segments share.
        self._empty = self._empty or hdf5.empty_image(self.header)
        index = (self.count - 1) // self._capacity
        first = {"first_observation": index * self._capacity} if index else {}
        content = hdf5.filled(self._empty, rows, source_fingerprint=self._fingerprint, **first)
        self.take(index, content, rows=len(self._rows))

    def take(self, index: int, content: bytes, *, rows: int) -> None:
        """Write segment number `index`, a whole trajectory file of so many rows.

        Raises
        ------
        TrajectoryError
            It could not be written, for example because the disk is full.
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
                "mend that and run the same command again to go on"
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
        """Join what there is into the output, and keep the segments: more will come.

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
                "mend that and run the same command again"
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
            # The error under way is the one to report.
            with suppress(TrajectoryError):
                self.flush()


def rows_to_resume(folder: Path, header: Header, fingerprints: Sequence[str], rows: range | None = None) -> int:
    """Return how many rows `TrajectoryWriter.resume` would take up, without changing anything.

    Raises
    ------
    TrajectoryError
        As there.
    """
    paths = segments_by_number(folder)
    if rows is not None:
        paths = _within(paths, rows, hdf5.chunk_steps(header))
    return sum(_held(paths, header, fingerprints, is_shared=rows is not None).values())


def rows_to_take_up(trajectory: Path, header: Header) -> int:
    """Return how many rows `TrajectoryWriter.take_up` would take up, without changing anything."""
    with open_checked(trajectory) as file:
        return len(file["step"]) if _goes_on(file, header) else 0


def _held(paths: Mapping[int, Path], header: Header, fingerprints: Sequence[str], *, is_shared: bool) -> dict[int, int]:
    """Return how many rows each of the segments of a run holds, by its number; others' are left out.

    Raises
    ------
    TrajectoryError
        All are of another run (in a folder that is shared: one), or the rows to come would be computed or kept
        otherwise than those that are there.
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
                    f"{path.parent}: begun with {difference}; go on with the former, or begin again with --overwrite"
                )
            held[index] = len(file["step"])
    # Whoever shares a folder cannot remove what is another's.
    if len(held) < (len(paths) if is_shared else min(1, len(paths))):
        raise TrajectoryError(
            f"{next(iter(paths.values())).parent}: holds an unfinished run of other inputs; choose another output, or "
            + ("remove that folder" if is_shared else "discard it with --overwrite")
        )
    return held


def _within(paths: Mapping[int, Path], rows: range, capacity: int) -> dict[int, Path]:
    """Return the segments that hold some rows."""
    return {index: path for index, path in paths.items() if index * capacity in rows}


def _gaps(held: Mapping[int, int], rows: range, capacity: int) -> list[range]:
    """Return those of `rows` that no segment holds, in stretches.

    Parameters
    ----------
    held : mapping of int to int
        Rows by the number of their segment.
    rows : range
        Of whole segments, but for the end of the run.
    capacity : int
        Rows of a full segment.
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
    """Whether rows to come can stand in one file with those of another trajectory."""
    return _difference(file, header) is None and read_metrics(file) == header.metrics


def _difference(file: h5py.File, header: Header) -> str | None:
    """Return what would make the rows to come others than those in a file."""
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
    """Yield the rows of a segment, one observation at a time; masks stand with the step that they are of."""
    mask_row = {int(step): row for row, step in enumerate(rows["mask_step"])}
    growing = set(rows) - {"mask_step", "mask"}
    for row, step in enumerate(rows["step"]):
        observation = {name: rows[name][row] for name in growing}
        if int(step) in mask_row:
            observation |= {name: rows[name][mask_row[int(step)]] for name in ("mask_step", "mask")}
        yield observation
