"""Files that appear complete or not at all."""

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

# The folder of segments has the name of the unfinished trajectory, followed by this suffix.
SUFFIX = ".segments"


def segments_folder(output: Path) -> Path:
    """Return the folder that holds the segments of an unfinished `output`."""
    return output.parent / (output.name + SUFFIX)


def temporary_in(folder: Path) -> Path:
    """Return an unpredictable name in `folder`, for a file that is not yet complete."""
    return folder / f".regime-{secrets.token_hex(8)}.tmp"


def is_temporary(name: str) -> bool:
    """Whether a name was created by `temporary_in`."""
    return re.fullmatch(r"\.regime-[0-9a-f]{16}\.tmp", name) is not None


def create_new(path: Path) -> BinaryIO:
    """Create a file and open it for writing; an existing file or link is an error."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb")


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a complete file its name; it keeps the permissions of a file that it replaces."""
    with suppress(FileNotFoundError):
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            temporary.chmod(stat.S_IMODE(status.st_mode))
    temporary.replace(path)
    sync_folder(path.parent)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file for the new content of `path`; a crash leaves either the old file or the new one.

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
        # The temporary name means nothing to the user.
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` through `replacing`."""
    with replacing(path) as file:
        file.write(content)


def describe(error: Exception) -> str:
    """Return what went wrong with a file, without the internals that HDF5 adds."""
    text = " ".join(str(error).split())
    truncated = re.search(r"truncated file: eof = (\d+).*stored_eof = (\d+)", text)
    if truncated:
        found, whole = map(int, truncated.groups())
        return f"a truncated file, {found:,} of {whole:,} bytes"
    # HDF5 errors that show up when a file is closed are not an OSError.
    inside = re.search(r"errno = (\d+)", text)
    number = getattr(error, "errno", None) or (int(inside[1]) if inside else None)
    if number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return f"the disk is full ({os.strerror(number)})"
    return os.strerror(number) if number else text[:200]


def files_to_place(contents: Mapping[Path, bytes], *, overwrite: bool) -> list[Path]:
    """Check that several files may be written; return those that do not yet exist with this content.

    Raises
    ------
    RegimeError
        A different file exists and may not be replaced; a file of a different kind never may.
    """
    wanted = [path for path, content in contents.items() if not (path.is_file() and path.read_bytes() == content)]
    for path in wanted:
        require_kind(path, kind_of(contents[path]))
        if path.exists() and not (overwrite and path.is_file()):
            advice = "replace it with --overwrite" if path.is_file() else "choose another output"
            raise RegimeError(f"{path}: exists and differs; {advice}")
    return wanted


def place_files(contents: Mapping[Path, bytes], *, overwrite: bool) -> list[Path]:
    """Write several files, if all of them may be written; return those that did not exist with this content.

    Raises
    ------
    RegimeError
        A different file exists and may not be replaced.
    """
    wanted = files_to_place(contents, overwrite=overwrite)
    for path in wanted:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, contents[path])
    return wanted


def require_writable(output: Path) -> None:
    """Raise an error if the system would not allow `output` to be written, as far as this can be seen in advance.

    Raises
    ------
    RegimeError
        The folder, or the nearest existing one above it, is not a folder or is not writable.
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
