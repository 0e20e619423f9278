"""Joins the segments of a trajectory into one file.

Run as a program, ``python -m regime_proto.schema.merge SEGMENTS OUTPUT``: HDF5 may crash a process whose
disk is full, so the writer gives this work to a child.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import h5py
from regime_proto.schema import hdf5
from regime_proto.schema.files import sync_folder
from regime_proto.schema.reader import check, read_header


def segment_paths(folder: Path) -> list[Path]:
    """Return the segments in `folder`, in order."""
    return sorted(folder.glob("[0-9]*.h5"))


def merge(segments: Sequence[Path], output: Path) -> None:
    """Copy the chunks of all segments, as they are, into `output`.

    Every segment but the last holds exactly one row of chunks, so no data is decompressed.
    """
    temporary = temporary_path(output, os.getpid())
    with h5py.File(segments[-1], "r") as last:
        header = read_header(last)
        total = hdf5.chunk_steps(header) * (len(segments) - 1) + len(last["step"])
    growing = [variable.name for variable in header.variables if variable.grows]
    with h5py.File(temporary, "w", **hdf5.CREATE_OPTIONS) as target:
        hdf5.create(target, header)
        for name in growing:
            target[name].resize(total, axis=0)
        for index, path in enumerate(segments):
            with h5py.File(path, "r") as segment:
                for name in growing:
                    _copy_chunks(segment[name], target[name], index * hdf5.chunk_steps(header))
    with h5py.File(temporary, "r") as written:
        check(written, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(output)
    sync_folder(output.parent)


def temporary_path(output: Path, process: int) -> Path:
    """Return the name under which process number `process` builds `output`."""
    return output.with_name(f".{output.name}.{process}.tmp")


def _copy_chunks(source: h5py.Dataset, target: h5py.Dataset, first_row: int) -> None:
    stored: list[tuple[int, ...]] = []
    source.id.chunk_iter(lambda chunk: stored.append(chunk.chunk_offset))
    for offset in stored:
        filter_mask, content = source.id.read_direct_chunk(offset)
        target.id.write_direct_chunk((offset[0] + first_row, *offset[1:]), content, filter_mask)


if __name__ == "__main__":
    merge(segment_paths(Path(sys.argv[1])), Path(sys.argv[2]))
