"""Local copies of published checkpoints: fetched one at a time, removed once no longer needed."""

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
"""The download folder of a trajectory has its name plus this suffix."""

_COMMIT = ".commit"
_LOCK = ".lock"
_KEPT = ".keep"
_MAX_HEADER = 100 * 2**20


def downloads_folder(output: Path) -> Path:
    """Return the folder that holds checkpoints while `output` is created from them."""
    return output.parent / (output.name + SUFFIX)


@dataclass
class Downloads:
    """A folder with one subfolder for each checkpoint.

    Parameters
    ----------
    hub : Hub
    folder : Path, optional
        Default: a temporary folder, removed when this process ends.
    keep : bool
        Whether downloads stay; a folder once kept is not removed by later calls either.
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
        """A temporary folder for copies that are only inspected; removed when this process ends."""
        return Downloads(self.hub)

    def hold(self, name: str, repository: str, commit: str, files: Sequence[File]) -> Path:
        """Return the folder of a checkpoint with files of its commit; missing files are fetched.

        Raises
        ------
        NotFetched
            The Hub or the disk prevents it; the part that arrived is kept.
        RegimeError
            Another process uses the folder for its downloads.
        """
        # One checkpoint at a time: several at once would arrive no sooner and occupy the disk
        # longer.
        with self._one:
            folder = self._opened(name, commit)
            missing = [file for file in files if not (folder / file.name).is_file()]
            size = sum(file.size for file in missing)
            free = free_bytes(folder) + sum(_size(part) for part in folder.glob("*.part"))
            if size > free:
                raise NotFetched(
                    f"{self.place}: {size:,} bytes of hf://{repository}@{commit[:12]} do not fit "
                    f"into {free:,} free bytes; {self._elsewhere}"
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
        """Put a file with the beginning and the size of the real one into the folder of a checkpoint.

        The header of a safetensors file lists its tensors. The rest is a hole, which occupies no
        disk space.
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
        """Remove the copy of a `HubCheckpoint`. Arrays that view its files stay valid."""
        if not self.keep:
            shutil.rmtree(self.place / path.folder, ignore_errors=True)

    def stop(self) -> None:
        """Cancel the current download; its files stay, so that it can be resumed."""
        self.hub.stop.set()
        with self._one:
            self._let_go()

    def clear(self) -> None:
        """Remove all copies, unless they are to be kept; then release the folder to other processes."""
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
        """Return the folder of a checkpoint, emptied if it held a different commit."""
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
            raise RegimeError(
                f"{folder}: a download needs this name, but the existing folder is not a download; move it elsewhere"
            )

    def _take(self) -> None:
        """Lock the folder for this process."""
        if self._lock is not None:
            return
        self.place.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.place / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise RegimeError(
                f"{self.place}: another process downloads into this folder; wait until it ends, "
                "or choose a different output with -o"
            ) from None
        self._lock = lock
        if self.keep:
            (self.place / _KEPT).touch()
        self.keep = (self.place / _KEPT).exists()


def _size(path: Path) -> int:
    return path.stat().st_size
