"""Writes a trajectory so that a crash, a kill or a full disk loses at most the last segment.

A segment is a complete trajectory file that holds one row of chunks. It is built in memory, written beside
its final name and renamed. A row that is not yet full may be written early; it is then replaced, whole, by a
fuller one. At the end the segments are joined into the output and deleted.
"""

import errno
import glob
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from regime_proto.schema import hdf5
from regime_proto.schema.errors import TrajectoryError
from regime_proto.schema.files import replace_file
from regime_proto.schema.header import Array, Header, Observation
from regime_proto.schema.merge import segment_paths, temporary_path
from regime_proto.schema.reader import open_checked, read_header, read_rows


def segments_folder(output: Path) -> Path:
    """Return the folder that holds the segments of an unfinished `output`."""
    return output.with_name(output.name + ".segments")


def discard_segments(output: Path) -> None:
    """Delete the segments of an unfinished `output`, if there are any."""
    shutil.rmtree(segments_folder(output), ignore_errors=True)


class TrajectoryWriter:
    """Write observations, in order, to the trajectory file `output`.

    Leaving the context normally joins the segments into `output`; leaving it by an exception keeps what was
    observed as segments, for `resume`.

    Parameters
    ----------
    output : Path
    header : Header
    seconds : float
        An unfinished segment is written after this long, so that slow runs lose little.

    Raises
    ------
    TrajectoryError
        The folder of the output cannot be made or written to.
    """

    def __init__(self, output: Path, header: Header, *, seconds: float = 30.0) -> None:
        _require_writable(output)
        self.output = output
        self.header = header
        self.folder = segments_folder(output)
        self.count = 0
        self._seconds = seconds
        self._written = time.monotonic()
        self._rows: list[dict[str, Array]] = []
        self._capacity = hdf5.chunk_steps(header)
        self._fingerprint = ""
        self._empty = b""

    def resume(self, fingerprints: Sequence[str]) -> int:
        """Take up the segments of an earlier, unfinished conversion and return how many rows they hold.

        Parameters
        ----------
        fingerprints : sequence of str
            For each row to be written, the `source_fingerprint` of the trajectory that ends with it.

        Raises
        ------
        TrajectoryError
            The segments come from other inputs, or were computed by another engine.
        """
        for leftover in self.output.parent.glob(f".{glob.escape(self.output.name)}.*.tmp"):
            leftover.unlink(missing_ok=True)
        for index, path in enumerate(segment_paths(self.folder)):
            with open_checked(path) as file:
                found, rows = read_header(file), read_rows(file, self.header)
            end = index * self._capacity + len(rows["step"])
            if end > len(fingerprints) or found.attributes["source_fingerprint"] != fingerprints[end - 1]:
                if index == 0:
                    raise TrajectoryError(
                        f"{self.folder}: holds an unfinished conversion of other inputs; "
                        "choose another output, or discard it with --overwrite"
                    )
                break
            self._require_same_engine(found)
            self._adopt(found, rows, end)
        for path in segment_paths(self.folder)[-(-self.count // self._capacity) :]:
            path.unlink()
        return self.count

    def _require_same_engine(self, found: Header) -> None:
        """Raise an error unless the rows to come are computed as those that are there."""
        for name in ("engine", "device"):
            begun, now = (header.attributes.get(name) for header in (found, self.header))
            if begun != now:
                raise TrajectoryError(
                    f"{self.folder}: begun with {name} {begun}, now {now}, which may round differently; "
                    "go on with the former, or begin again with --overwrite"
                )

    def _adopt(self, found: Header, rows: dict[str, Array], end: int) -> None:
        kept = {name: found.attributes[name] for name in ("run_id", "created")}
        self.header = self.header.with_attributes(**kept)
        self._fingerprint = found.attributes["source_fingerprint"]
        self.count = end
        self._rows = []
        if end % self._capacity:
            self._rows = [{name: values[row] for name, values in rows.items()} for row in range(len(rows["step"]))]

    def annotate(self, **attributes: object) -> None:
        """Add root attributes; before anything is written."""
        self.header = self.header.with_attributes(**attributes)

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
        self._rows.append(observation.arrays(self.header.metrics))
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
        rows = {name: [row[name] for row in self._rows] for name in self._rows[0]}
        # Most of the work of making a small file is in what all segments share.
        self._empty = self._empty or hdf5.empty_image(self.header)
        content = hdf5.filled(self._empty, rows, source_fingerprint=self._fingerprint)
        path = self.folder / f"{(self.count - 1) // self._capacity:06d}.h5"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(path, content)
        except OSError as error:
            kept = self.count - len(self._rows)
            raise TrajectoryError(
                f"{path}: {_reason(error)}; {kept} observations are safe in {self.folder}: "
                "mend that and run the same command again to go on"
            ) from None

    def close(self) -> Path:
        """Join the segments into the output, then delete them.

        Raises
        ------
        TrajectoryError
            The output could not be written; the segments are kept.
        """
        self.flush()
        child = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-m", "regime_proto.schema.merge", str(self.folder), str(self.output)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        _, output = child.communicate()
        if child.returncode:
            temporary_path(self.output, child.pid).unlink(missing_ok=True)
            reason = output.strip().splitlines()[-1] if output.strip() else f"signal {-child.returncode}"
            raise TrajectoryError(
                f"{self.output}: could not be written ({reason}); all {self.count} observations are safe "
                f"in {self.folder}: mend that and run the same command again"
            )
        shutil.rmtree(self.folder)
        return self.output

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            # The error under way is the one to report.
            with suppress(TrajectoryError):
                self.flush()


def _require_writable(output: Path) -> None:
    """Make the output's folder, before any work: a name that cannot be written is better found now."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(output.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise TrajectoryError(f"{output}: cannot be written ({error.strerror}); choose another output") from None


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return f"the disk is full ({error.strerror})"
    return str(error.strerror)
