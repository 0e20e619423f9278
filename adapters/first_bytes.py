"""Identifies files by their first bytes, independent of their names."""

import struct

ZIP = b"PK\3\4"
HDF5 = b"\x89HDF\r\n\x1a\n"
# Header of the first entry of a zip archive, according to PKWARE's APPNOTE.TXT; the name follows it.
_HEADER = struct.Struct("<4s5H3L2H")


def first_entry(start: bytes) -> str | None:
    """Return the name of the first entry of a zip archive, as far as `start` reaches; None for other files."""
    if not start.startswith(ZIP) or len(start) < _HEADER.size:
        return None
    length = _HEADER.unpack_from(start)[-2]
    return start[_HEADER.size : _HEADER.size + length].decode("utf-8", "replace")


def first_content(start: bytes) -> bytes:
    """Return the content of the first entry of a zip archive, as far as `start` reaches."""
    *_, name, extra = _HEADER.unpack_from(start)
    return start[_HEADER.size + name + extra :]
