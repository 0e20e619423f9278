"""Opens checkpoint files: regular files only, and texts only of a credible size.

Opening a named pipe would wait for a writer, and a device has no end.
"""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from regime_proto.checkpoints.limits import DESCRIPTION_BYTES, DESCRIPTION_VALUES
from regime_proto.runtime.memory import available_bytes
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.limits import TooLarge

# Open a pipe or a device without waiting, only to recognise it as one.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
FOLDER = "a folder"
_KINDS = (
    (stat.S_ISDIR, FOLDER),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# A text smaller than this needs little memory, whatever it contains.
_SMALL = 2**21
# Free memory is queried only for files at least this large.
_MAY_FILL_MEMORY = 2**27


class NotAFile(RegimeError):
    """Something other than a regular file was found where a file is expected."""


def descriptor_of(path: Path) -> tuple[int, int]:
    """Open a regular file; return its descriptor, which the caller closes, and its size.

    Raises
    ------
    OSError
        It cannot be opened.
    NotAFile
        It is a pipe, a device, a socket or a folder, or a link to one.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        # A socket cannot even be opened.
        if error.errno != errno.ENXIO:
            raise
        raise _not_a_file(path, path.stat().st_mode) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise _not_a_file(path, status.st_mode)
    return descriptor, status.st_size


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading; see `descriptor_of` for what it raises."""
    return os.fdopen(descriptor_of(path)[0], "rb")


def require_file(path: Path) -> None:
    """Raise an error unless `path` is a regular file, before a library opens it by itself.

    Raises
    ------
    OSError
        It does not exist.
    NotAFile
        See `descriptor_of`.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise _not_a_file(path, mode)


def read_whole(path: Path) -> bytes:
    """Return the content of a regular file, which must fit into memory.

    Raises
    ------
    OSError, NotAFile
        See `descriptor_of`.
    TooLarge
        It does not fit.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MAY_FILL_MEMORY and size > available_bytes():
            raise TooLarge(
                f"{path}: the file has {size:,} bytes, but only {available_bytes():,} bytes of "
                "memory are free; free some memory"
            )
        return file.read()


def read_start(path: Path, most: int) -> bytes:
    """Return the first bytes of a regular file; see `descriptor_of` for what it raises."""
    with open_file(path) as file:
        return file.read(most)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises
    ------
    OSError, NotAFile
        See `descriptor_of`.
    TooLarge
        It is larger than the limits allow.
    ValueError, RecursionError
        It is not valid JSON.
    """
    with open_file(path) as file:
        DESCRIPTION_BYTES.hold(path, os.fstat(file.fileno()).st_size, "bytes of JSON")
        return parse_json(file.read(), path)


def parse_json(content: bytes, where: object) -> Any:
    """Return what a JSON text holds; see `read_json` for what it raises."""
    DESCRIPTION_BYTES.hold(where, len(content), "bytes of JSON")
    if len(content) > _SMALL:
        # Each value but the first follows one of these; those within strings are counted too.
        DESCRIPTION_VALUES.hold(where, sum(map(content.count, (b",", b":", b"[", b"{"))), "values in JSON")
    return json.loads(content)


def kind_of(path: Path) -> str | None:
    """Return in words what `path` is, such as a named pipe; None for a regular file, or if nothing exists."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    return None if stat.S_ISREG(mode) else _kind(mode)


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "a special file")


def _not_a_file(path: Path, mode: int) -> NotAFile:
    return NotAFile(f"{path}: {_kind(mode)}, expected a regular file; remove it, or put the file itself there")
