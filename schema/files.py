"""Files that appear whole or not at all."""

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from regime_proto.schema.errors import RegimeError
from regime_proto.schema.kinds import kind_of, require_kind

# The folder of segments of an unfinished trajectory has its name, and this.
SUFFIX = ".segments"


def segments_folder(output: Path) -> Path:
    """Return the folder that holds the segments of an unfinished `output`."""
    return output.parent / (output.name + SUFFIX)


def temporary_in(folder: Path) -> Path:
    """Return a name in `folder` that nobody can foresee, for a file that is not whole yet."""
    return folder / f".regime-{secrets.token_hex(8)}.tmp"


def is_temporary(name: str) -> bool:
    """Whether a name is one of `temporary_in`."""
    return re.fullmatch(r"\.regime-[0-9a-f]{16}\.tmp", name) is not None


def create_new(path: Path) -> BinaryIO:
    """Create a file and open it for writing; one that is there, or a link, is an error."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb")


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a file that is whole its name; one that it replaces leaves it its permissions."""
    with suppress(FileNotFoundError):
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            temporary.chmod(stat.S_IMODE(status.st_mode))
    temporary.replace(path)
    sync_folder(path.parent)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file for what is to be at `path`; a crash leaves either the old file or the new one.

    Raises
    ------
    OSError
        The file could not be written; the old one is untouched and nothing is left behind.
    """
    temporary = temporary_in(path.parent)
    try:
        with create_new(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        put_in_place(temporary, path)
    except OSError as error:
        # The other name says nothing to whoever reads this.
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` by `replacing`."""
    with replacing(path) as file:
        file.write(content)


def describe(error: Exception) -> str:
    """Return what went wrong with a file, without the internals that HDF5 adds."""
    text = " ".join(str(error).split())
    truncated = re.search(r"truncated file: eof = (\d+).*stored_eof = (\d+)", text)
    if truncated:
        found, whole = map(int, truncated.groups())
        return f"a truncated file, {found:,} of {whole:,} bytes"
    # HDF5's errors are no OSError where they come to light when a file is closed.
    inside = re.search(r"errno = (\d+)", text)
    number = getattr(error, "errno", None) or (int(inside[1]) if inside else None)
    if number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return f"the disk is full ({os.strerror(number)})"
    return os.strerror(number) if number else text[:200]


def files_to_place(contents: Mapping[Path, bytes], *, overwrite: bool) -> list[Path]:
    """Return those of several files that are not there as they are, after a look at whether they may be written.

    Raises
    ------
    RegimeError
        Something else is in the place of one, and may not be replaced; a file of another kind never is.
    """
    wanted = [path for path, content in contents.items() if not (path.is_file() and path.read_bytes() == content)]
    for path in wanted:
        require_kind(path, kind_of(contents[path]))
        if path.exists() and not (overwrite and path.is_file()):
            advice = "replace it with --overwrite" if path.is_file() else "choose another output"
            raise RegimeError(f"{path}: exists and differs; {advice}")
    return wanted


def place_files(contents: Mapping[Path, bytes], *, overwrite: bool) -> list[Path]:
    """Write several files, if all of them may be; return those that were not there as they are.

    Raises
    ------
    RegimeError
        Something else is in the place of one, and may not be replaced.
    """
    wanted = files_to_place(contents, overwrite=overwrite)
    for path in wanted:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, contents[path])
    return wanted


def require_writable(output: Path) -> None:
    """Raise an error if the system would not let `output` be written, as far as that shows beforehand.

    Raises
    ------
    RegimeError
        The folder, or the nearest one above it that is there, is none or may not be written to.
    """
    folder = next(folder for folder in output.absolute().parents if folder.exists())
    if not folder.is_dir():
        number = errno.ENOTDIR
    elif not os.access(folder, os.W_OK | os.X_OK):
        number = errno.EACCES
    else:
        return
    raise RegimeError(f"{output}: cannot be written ({os.strerror(number)}); choose another output")


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
