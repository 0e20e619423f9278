"""One holder of a folder at a time.

A process holds a folder by a system lock on a file in it; the lock ends with the process. Some file systems of clusters
(mounts of NFS and Lustre) have no such locks. There a second file names the holder by host, process and time, and the
holder renews that time. The file of a dead holder is recognised by its process or, from another host, by its age.

Several processes can share a folder; then no other process can hold it.
"""

import errno
import fcntl
import json
import os
import re
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = "lock"
HOLDER = "holder"
# A process that shares a folder locks this file while it writes a file that others may write too.
TURN = "turn"

# The lock file of a folder of segments begins with this text. A folder with a different file of that name is not ours.
MARK = b"regime: segments of an unfinished trajectory\n"

# The error numbers of file systems without locks.
_NO_LOCK = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EBADF, errno.EINVAL}
_TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}

RENEWED_SECONDS = 20.0
STALE_SECONDS = 300.0


class Taken(Exception):
    """A running process holds the folder; the message names it if it is known."""


class Hold:
    """A folder that this process holds until `release`.

    Parameters
    ----------
    folder : Path
        An existing folder.
    shared : bool
        Share it with other processes that hold it as shared.

    Raises
    ------
    Taken
        Another process holds it.
    OSError
        The lock file cannot be opened or locked.
    """

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        self._path = folder / LOCK
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        self._holder: _Holder | None = None
        try:
            if not _is_locked(self._descriptor, shared=shared):
                self._holder = _Holder(folder, self._path, shared=shared)
            if not os.fstat(self._descriptor).st_size:
                os.write(self._descriptor, MARK)
        except BaseException:
            self.release()
            raise

    def is_current(self) -> bool:
        """Whether the locked file is still the one in the folder: a previous holder may have removed it."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._path.lstat())
        except FileNotFoundError:
            return False

    def write(self, line: str) -> None:
        """Add a line to the lock file."""
        os.lseek(self._descriptor, 0, os.SEEK_END)
        os.write(self._descriptor, f"{line}\n".encode())

    def text(self) -> str:
        """Return the content of the lock file."""
        return os.pread(self._descriptor, 2**20, 0).decode(errors="replace")

    def release(self) -> None:
        """Let others hold the folder."""
        if self._holder is not None:
            self._holder.release()
        os.close(self._descriptor)


def require_not_held(folder: Path, *, shared: bool = False) -> None:
    """Raise the same errors as `Hold`, as far as they can be detected without writing.

    Raises
    ------
    Taken
        Another process holds the folder.
    OSError
        The lock file exists, but cannot be opened.
    """
    with suppress(FileNotFoundError):
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
        try:
            if not _is_locked(descriptor, shared=shared):
                for path in _holders(folder):
                    if not shared or path.name == HOLDER:
                        _require_stale(path, os.fstat(descriptor).st_mtime)
        finally:
            os.close(descriptor)


def _is_locked(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file; return False if the file system has no locks."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            raise Taken from None
        if error.errno not in _NO_LOCK:
            raise
        return False
    return True


def is_holder(name: str) -> bool:
    """Whether this is the name of a holder's file."""
    return re.fullmatch(rf"{HOLDER}(-[0-9a-f]{{16}})?", name) is not None


def _holders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob(f"{HOLDER}*")) if is_holder(path.name)]


class _Holder:
    """A file that names this process; a separate thread renews it as long as the folder is held.

    Each process that shares a folder has its own file.
    """

    def __init__(self, folder: Path, lock: Path, *, shared: bool) -> None:
        token = secrets.token_hex(8)
        self._path = folder / (f"{HOLDER}-{token}" if shared else HOLDER)
        self._said = json.dumps({**_this_process(), "token": token})
        while not self._is_created():
            _remove_stale(self._path, lock)
        try:
            for other in _holders(folder):
                is_ours = other == self._path or (shared and other.name != HOLDER)
                if not is_ours:
                    _remove_stale(other, lock)
        except BaseException:
            _remove(self._path, self._said)
            raise
        self._released = threading.Event()
        threading.Thread(target=self._renew, name="regime-holder", daemon=True).start()

    def _is_created(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as file:
            file.write(self._said)
        return True

    def _renew(self) -> None:
        while not self._released.wait(RENEWED_SECONDS):
            with suppress(OSError):
                os.utime(self._path)

    def release(self) -> None:
        self._released.set()
        with suppress(OSError):
            _remove(self._path, self._said)


def _remove_stale(path: Path, lock: Path) -> None:
    """Remove the file of a dead holder.

    Raises
    ------
    Taken
        The holder is alive.
    """
    # The clock of the file system, which may differ from that of this host.
    os.utime(lock)
    said = _require_stale(path, lock.stat().st_mtime)
    if said is not None:
        _remove(path, said)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Create a file, wait for its lock and hold it; continue without if the file system has no locks."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCK:
                raise
        yield
    finally:
        os.close(descriptor)


def _require_stale(path: Path, now: float) -> str | None:
    """Return the content of the file of a dead holder; None if the file no longer exists.

    Raises
    ------
    Taken
        The process of the holder is running, or is on another host and has recently renewed the file.
    """
    try:
        said, age = path.read_text(encoding="utf-8", errors="replace"), now - path.stat().st_mtime
    except FileNotFoundError:
        return None
    try:
        held = json.loads(said)
        where = {name: held[name] for name in ("host", "boot", "space")}
        process = int(held["process"]), held["started"]
    except (ValueError, TypeError, KeyError):
        # The file is being written, or was cut off.
        if age <= STALE_SECONDS:
            raise Taken("whose file is being written") from None
        return said
    if where == {name: _this_process()[name] for name in where}:
        is_stale = _started(process[0]) != process[1]
    else:
        is_stale = age > STALE_SECONDS
    if not is_stale:
        raise Taken(f"process {process[0]} on {where['host']}, since {held.get('time', 'an unknown time')}")
    return said


def _remove(path: Path, said: str) -> None:
    """Remove a holder's file if it has the expected content; if another process took it over, it keeps the file."""
    aside = path.with_name(f".regime-{secrets.token_hex(8)}.tmp")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if aside.read_text(encoding="utf-8", errors="replace") != said:
        with suppress(OSError):
            os.link(aside, path)
    aside.unlink()


def _this_process() -> dict[str, object]:
    """Return an identity that distinguishes this process from those of other hosts, boots and containers."""
    import datetime

    return {
        "host": socket.gethostname(),
        "boot": _said_by_system("/proc/sys/kernel/random/boot_id"),
        "space": _process_space(),
        "process": os.getpid(),
        "started": _started(os.getpid()),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _process_space() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _started(process: int) -> str | None:
    """Return the start time of a process in system ticks; empty if the system does not tell, None if it has ended."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    # The name of the program, in brackets, may hold anything.
    after = _said_by_system(f"/proc/{process}/stat").rpartition(")")[2].split()
    return after[19] if len(after) > 19 else ""


def _said_by_system(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
