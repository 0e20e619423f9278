"""The segments of an unfinished trajectory: a folder beside it, in the hands of one process at a time."""

import errno
import fcntl
import glob
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
from regime_proto.schema.errors import TrajectoryError
from regime_proto.schema.files import describe, require_writable, segments_folder
from regime_proto.schema.validation import trust
from regime_proto.schema.validation.guard import require_all_checked
from regime_proto.schema.validation.rules import Problem, errors

LOCK = "lock"


def segment_paths(folder: Path) -> list[Path]:
    """Return the segments in `folder`, in order."""
    return sorted(folder.glob("[0-9]*.h5"))


def ordered_segments(folder: Path) -> list[Path]:
    """Return the segments in `folder`, in order.

    Raises
    ------
    TrajectoryError
        One is missing among them.
    """
    found = segment_paths(folder)
    for index, path in enumerate(found):
        expected = _segment(folder, index)
        if path != expected:
            raise TrajectoryError(
                f"{expected}: missing, although {path.name} is there; delete {path.name} and those "
                "after it, and run the same command again"
            )
    return found


def _segment(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.h5"


class Segments:
    """The segments of `output`, held so that no other process writes them.

    Use it as a context. The hold ends with the process, however that ends.

    Parameters
    ----------
    output : Path

    Raises
    ------
    TrajectoryError
        Another process holds them, or the folder cannot be made or written to.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = segments_folder(output)
        self._descriptor = self._locked()

    def _locked(self) -> int:
        while True:
            descriptor = self._opened()
            # Whoever held it may remove the folder before it is opened here, or after.
            if descriptor is not None and self._is_mine(descriptor):
                return descriptor

    def _opened(self) -> int | None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                return os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise TrajectoryError(
                f"{self.output}: cannot be written ({error.strerror}); choose another output"
            ) from None
        return None

    def _is_mine(self, descriptor: int) -> bool:
        _lock(descriptor, self.output)
        if self._is_current(descriptor):
            return True
        os.close(descriptor)
        return False

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), (self.folder / LOCK).stat())
        except FileNotFoundError:
            return False

    def path(self, index: int) -> Path:
        """Return the path of segment number `index`."""
        return _segment(self.folder, index)

    def paths(self) -> list[Path]:
        """Return the segments that are there, in order.

        Raises
        ------
        TrajectoryError
            One is missing among them.
        """
        return ordered_segments(self.folder)

    def clear(self) -> None:
        """Delete the segments, and what a killed process left half written."""
        # The last one first: a kill in between leaves the first part of the run, not holes.
        for path in sorted(self.folder.iterdir(), reverse=True):
            if path.name != LOCK:
                path.unlink()
        trust.forget_segments(self.folder)
        self.clear_leftovers()

    def clear_leftovers(self) -> None:
        """Delete what a killed process left half written."""
        name = glob.escape(self.output.name)
        for leftover in (*self.output.parent.glob(f".{name}.*.tmp"), *self.folder.glob(".*.tmp")):
            leftover.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if [path.name for path in self.folder.glob("*")] == [LOCK]:
            shutil.rmtree(self.folder)
        os.close(self._descriptor)


def _lock(descriptor: int, output: Path) -> None:
    """Lock an open file; where that fails it is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise TrajectoryError(f"{segments_folder(output)}: cannot be locked ({error.strerror})") from None
        raise TrajectoryError(
            f"{output}: another process is writing it, or a recorder of this one that is not closed; wait "
            "until that ends, or choose another output"
        ) from None


def require_free(output: Path) -> None:
    """Raise what `Segments` would raise for `output`, as far as that shows without writing.

    Raises
    ------
    RegimeError
        Another process holds the segments, or their folder cannot be made or written to.
    """
    require_writable(segments_folder(output) / LOCK)
    with suppress(FileNotFoundError):
        descriptor = os.open(segments_folder(output) / LOCK, os.O_RDWR)
        _lock(descriptor, output)
        os.close(descriptor)


def kept_observations(output: Path) -> int:
    """Return how many observations the segments of `output` hold."""
    kept, paths = 0, segment_paths(segments_folder(output))
    check_segments(paths)
    for path in paths:
        with open_segment(path, check=False) as segment:
            kept += len(segment["step"])
    return kept


def discard_segments(output: Path) -> None:
    """Delete the segments of `output`, if there are any that no other process holds."""
    if segments_folder(output).is_dir():
        with suppress(TrajectoryError), Segments(output) as segments:
            segments.clear()


def check_segments(paths: Sequence[Path]) -> None:
    """Hold segments that this machine has neither written nor checked against the format, all in one other process.

    Raises
    ------
    TrajectoryError
        One is damaged, or no segment of a run.
    """
    known = trust.segment_states(paths[0].parent) if paths else frozenset()
    strange = [path for path in paths if trust.state_of(path) not in known]
    found = require_all_checked(strange, require=_require_undamaged)
    for path, record in zip(strange, found, strict=True):
        if record.defers:
            raise TrajectoryError(f"{path}: larger than a segment can be; it is not of a run of regime")
        if record.state == trust.state_of(path):
            trust.add_segment(path)


@contextmanager
def open_segment(path: Path, *, check: bool = True) -> Iterator[h5py.File]:
    """Open a segment for reading.

    Parameters
    ----------
    path : Path
    check : bool
        False where `check_segments` has been called for it, by this process or the one that started it.

    Raises
    ------
    TrajectoryError
        It is damaged.
    """
    if check:
        check_segments([path])
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise TrajectoryError(
            f"{path}: a damaged segment ({describe(error)}); delete it and those after it, then run the command again"
        ) from None
    with file:
        yield file


def _require_undamaged(problems: list[Problem], path: Path) -> None:
    wrong = errors(problems)
    if wrong:
        raise TrajectoryError(
            f"{path}: a damaged segment ({wrong[0]}); delete it and those after it, then run the command again"
        )
