"""Stored chunks: their place in the file, and their inflated size.

HDF5 treats a chunk that inflates to too few bytes as complete, and reads whatever memory follows. A chunk that inflates
to too many bytes fills the memory first. So every chunk is inflated here before HDF5 reads it.
"""

import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from h5py import h5d, h5z

from regime_proto.schema.validation.rules import Problem

# Deflate expands one byte to at most 1,032: chunks below this size cannot inflate to more than 256 MiB.
MAX_TRUSTED_STORED_BYTES = 256 * 2**20 // 1032

_CHECKSUM_BYTES = 4
# The amount that is inflated at a time; it fits in the processor's cache.
_PIECE_BYTES = 2**18


@dataclass(frozen=True)
class Chunking:
    """How the chunks of a dataset are stored.

    Parameters
    ----------
    size : int
        The size of a chunk in bytes.
    step : tuple of int
        The shape of a chunk.
    filters : tuple of (int, int)
        Code and first parameter of each filter, in the order in which they are applied when a chunk is written.
    """

    size: int
    step: tuple[int, ...]
    filters: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, dataset: Any) -> "Chunking":
        """Return how a chunked dataset is stored."""
        properties = dataset.get_create_plist()
        found = (properties.get_filter(index) for index in range(properties.get_nfilters()))
        filters = tuple((int(code), int(values[0]) if values else 0) for code, _, values, _ in found)
        step = properties.get_chunk()
        return cls(math.prod(step) * dataset.get_type().get_size(), step, filters)

    def length(self, content: bytes, mask: int) -> int:
        """Return the inflated size of a stored chunk; -1 if it is damaged, more than `size` if it is a bomb.

        Parameters
        ----------
        content : bytes
        mask : int
            The filters that were left out for this chunk, as bits.
        """
        length = len(content)
        for number, (code, width) in reversed(list(enumerate(self.filters))):
            if mask >> number & 1:
                continue
            if code == h5z.FILTER_FLETCHER32:
                content, length = content[:-_CHECKSUM_BYTES], length - _CHECKSUM_BYTES
            elif code == h5z.FILTER_SHUFFLE:
                content = _unshuffled(content, width)
            elif code == h5z.FILTER_DEFLATE:
                # Filters that are applied before the compression do not change the length, except for a checksum.
                content, length = b"", inflated_length(content, self.size + _CHECKSUM_BYTES)
        return length


def inflated_length(content: bytes, limit: int) -> int:
    """Return the inflated size of a deflated chunk; -1 if it is damaged, ``limit + 1`` if it exceeds the limit."""
    inflater, length, waiting = zlib.decompressobj(), 0, content
    try:
        while not inflater.eof and length <= limit:
            piece = inflater.decompress(waiting, _PIECE_BYTES)
            waiting = inflater.unconsumed_tail
            length += len(piece)
            if not (piece or waiting):
                # The end is missing.
                return -1
    except zlib.error:
        return -1
    return min(length, limit + 1)


def _unshuffled(content: bytes, width: int) -> bytes:
    whole = len(content) // width * width if width > 1 else 0
    if not whole:
        return content
    return np.frombuffer(content, np.uint8, whole).reshape(width, -1).T.tobytes() + content[whole:]


def stored_problems(path: str, dataset: Any, file_size: int, *, inflate: bool) -> Iterator[Problem]:
    """Yield the problems of the stored chunks of a dataset.

    Parameters
    ----------
    path : str
        The path of the dataset.
    dataset : h5py.h5d.DatasetID
        A chunked dataset with known filters and the right number of chunks.
    file_size : int
    inflate : bool
        Inflate every chunk, not only those that could fill the memory.
    """
    chunking = Chunking.of(dataset)
    limit = chunking.size + chunking.size // 100 + 128
    grid = [-(-length // step) for length, step in zip(dataset.shape, chunking.step, strict=True)]
    seen = np.zeros(math.prod(grid), bool)
    suspects: list[Any] = []
    total = 0

    def look(chunk: Any) -> Any:
        nonlocal total
        total += chunk.size
        if chunk.size > limit or chunk.byte_offset is None or chunk.byte_offset + chunk.size > file_size:
            return chunk
        at = 0
        for offset, step, count in zip(chunk.chunk_offset, chunking.step, grid, strict=True):
            if offset % step or offset // step >= count:
                return chunk
            at = at * count + offset // step
        seen[at] = True
        if chunk.size > MAX_TRUSTED_STORED_BYTES or not chunking.filters:
            suspects.append(chunk)
        return None

    wrong = dataset.chunk_iter(look)
    if wrong is not None:
        found = f"{wrong.size:,} bytes at {wrong.byte_offset}"
        yield Problem("chunk-stored", path, f"at most {limit:,} bytes, inside the file of {file_size:,}", found)
    elif not seen.all():
        yield Problem("chunk-count", path, f"{len(seen):,} chunks, each once", f"{int(seen.sum()):,}")
    elif total > file_size:
        # This is possible only if chunks share their bytes.
        yield Problem("chunk-stored", path, f"chunks of at most {file_size:,} bytes together", f"{total:,}")
    else:
        offsets = (chunk.chunk_offset for chunk in suspects)
        yield from inflated_problems(path, dataset, every_offset(dataset, chunking) if inflate else offsets)


def every_offset(
    dataset: Any, chunking: Chunking, box: Sequence[tuple[int, int]] | None = None
) -> Iterator[tuple[int, ...]]:
    """Return the offsets of the chunks of a dataset, or only of those in a box, ``(start, stop)`` on each axis."""
    bounds = box or [(0, length) for length in dataset.shape]
    ranges = (
        range(start - start % step, stop, step) for (start, stop), step in zip(bounds, chunking.step, strict=True)
    )
    return itertools.product(*ranges)


def inflated_problems(path: str, dataset: Any, offsets: Iterator[tuple[int, ...]]) -> Iterator[Problem]:
    """Yield the first of these chunks that does not inflate to the right size."""
    chunking = Chunking.of(dataset)
    for offset in offsets:
        mask, content = dataset.read_direct_chunk(offset)
        length = chunking.length(content, mask)
        if length != chunking.size:
            found = {-1: "damaged data"}.get(length, f"{length:,}" if length < chunking.size else "more")
            yield Problem("chunk-inflated", path, f"{chunking.size:,} bytes", found)
            return


def inflated_bytes(dataset: h5d.DatasetID) -> int:
    """Return the total inflated size of all chunks of a dataset, in bytes; 0 if it has none."""
    if dataset.get_create_plist().get_layout() != h5d.CHUNKED:
        return 0
    return int(dataset.get_num_chunks()) * Chunking.of(dataset).size
