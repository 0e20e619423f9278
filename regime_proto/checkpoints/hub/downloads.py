"""Copies of published checkpoints on this machine: fetched one at a time, removed once they are not needed."""

import fcntl
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from regime_proto.checkpoints.hub.client import File, Hub, NotFetched, Stopped, free_bytes
from regime_proto.schema.errors import RegimeError

SUFFIX = ".downloads"
"""The folder of the downloads for a trajectory has its name, and this."""

_COMMIT = ".commit"
_LOCK = ".lock"
_KEPT = ".keep"
_MAX_HEADER = 100 * 2**20


def downloads_folder(output: Path) -> Path:
    """Return the folder in which checkpoints are kept while `output` is made of them."""
    return output.parent / (output.name + SUFFIX)


@dataclass
class Downloads:
    """A folder with a folder for each checkpoint.

    Parameters
    ----------
    hub : Hub
    folder : Path, optional
        Where; a temporary one if not given, which goes with this process.
    keep : bool
        Whether they stay; those that are to stay are never removed later either.
    say : callable, optional
        Called with a line before each download.
    """

    hub: Hub
    folder: Path | None = None
    keep: bool = False
    say: Callable[[str], None] | None = None
    _temporary: Path | None = None
    _lock: int | None = None
    _one: threading.RLock = field(default_factory=threading.RLock)

    @property
    def place(self) -> Path:
        """The folder, which need not exist yet."""
        if self.folder is not None:
            return self.folder
        if self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="regime-hub-"))
            weakref.finalize(self, shutil.rmtree, self._temporary, ignore_errors=True)
        return self._temporary

    @cached_property
    def apart(self) -> "Downloads":
        """A place for what is looked at only, which goes with this process."""
        return Downloads(self.hub)

    def hold(self, name: str, repository: str, commit: str, files: Sequence[File]) -> Path:
        """Return the folder of a checkpoint, in which files of its commit are, fetched unless they are there.

        Raises
        ------
        NotFetched
            The Hub or the disk does not let it be; what came is kept.
        RegimeError
            Another process keeps its downloads there.
        """
        # One checkpoint at a time: several at once would come no sooner, and lie on the disk longer.
        with self._one:
            folder = self._opened(name, commit)
            missing = [file for file in files if not (folder / file.name).is_file()]
            size = sum(file.size for file in missing)
            free = free_bytes(folder) + sum(_size(part) for part in folder.glob("*.part"))
            if size > free:
                raise NotFetched(
                    f"{self.place}: {size:,} bytes of hf://{repository}@{commit[:12]} do not fit, {free:,} are free; "
                    f"{self._elsewhere}"
                )
            if missing and self.say is not None:
                self.say(f"fetching {name} of hf://{repository}, {size:,} bytes")
            try:
                for file in missing:
                    self.hub.download(repository, commit, file, folder / file.name)
            except OSError as error:
                raise self._unwritable(error) from None
        return folder

    def begin(self, name: str, repository: str, commit: str, file: File) -> None:
        """Put a file in the folder of a checkpoint that has the beginning of the real one, and its size.

        The beginning of safetensors says what is in the file. What comes after it is a hole, which takes no room.
        """
        with self._one:
            hollow = self._opened(name, commit) / file.name
            if hollow.exists():
                return
            head = self.hub.beginning(repository, commit, file, 8)
            count = min(8 + int.from_bytes(head, "little"), file.size, _MAX_HEADER)
            content = self.hub.beginning(repository, commit, file, count)
            with hollow.open("wb") as sink:
                sink.write(content)
                sink.truncate(file.size)

    def release(self, path: Any) -> None:
        """Remove the copy of a checkpoint, a `HubCheckpoint`. Arrays that view its files stay valid."""
        if not self.keep:
            shutil.rmtree(self.place / path.folder, ignore_errors=True)

    def stop(self) -> None:
        """Give up the download that is under way; what is there stays for whoever goes on."""
        self.hub.stop.set()
        with self._one:
            self._let_go()

    def clear(self) -> None:
        """Remove what is there, unless it is to be kept; the folder is free for other processes."""
        if self._lock is None:
            return
        for path in () if self.keep else self.place.iterdir():
            if (path / _COMMIT).is_file():
                shutil.rmtree(path, ignore_errors=True)
        (self.place / _LOCK).unlink(missing_ok=True)
        self._let_go()
        with suppress(OSError):
            self.place.rmdir()

    @property
    def _elsewhere(self) -> str:
        other = "write the output to another disk with -o" if self.folder else "set TMPDIR to a folder on another disk"
        return f"free some space there, or {other}"

    def _unwritable(self, error: OSError) -> NotFetched:
        return NotFetched(f"{self.place}: cannot be written ({error.strerror or error}); {self._elsewhere}")

    def _let_go(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _opened(self, name: str, commit: str) -> Path:
        """Return the folder of a checkpoint, empty if another commit was in it."""
        if self.hub.stop.is_set():
            raise Stopped("interrupted")
        try:
            self._take()
            folder = self.place / name
            mark = folder / _COMMIT
            if folder.exists() and not (mark.is_file() and mark.read_text(encoding="ascii") == commit):
                self._refuse_other(folder, mark)
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            mark.write_text(commit, encoding="ascii")
        except OSError as error:
            raise self._unwritable(error) from None
        return folder

    def _refuse_other(self, folder: Path, mark: Path) -> None:
        if not mark.is_file() and any(folder.iterdir()):
            raise RegimeError(f"{folder}: in the way of a download, and is none; move it elsewhere")

    def _take(self) -> None:
        """Hold the folder for this process."""
        if self._lock is not None:
            return
        self.place.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.place / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise RegimeError(
                f"{self.place}: another process downloads there; wait until it is done, or choose another output, -o"
            ) from None
        self._lock = lock
        if self.keep:
            (self.place / _KEPT).touch()
        self.keep = (self.place / _KEPT).exists()


def _size(path: Path) -> int:
    return path.stat().st_size
