"""Locations of checkpoints: this machine, a remote one that fsspec can reach, or the Hugging Face Hub.

A location is a `pathlib.Path`, a `upath.UPath` with the same methods, or a `hub.locations.HubPlace`
with some of them. Adapters see local files only.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regime_proto.checkpoints.hub.address import SCHEME, parse
from regime_proto.checkpoints.hub.client import require_client
from regime_proto.checkpoints.hub.downloads import Downloads, downloads_folder
from regime_proto.checkpoints.hub.locations import HubCheckpoint, HubPlace, HubRun
from regime_proto.checkpoints.opening import read_start
from regime_proto.schema.errors import RegimeError

_INSTALL = 'pip install "regime-proto[remote]"'


def as_place(address: object) -> Path:
    """Return the location of an address: a path, or a URL such as ``s3://bucket/run``.

    Raises
    ------
    RegimeError
        The library that reads such URLs is not installed.
    """
    text = str(address)
    if not isinstance(address, str) or "://" not in text:
        return address if is_remote(address) else Path(text)  # type: ignore[return-value]
    published = _published(text) if text.startswith(SCHEME) else None
    return _through_fsspec(text) if published is None else published  # type: ignore[return-value]


def _published(text: str) -> HubRun | None:
    """Return the sequence at an address of the Hub; None for a folder in one revision."""
    address = parse(text)
    if address is None:
        return None
    require_client(text)
    run = HubRun(address)
    # A single revision is an ordinary folder, perhaps of checkpoints.
    return None if "@" not in text and not address.is_family and not run.has_revisions() else run


def _through_fsspec(text: str) -> Path:
    try:
        from upath import UPath
    except ImportError:
        raise RegimeError(f"{text}: reading a remote directory needs more packages: {_INSTALL}") from None
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
        # Each file system raises its own errors: no network, no permission.
        raise RegimeError(f"{text}: cannot be reached ({_described(error)})") from None
    return place  # type: ignore[no-any-return]


def is_remote(place: object) -> bool:
    """Whether a location is remote."""
    return isinstance(place, HubPlace) or (not isinstance(place, Path) and hasattr(place, "fs"))


def is_published(place: object) -> bool:
    """Whether a location is a sequence on the Hugging Face Hub."""
    return isinstance(place, HubRun)


@contextmanager
def downloading(
    place: Path, output: Path, *, keep: bool = False, say: Callable[[str], None] | None = None
) -> Iterator[Path]:
    """Yield a location; checkpoints published on the Hub are fetched to a folder next to an output.

    They are removed at the end; after an error they stay, so that the work can be resumed.

    Parameters
    ----------
    place : Path
    output : Path
        The trajectory to be created from them.
    keep : bool
        Whether they stay there after a success too.
    say : callable, optional
        Called with a line before each download.
    """
    if not isinstance(place, HubRun):
        yield place
        return
    downloads = Downloads(place.downloads.hub, downloads_folder(output), keep, say)
    try:
        yield place.downloading_to(downloads)  # type: ignore[misc]
    except BaseException:
        downloads.stop()
        raise
    downloads.clear()


@contextmanager
def on_disk(place: Path, *, values: bool = True) -> Iterator[Path]:
    """Yield a local file or folder with the contents of `place`.

    A downloaded copy is removed afterwards, or when it is released; arrays that view it stay valid.

    Parameters
    ----------
    place : Path
    values : bool
        Whether tensor values are needed; if not, they may be zeros, where that saves a download.

    Raises
    ------
    RegimeError
        It cannot be fetched. Errors raised meanwhile name `place` instead of the copy.
    """
    if not is_remote(place):
        yield place
        return
    copy = place.copied(values=values) if isinstance(place, HubCheckpoint) else _copied(place)
    with copy as local:
        try:
            yield local
        except RegimeError as error:
            raise type(error)(str(error).replace(str(local), str(place))) from None


@contextmanager
def _copied(place: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="regime-"))
    local = folder / place.name
    try:
        _fetch(place, local)
        yield local
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch(place: Any, local: Path) -> None:
    try:
        place.fs.get(place.path, str(local), recursive=place.is_dir())
    except Exception as error:
        # Each file system raises its own errors.
        raise RegimeError(f"{place}: cannot be fetched ({_described(error)})") from None


def entries(folder: Path) -> list[Path]:
    """Return the files and folders in `folder` that are not hidden, by name.

    Raises
    ------
    RegimeError
        There is no such folder, or it cannot be listed.
    """
    if is_remote(folder):
        # An earlier listing may be out of date: a followed run grows.
        folder.fs.invalidate_cache()  # type: ignore[attr-defined]
    try:
        return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)
    except OSError:
        raise
    except Exception as error:
        raise RegimeError(f"{folder}: cannot be listed ({_described(error)})") from None


def first_bytes(place: Path, count: int) -> bytes:
    """Return the first bytes of a file, fetching no more than these; empty if it cannot be read."""
    try:
        if is_remote(place):
            return bytes(place.fs.cat_file(place.path, start=0, end=count))  # type: ignore[attr-defined]
        return read_start(place, count)
    except Exception:
        # Each file system raises its own errors.
        return b""


def files_in(place: Path) -> list[Path]:
    """Return a file, or all files below a folder, in a fixed order."""
    if not place.is_dir():
        return [place]
    return sorted((path for path in place.rglob("*") if not path.is_dir()), key=str)


def size(place: Path) -> int:
    """Return the bytes of a file, or of all files below a folder; for a Hub checkpoint, of the files to fetch."""
    if isinstance(place, HubCheckpoint):
        return place.size()
    return sum(path.stat().st_size for path in files_in(place))


def stamps(place: Path) -> list[list[Any]]:
    """Return data that shows whether files have changed: name, size and time of each, or the tag set by the store.

    A Hub checkpoint is identified by its commit.
    """
    if isinstance(place, HubCheckpoint):
        return place.stamps()
    return [[path.name, *_stamp(path)] for path in files_in(place)]


def _stamp(path: Any) -> list[Any]:
    if is_remote(path):
        return [path.stat().st_size, path.fs.ukey(path.path)]
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
