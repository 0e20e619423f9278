"""Opens zip archives and the NumPy arrays in them, if their unpacked size is credible."""

import bz2
import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from regime_proto.checkpoints.limits import ENTRIES, hold_inflation
from regime_proto.checkpoints.opening import open_file
from regime_proto.schema.types import Array

# The end of a zip archive (PKWARE APPNOTE.TXT, 4.3.14 to 4.3.16); a comment may follow it.
_END = struct.Struct("<4s4H2LH")
_LOCATOR_BYTES = 20
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LONGEST_COMMENT = 2**16
# A directory entry with its name; a shorter name needs less.
_ENTRY_BYTES = 100
# The length of the header before an entry; its last bytes hold the lengths of the two names after it.
_HEADER_BYTES, _NAMES_AT = 30, 26
# LZMA expands one byte to some 7,000 at most. APPNOTE.TXT, 5.8.8, says where the window size is
# stored.
_LZMA_AT_ONCE, _LZMA_WINDOW, _LARGEST_WINDOW = 4096, slice(5, 9), 2**27
_ENCRYPTED = 1
_ARRAY = ".npy"
# Version 3 is for field names, which plain numbers do not have.
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive.

    Raises
    ------
    OSError, NotAFile
        See `opening.open_file`.
    zipfile.BadZipFile, NotImplementedError
        It is not a zip archive, or it is damaged.
    TooLarge
        It has more entries than the limit allows.
    """
    with open_file(path) as file, opened_zip(file, path) as archive:
        yield archive


@contextmanager
def opened_zip(file: BinaryIO, where: object) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive from an open file, like `open_zip`; errors name `where`."""
    ENTRIES.hold(where, _directory_bytes(file) // _ENTRY_BYTES, "entries (estimated) in an archive")
    with zipfile.ZipFile(file) as archive:
        archive.filename = str(where)
        ENTRIES.hold(where, len(archive.filelist), "entries in an archive")
        yield archive


def hold_unpacked(archive: zipfile.ZipFile, where: object, size: int) -> None:
    """Raise `TooLarge` if an archive of `size` bytes unpacks to more than is credible."""
    hold_inflation(where, sum(info.file_size for info in archive.filelist), size)


def read_entry(archive: zipfile.ZipFile, name: str | zipfile.ZipInfo) -> bytes:
    """Return an entry of an archive.

    Raises
    ------
    KeyError
        There is no such entry.
    TooLarge
        It unpacks to more than is credible.
    ValueError, zipfile.BadZipFile, OSError
        It is damaged, locked, or compressed in an unusual way.
    """
    with _opened(archive, name) as file:
        content: bytes = file.read()
        return content


def read_arrays(path: Path, *, single: bool = False) -> dict[str, Array]:
    """Return the arrays of an ``.npz`` file, read-only.

    Parameters
    ----------
    path : Path
    single : bool
        Read the values of zero-dimensional arrays only; every other array is replaced by an empty
        one.

    Raises
    ------
    OSError, ValueError, KeyError, zipfile.BadZipFile, NotImplementedError
        It is damaged, or holds objects other than arrays.
    TooLarge
        It unpacks to more than is credible.
    """
    with open_zip(path) as archive:
        hold_unpacked(archive, path, path.stat().st_size)
        return {name.removesuffix(_ARRAY): read_array(archive, name, single=single) for name in archive.namelist()}


def read_array(archive: zipfile.ZipFile, name: str, *, single: bool = False) -> Array:
    """Return the array in an entry of an archive; see `read_arrays`."""
    with _opened(archive, name) as file:
        shape, in_columns, dtype = read_header(file)
        if single and shape != ():
            return np.empty(0)
        content = file.read()
        if len(content) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{len(content):,} bytes for an array {dtype}{list(shape)!r:.100}")
        return _array(content, shape, dtype, in_columns=in_columns)


def read_npy(path: Path) -> Array:
    """Return the array of an ``.npy`` file; see `read_arrays` for what it raises."""
    with open_file(path) as file:
        shape, in_columns, dtype = read_header(file)
        return _array(file.read(), shape, dtype, in_columns=in_columns)


def read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order (True for columns first) and dtype of an array in NumPy's format.

    Afterwards the file is positioned at the first value.

    Raises
    ------
    ValueError
        It is not an array, or an array of objects.
    """
    version = np.lib.format.read_magic(file)
    if version not in _READERS:
        raise ValueError(f"version {version[0]} of NumPy's format, expected 1 or 2")
    try:
        shape, in_columns, dtype = _READERS[version](file)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # NumPy parses the header as Python and raises Python's errors.
        raise ValueError(f"a damaged header ({type(error).__name__})") from None
    if dtype.hasobject:
        raise ValueError("an array of objects, which only a pickle could hold")
    return shape, in_columns, dtype


def _array(content: bytes, shape: tuple[int, ...], dtype: np.dtype[Any], *, in_columns: bool) -> Array:
    if min(shape, default=1) < 0 or len(content) < math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array {dtype}{list(shape)!r:.100} in {len(content):,} bytes")
    if not dtype.itemsize:
        return np.zeros(0, dtype).reshape(shape)
    array = np.frombuffer(content, dtype, math.prod(shape))
    return array.reshape(shape, order="F" if in_columns else "C")


@contextmanager
def _opened(archive: zipfile.ZipFile, name: str | zipfile.ZipInfo) -> Iterator[Any]:
    info = archive.getinfo(name) if isinstance(name, str) else name
    if info.flag_bits & _ENCRYPTED:
        raise ValueError(f"{info.filename!r:.100} is locked")
    size = 0 if archive.fp is None else archive.fp.seek(0, os.SEEK_END)
    hold_inflation(f"{archive.filename}: {info.filename!r:.100}", info.file_size, size)
    if info.compress_type in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield io.BytesIO(_unpacked(archive, info))
    else:
        with archive.open(info) as file:
            yield file


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return an entry whose compression allows any part to expand to any length.

    Raises
    ------
    ValueError, OSError, zipfile.BadZipFile
        It is damaged, or longer than the archive declares.
    """
    with archive.open(info) as file:
        packed = _packed(archive.fp, info)
        if info.compress_type == zipfile.ZIP_BZIP2:
            content = bz2.BZ2Decompressor().decompress(packed, info.file_size + 1)
            if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
                raise zipfile.BadZipFile(f"{info.filename!r:.100} is damaged")
            return content
        if int.from_bytes(packed[_LZMA_WINDOW], "little") > _LARGEST_WINDOW:
            raise ValueError(f"{info.filename!r:.100} needs more memory to unpack than the limit allows")
        part: Any = file
        return b"".join(iter(lambda: part.read1(_LZMA_AT_ONCE), b""))


def _packed(file: Any, info: zipfile.ZipInfo) -> bytes:
    file.seek(info.header_offset)
    header = file.read(_HEADER_BYTES)
    file.seek(sum(struct.unpack_from("<2H", header, _NAMES_AT)), os.SEEK_CUR)
    content: bytes = file.read(info.compress_size)
    return content


def _directory_bytes(file: BinaryIO) -> int:
    """Return the length of an archive's directory, each entry of which needs memory.

    Raises
    ------
    zipfile.BadZipFile
        There is no directory, or it is not at the declared offset, where other readers may find a
        different one.
    """
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - _END.size - _LONGEST_COMMENT)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + _END.size:
        raise zipfile.BadZipFile("its end is missing")
    length, first = _END.unpack_from(tail, at)[5:7]
    end = start + at
    # In archives beyond 4 GiB a second record holds the length, and it overrides the first.
    before = end - _END_64.size - _LOCATOR_BYTES
    file.seek(max(0, before))
    record = file.read(_END_64.size + _LOCATOR_BYTES)
    if before >= 0 and record[_END_64.size :].startswith(b"PK\6\7"):
        if not record.startswith(b"PK\6\6"):
            raise zipfile.BadZipFile("its directory is damaged")
        length, first = _END_64.unpack_from(record)[8:10]
        end = before
    if first + length != end:
        raise zipfile.BadZipFile("its directory is not at the declared offset")
    return int(length)
