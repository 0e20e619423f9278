"""Writes the variables of `layout` to an HDF5 file that is also a valid netCDF-4 file."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import h5py
import numpy as np

from regime_proto.schema import compression, layout
from regime_proto.schema.compression import deflated
from regime_proto.schema.header import Header
from regime_proto.schema.types import Array

CREATE_OPTIONS = {"libver": ("earliest", "v110"), "track_order": True}

MAX_CHUNK_STEPS = 64
MAX_SEGMENT_BYTES = 32 * 2**20
MASK_CHUNK_BYTES = 32 * 2**10
EMBEDDED_CHUNK_BYTES = 2**20


def row_bytes(header: Header, dimension: str) -> int:
    """Return the uncompressed bytes of one entry along a growing dimension."""
    sizes = header.sizes
    return sum(
        np.dtype(variable.dtype).itemsize * int(np.prod([sizes[name] for name in variable.dims[1:]]))
        for variable in header.variables
        if variable.dims[0] == dimension
    )


def chunk_steps(header: Header) -> int:
    """Return the observations per chunk, which are also the observations per segment."""
    # Metrics may be added later, but the number of observations per segment stays the same.
    header = replace(header, metrics=())
    every = header.mask_policy.every
    masks = row_bytes(header, layout.MASK_STEP) // every if every else 0
    return _rows_of(row_bytes(header, layout.STEP) + masks)


def chunk_masks(header: Header) -> int:
    """Return the masks per chunk: those of a segment if all masks are kept, so that chunks are joined unchanged."""
    return chunk_steps(header) if header.mask_policy.every == 1 else _rows_of(row_bytes(header, layout.MASK_STEP))


def _rows_of(size: int) -> int:
    return min(MAX_CHUNK_STEPS, max(1, MAX_SEGMENT_BYTES // size))


def create(file: h5py.File, header: Header) -> None:
    """Write the fixed variables and attributes of `header`, and the growing variables with no rows."""
    sizes = header.sizes
    rows = {layout.STEP: chunk_steps(header), layout.MASK_STEP: chunk_masks(header)}
    fixed = header.arrays()
    variables = header.variables
    for variable in variables:
        if variable.grows:
            _create_growing(file, variable, sizes, rows[variable.dims[0]])
        else:
            _create_fixed(file, variable, fixed[variable.name])
        file[variable.name].attrs["long_name"] = variable.meaning
        if variable.unit:
            file[variable.name].attrs["units"] = variable.unit
    for quantity in header.quantities:
        file[quantity.variable.name].attrs.update(quantity.attributes)
    _attach_dimensions(file, sizes, variables)
    version = layout.version_for(header.quantities)
    for name, value in {**header.attributes, "regime_version": version}.items():
        file.attrs[name] = value
    if header.extra:
        extra = file.create_group(layout.EXTRA, track_order=True)
        for name, value in header.extra.items():
            extra.attrs[name] = value


def append_rows(stored: h5py.Dataset, values: Sequence[Array] | Array) -> None:
    """Append rows to a growing variable whose existing rows fill whole chunks."""
    first = len(stored)
    stored.resize(first + len(values), axis=0)
    if stored.name == "/mask":
        _write_compressed(stored, values, first)
    elif len(values):
        stored[first:] = np.asarray(values)


def _write_compressed(stored: h5py.Dataset, values: Sequence[Array] | Array, start_row: int) -> None:
    """Store the same bytes as HDF5, but compress outside of it: HDF5 stops all other threads meanwhile.

    Each chunk holds one sample; one sample is in memory at a time, in addition to the rows.
    """
    _, samples, bytes_ = stored.shape
    length, _, width = stored.chunks
    slab = np.zeros((length, -(-bytes_ // width) * width), stored.dtype)
    for first, sample in itertools.product(range(0, len(values), length), range(samples)):
        rows = values[first : first + length]
        # Chunks that extend beyond the end are stored whole.
        slab[len(rows) :] = 0
        for row, target in zip(rows, slab, strict=False):
            target[:bytes_] = row[sample]
        for start in range(0, slab.shape[1], width):
            chunk = slab[:, start : start + width].tobytes()
            offset = (start_row + first, sample, start)
            stored.id.write_direct_chunk(offset, deflated(chunk))


def _create_fixed(file: h5py.File, variable: layout.Variable, values: Array) -> None:
    dtype = h5py.string_dtype() if variable.dtype == "str" else variable.dtype
    options: dict[str, Any] = {}
    if variable.name in layout.EMBEDDED:
        options = {"chunks": (min(len(values), EMBEDDED_CHUNK_BYTES),), "compression": "gzip"}
    file.create_dataset(variable.name, data=values, dtype=dtype, track_order=True, **options)


def _create_growing(file: h5py.File, variable: layout.Variable, sizes: Mapping[str, int], rows: int) -> None:
    tail = tuple(sizes[name] for name in variable.dims[1:])
    chunks = [rows, *tail]
    if variable.name == "mask":
        chunks = [rows, 1, max(1, min(sizes[layout.BYTE], MASK_CHUNK_BYTES // rows))]
    while np.prod(chunks) * np.dtype(variable.dtype).itemsize > MAX_SEGMENT_BYTES:
        # A single observation may be larger than the largest chunk.
        chunks[chunks.index(max(chunks))] //= 2
    file.create_dataset(
        variable.name,
        shape=(0, *tail),
        maxshape=(None, *tail),
        chunks=tuple(chunks),
        dtype=variable.dtype,
        compression="gzip",
        compression_opts=compression.LEVEL,
        # Shuffling bytes helps wide numbers; packed bits have nothing to shuffle.
        shuffle=np.dtype(variable.dtype).itemsize > 1,
        track_order=True,
    )


def _attach_dimensions(file: h5py.File, sizes: Mapping[str, int], variables: Iterable[layout.Variable]) -> None:
    for name in layout.DIMENSIONS:
        if name not in sizes and name not in layout.GROWING:
            continue
        if name in layout.BY_NAME:
            file[name].make_scale(name)
        else:
            bare = file.create_dataset(name, shape=(sizes[name],), dtype=">f4", track_order=True)
            bare.make_scale(f"{layout.BARE_DIMENSION} {sizes[name]:10d}")
    for variable in variables:
        for axis, name in enumerate(variable.dims):
            if variable.name != name:
                file[variable.name].dims[axis].attach_scale(file[name])


def image(header: Header, rows: Mapping[str, Sequence[Array] | Array]) -> bytes:
    """Return a complete trajectory file, built in memory."""
    return filled(empty_image(header), rows)


def empty_image(header: Header) -> bytes:
    """Return a trajectory file without observations."""
    # HDF5 crashes the process when the disk is full; this cannot happen in memory.
    with h5py.File.in_memory(**CREATE_OPTIONS) as file:
        create(file, header)
        return content(file)


def filled(empty: bytes, rows: Mapping[str, Sequence[Array] | Array], **attributes: object) -> bytes:
    """Return the trajectory file `empty` with observations, and with new values for some root attributes."""
    with h5py.File.in_memory(empty, libver=CREATE_OPTIONS["libver"]) as file:
        for name, values in rows.items():
            append_rows(file[name], values)
        for name, value in attributes.items():
            file.attrs[name] = value
        return content(file)


def content(file: h5py.File) -> bytes:
    """Return the bytes of an in-memory file as they would be on disk."""
    file.flush()
    image: Any = file.id.get_file_image()
    return bytes(image)
