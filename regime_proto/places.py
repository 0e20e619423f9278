"""Where checkpoints lie: on this machine, or on another one that fsspec reaches.

A place is a `pathlib.Path`, or a `upath.UPath` with the same methods. Adapters see files of this machine only.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regime_proto.schema.errors import RegimeError

_INSTALL = 'pip install "regime-proto[remote]"'


def as_place(address: object) -> Path:
    """Return the place of an address: a path, or a URL such as ``s3://bucket/run``.

    Raises
    ------
    RegimeError
        What reads such URLs is not installed.
    """
    text = str(address)
    if not isinstance(address, str) or "://" not in text:
        return address if is_remote(address) else Path(text)  # type: ignore[return-value]
    try:
        from upath import UPath
    except ImportError:
        raise RegimeError(f"{text}: a directory of another machine: {_INSTALL}") from None
    try:
        place: Any = UPath(text)
        protocol = place.protocol
        if protocol in ("file", "local"):
            return Path(place.path)
        place.fs  # noqa: B018 - what the protocol needs is imported here
    except (ImportError, ValueError) as error:
        raise RegimeError(f"{text}: {' '.join(str(error).split())}") from None
    try:
        place.exists()
    except Exception as error:
        # Each file system has errors of its own: no network, no permission.
        raise RegimeError(f"{text}: cannot be reached ({_described(error)})") from None
    return place  # type: ignore[no-any-return]


def is_remote(place: object) -> bool:
    """Whether a place is one of another machine."""
    return not isinstance(place, Path) and hasattr(place, "fs")


@contextmanager
def on_disk(place: Path) -> Iterator[Path]:
    """Yield a file or folder of this machine that holds what is at `place`.

    What comes from elsewhere is removed afterwards; arrays that view it stay valid.

    Raises
    ------
    RegimeError
        It cannot be fetched. An error under way names `place` in place of the copy.
    """
    if not is_remote(place):
        yield place
        return
    folder = Path(tempfile.mkdtemp(prefix="regime-"))
    local = folder / place.name
    try:
        _fetch(place, local)
        yield local
    except RegimeError as error:
        raise type(error)(str(error).replace(str(local), str(place))) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch(place: Any, local: Path) -> None:
    try:
        place.fs.get(place.path, str(local), recursive=place.is_dir())
    except Exception as error:
        # Each file system has errors of its own.
        raise RegimeError(f"{place}: cannot be fetched ({_described(error)})") from None


def entries(folder: Path) -> list[Path]:
    """Return the files and folders in `folder` that are not hidden, by name.

    Raises
    ------
    RegimeError
        There is no such folder, or it cannot be listed.
    """
    if is_remote(folder):
        # What was listed before may be out of date: a run that is followed grows.
        folder.fs.invalidate_cache()  # type: ignore[attr-defined]
    try:
        return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)
    except OSError:
        raise
    except Exception as error:
        raise RegimeError(f"{folder}: cannot be listed ({_described(error)})") from None


def first_bytes(place: Path, count: int) -> bytes:
    """Return the first bytes of a file, no more than these are fetched; nothing of one that cannot be read."""
    try:
        if is_remote(place):
            return bytes(place.fs.cat_file(place.path, start=0, end=count))  # type: ignore[attr-defined]
        with place.open("rb", buffering=0) as file:
            return file.read(count)
    except Exception:
        # Each file system has errors of its own.
        return b""


def files_in(place: Path) -> list[Path]:
    """Return a file, or all files below a folder, in a fixed order."""
    if not place.is_dir():
        return [place]
    return sorted((path for path in place.rglob("*") if not path.is_dir()), key=str)


def size(place: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    return sum(path.stat().st_size for path in files_in(place))


def stamps(place: Path) -> list[list[Any]]:
    """Return what tells whether files have changed: name, size and time of each, or the tag that a store gives it."""
    return [[path.name, *_stamp(path)] for path in files_in(place)]


def _stamp(path: Any) -> list[Any]:
    if is_remote(path):
        return [path.stat().st_size, path.fs.ukey(path.path)]
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
