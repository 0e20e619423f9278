"""What a file is by its first bytes, whatever its name is."""

import struct

ZIP = b"PK\3\4"
HDF5 = b"\x89HDF\r\n\x1a\n"
# The header of a zip archive's first entry, by APPNOTE.TXT of PKWARE; the name follows it.
_HEADER = struct.Struct("<4s5H3L2H")


def first_entry(start: bytes) -> str | None:
    """Return the name of the first entry of a zip archive that begins so, cut where `start` ends; None of any other."""
    if not start.startswith(ZIP) or len(start) < _HEADER.size:
        return None
    length = _HEADER.unpack_from(start)[-2]
    return start[_HEADER.size : _HEADER.size + length].decode("utf-8", "replace")


def first_content(start: bytes) -> bytes:
    """Return how the first entry of a zip archive that begins so goes on behind its name, as far as `start` reaches."""
    *_, name, extra = _HEADER.unpack_from(start)
    return start[_HEADER.size + name + extra :]
