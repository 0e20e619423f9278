"""The segments of an unfinished trajectory: a folder next to it that one process holds at a time."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import h5py

from regime_proto.schema import layout
from regime_proto.schema.errors import TrajectoryError
from regime_proto.schema.files import (
    describe,
    is_temporary,
    replace_file,
    require_writable,
    segments_folder,
)
from regime_proto.schema.kinds import HDF5_SIGNATURE
from regime_proto.schema.locks import LOCK, MARK, TURN, Hold, Taken, is_holder, one_at_a_time, require_not_held
from regime_proto.schema.validation import trust
from regime_proto.schema.validation.guard import require_all_checked
from regime_proto.schema.validation.rules import Problem, errors

_SEGMENT = re.compile(r"[0-9]{6,}\.h5")
# The agreement of all parts of a run that several processes compute.
AGREED = "agreed.json"
# Files that file systems and file managers create by themselves.
_OTHERS = re.compile(r"\.nfs|\.DS_Store$|\._")


def segment_paths(folder: Path) -> list[Path]:
    """Return the segments in `folder`, in order."""
    return sorted(path for path in folder.glob("[0-9]*.h5") if _SEGMENT.fullmatch(path.name))


def segments_by_number(folder: Path) -> dict[int, Path]:
    """Return the segments in `folder` by number, in order; some may be missing."""
    return {int(path.stem): path for path in segment_paths(folder)}


def ordered_segments(folder: Path) -> list[Path]:
    """Return the segments in `folder`, in order.

    Raises
    ------
    TrajectoryError
        A segment in between is missing.
    """
    found = segment_paths(folder)
    for index, path in enumerate(found):
        expected = _segment(folder, index)
        if path != expected:
            raise TrajectoryError(
                f"{expected}: missing, although {path.name} exists; run the original `regime convert` again, which "
                f"adds it, or delete {path.name} and the segments after it, and run the same command again"
            )
    return found


def _segment(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.h5"


class Segments:
    """The segments of `output`, held so that no other process writes them.

    Use it as a context manager. The hold ends with the process, however it ends. Only files that this program wrote are
    ever removed from the folder.

    Parameters
    ----------
    output : Path
    shared : bool
        Share the folder with other processes. They write segments, but remove none.

    Raises
    ------
    TrajectoryError
        Another process holds them, the folder holds other files, or it cannot be created or written to.
    """

    def __init__(self, output: Path, *, shared: bool = False) -> None:
        self.output = output
        self.is_shared = shared
        self.folder = segments_folder(output)
        self._hold = self._held()

    def _held(self) -> Hold:
        while True:
            _require_own(self.folder, self.output)
            is_new = not self.folder.exists()
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):
                    hold = Hold(self.folder, shared=self.is_shared)
                    # The previous holder may remove the folder before or after it is opened here.
                    if hold.is_current():
                        return hold
                    hold.release()
            except Taken as error:
                raise TrajectoryError(_taken(self.output, error)) from None
            except OSError as error:
                if is_new:
                    with suppress(OSError):
                        (self.folder / LOCK).unlink()
                    self._remove_folder()
                raise TrajectoryError(
                    f"{self.output}: cannot be written ({error.strerror}); choose another output"
                ) from None

    def path(self, index: int) -> Path:
        """Return the path of segment number `index`."""
        return _segment(self.folder, index)

    def paths(self) -> dict[int, Path]:
        """Return the existing segments by number, in order; some may be missing."""
        return segments_by_number(self.folder)

    def put(self, index: int, content: bytes, *, rows: int) -> None:
        """Write segment number `index`; in a shared folder, a segment with more rows is kept.

        Parameters
        ----------
        index : int
        content : bytes
            A whole trajectory file.
        rows : int
            The number of rows that it holds.

        Raises
        ------
        OSError
            It cannot be written.
        """
        path = self.path(index)
        if not self.is_shared:
            replace_file(path, content)
        else:
            with one_at_a_time(self.folder / TURN):
                if rows < _rows_in(path):
                    return
                replace_file(path, content)
        trust.add_segment(path)

    def carry(self, name: str, content: bytes) -> None:
        """Keep a file for the output next to the segments.

        Raises
        ------
        OSError
            It cannot be written.
        """
        line = f"{name} {hashlib.sha256(content).hexdigest()}"
        with one_at_a_time(self.folder / TURN) if self.is_shared else nullcontext():
            is_there = (self.folder / name).is_file() and line in self._hold.text().splitlines()
            if not (self.is_shared and is_there):
                self._hold.write(line)
                replace_file(self.folder / name, content)

    def carried(self) -> list[Path]:
        """Return the files that are kept for the output."""
        return [path for name in layout.EMBEDDED if (path := self.folder / name).is_file()]

    def remove(self, paths: Sequence[Path]) -> None:
        """Delete files in the folder; if one of them was not written by this program, delete none.

        Raises
        ------
        TrajectoryError
            By its name or content, a file was not written by this program.
        """
        for path in paths:
            if not self._is_own(path):
                raise TrajectoryError(
                    f"{path}: not deleted, because it is damaged or was not written by regime; move it away, and run "
                    "the same command again"
                )
        # The last one first: a kill in between leaves the first part of the run without gaps.
        for path in sorted(paths, reverse=True):
            path.unlink(missing_ok=True)

    def _is_own(self, path: Path) -> bool:
        if is_temporary(path.name):
            return True
        if path.is_symlink() or not path.is_file():
            return False
        content = path.read_bytes()
        if path.name in layout.EMBEDDED:
            said = self._hold.text()
            return not said or f"{path.name} {hashlib.sha256(content).hexdigest()}" in said.splitlines()
        return content.startswith(HDF5_SIGNATURE) and b"regime_version" in content

    def clear(self) -> None:
        """Delete the segments, and files that a killed process left half written.

        Raises
        ------
        TrajectoryError
            The folder holds other files; then nothing is deleted.
        """
        self.remove([*segment_paths(self.folder), *self.carried()])
        self.end_agreement()
        trust.forget_segments(self.folder)
        self.clear_leftovers()

    def end_agreement(self) -> None:
        """Delete the agreement of several processes: from now on, one process continues alone."""
        (self.folder / AGREED).unlink(missing_ok=True)

    def clear_leftovers(self) -> None:
        """Delete files that a killed process left half written."""
        self.remove([path for path in self.folder.iterdir() if is_temporary(path.name)])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        left = {path.name for path in self.folder.glob("*")}
        is_done = not self.is_shared and all(name in (LOCK, TURN) or is_holder(name) for name in left)
        if is_done:
            for name in (TURN, LOCK):
                (self.folder / name).unlink(missing_ok=True)
        self._hold.release()
        if is_done:
            self._remove_folder()

    def _remove_folder(self) -> None:
        with suppress(OSError):
            self.folder.rmdir()


class MemorySegments(Segments):
    """Segments in memory, for another process to write.

    Attributes
    ----------
    images : dict of int to bytes
        Complete trajectory files, by number.
    lengths : dict of int to int
        The number of rows of each.
    """

    def __init__(self) -> None:
        self.output = Path("memory")
        self.folder = segments_folder(self.output)
        self.is_shared = True
        self.images: dict[int, bytes] = {}
        self.lengths: dict[int, int] = {}

    def put(self, index: int, content: bytes, *, rows: int) -> None:
        """Keep segment number `index`."""
        self.images[index], self.lengths[index] = content, rows


def _rows_in(path: Path) -> int:
    """Return the number of rows in a segment, 0 if it does not exist."""
    if not path.exists():
        return 0
    with open_segment(path) as segment:
        return len(segment["step"])


def _require_own(folder: Path, output: Path) -> None:
    """Raise an error if a folder holds files of another program, by their names or the content of the lock file."""
    if folder.is_symlink():
        raise TrajectoryError(
            f"{folder}: a link; expected a folder that regime created: remove it, or choose another output"
        )
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        raise TrajectoryError(f"{output}: cannot be written ({error.strerror}); choose another output") from None
    for entry in entries:
        if not _OTHERS.match(entry.name) and not _is_own_name(entry):
            raise TrajectoryError(
                f"{folder}: holds {entry.name}, which regime did not write; move it away, or choose another output"
            )


def _is_own_name(entry: "os.DirEntry[str]") -> bool:
    if not entry.is_file(follow_symlinks=False):
        return False
    if entry.name == LOCK:
        content = Path(entry.path).read_bytes()[: len(MARK)]
        return not content or content == MARK
    if entry.name in (TURN, AGREED, *layout.EMBEDDED) or is_holder(entry.name):
        return True
    return bool(_SEGMENT.fullmatch(entry.name)) or is_temporary(entry.name)


def _taken(output: Path, error: Taken) -> str:
    who = f" ({error})" if str(error) else ""
    return (
        f"{output}: another process is writing it{who}, or an open recorder of this process; wait until it ends, "
        "or choose another output"
    )


def require_free(output: Path, *, shared: bool = False) -> None:
    """Raise the errors of `Segments` for `output`, as far as they can be detected without writing.

    Raises
    ------
    RegimeError
        Another process holds the segments, or their folder cannot be created or written to.
    """
    folder = segments_folder(output)
    require_writable(folder / LOCK)
    _require_own(folder, output)
    try:
        require_not_held(folder, shared=shared)
    except Taken as error:
        raise TrajectoryError(_taken(output, error)) from None
    except OSError as error:
        raise TrajectoryError(f"{output}: cannot be written ({error.strerror}); choose another output") from None


def kept_observations(output: Path) -> int:
    """Return the number of observations in the segments of `output`."""
    kept, paths = 0, segment_paths(segments_folder(output))
    check_segments(paths)
    for path in paths:
        with open_segment(path, check=False) as segment:
            kept += len(segment["step"])
    return kept


def discard_segments(output: Path) -> None:
    """Delete the segments of `output`, if they exist and no other process holds them."""
    if segments_folder(output).is_dir():
        with suppress(TrajectoryError), Segments(output) as segments:
            segments.clear()


def check_segments(paths: Sequence[Path]) -> None:
    """Validate the segments that this machine has neither written nor checked, all in one separate process.

    Raises
    ------
    TrajectoryError
        A file is damaged, or is not a segment of a run.
    """
    known = trust.segment_states(paths[0].parent) if paths else frozenset()
    strange = [path for path in paths if trust.state_of(path) not in known]
    found = require_all_checked(strange, require=_require_undamaged)
    for path, record in zip(strange, found, strict=True):
        if record.defers:
            raise TrajectoryError(f"{path}: larger than any segment; it does not belong to a run of regime")
        if record.state == trust.state_of(path):
            trust.add_segment(path)


@contextmanager
def open_segment(path: Path, *, check: bool = True) -> Iterator[h5py.File]:
    """Open a segment for reading.

    Parameters
    ----------
    path : Path
    check : bool
        False if `check_segments` has been called for it, by this process or its parent.

    Raises
    ------
    TrajectoryError
        The segment is damaged.
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
