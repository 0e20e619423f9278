"""Compresses chunks like the deflate filter of HDF5, and faster if the library isal is installed.

Every HDF5 reader can inflate both. Masks of a ResNet-18: isal 219 MB/s, to 0.322 of their size; zlib 79 MB/s, to 0.312.
"""

import zlib

try:
    from isal import isal_zlib
except ImportError:
    isal_zlib = None  # type: ignore[assignment]

LEVEL = 4
"""The level for zlib, and for data that HDF5 itself compresses."""

_ISAL_LEVEL = 3


def deflated(content: bytes) -> bytes:
    """Return a chunk as the deflate filter stores it; other threads run meanwhile."""
    return zlib.compress(content, LEVEL) if isal_zlib is None else isal_zlib.compress(content, _ISAL_LEVEL)
