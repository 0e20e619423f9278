"""Makes one trajectory file out of others: joins segments, or leaves masks out.

Run as a program, ``python -m regime_proto.schema.assemble join|thin …``, by `join` and `thin`: HDF5 may crash a process
whose disk is full, so this work is given to a child.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from regime_proto.schema import hdf5, layout
from regime_proto.schema.errors import TrajectoryError
from regime_proto.schema.files import sync_folder
from regime_proto.schema.header import Array, Header
from regime_proto.schema.policy import MaskPolicy, parse_policy
from regime_proto.schema.reader import open_checked, read_header, require_sound, row_blocks
from regime_proto.schema.segments import Segments, open_segment, segment_paths
from regime_proto.schema.validation import trust
from regime_proto.schema.validation.check import file_problems

_MODULE = "regime_proto.schema.assemble"


def join(segments: Segments) -> None:
    """Join the segments of an unfinished trajectory into their output; they are kept.

    Raises
    ------
    TrajectoryError
        The output could not be written.
    """
    _in_child(["join", *map(str, (segments.folder, segments.output))], segments.output)


def thin(source: Path, output: Path, policy: MaskPolicy) -> None:
    """Write a copy of a trajectory that holds the masks of fewer observations.

    Raises
    ------
    TrajectoryError
        The source cannot be read, lacks masks that the policy keeps, or the output could not be written.
    """
    with open_checked(source) as file:
        held = read_header(file).mask_policy
    if not held.holds(policy):
        raise TrajectoryError(f"{source}: holds masks by the policy {held}, which lacks some that {policy} keeps")
    _in_child(["thin", str(source), str(output), str(policy)], output)


def _in_child(arguments: list[str], output: Path) -> None:
    child = subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", "-m", _MODULE, str(os.getpid()), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    _, said = child.communicate()
    if child.returncode:
        _temporary(output, child.pid).unlink(missing_ok=True)
        reason = said.strip().splitlines()[-1] if said.strip() else f"signal {-child.returncode}"
        raise TrajectoryError(f"{output}: could not be written ({reason})")
    trust.record(output)


def _temporary(output: Path, process: int) -> Path:
    return output.with_name(f".{output.name}.{process}.tmp")


def _join(folder: Path, output: Path, parent: int) -> None:
    paths = segment_paths(folder)
    carried = (folder / name for name in (layout.PROGRAM, layout.PROBE))
    embedded = {path.name: path.read_bytes() for path in carried if path.is_file()}
    with open_segment(paths[-1]) as last:
        header = read_header(last)
    attributes = {name: value for name, value in header.attributes.items() if name != "first_observation"}
    header = replace(header, attributes=attributes, embedded=embedded)

    def parts(name: str) -> Iterator[h5py.Dataset]:
        for path in paths:
            with h5py.File(path, "r") as segment:
                yield segment[name]

    _write(header, {name: parts(name) for name in _growing(header)}, output, parent)


def _thin(source: h5py.File, policy: MaskPolicy, output: Path, parent: int) -> None:
    header = read_header(source)
    kept = np.isin(source["mask_step"][...], policy.chosen(source["step"][...]))
    parts: dict[str, Iterable[h5py.Dataset | Array]] = {name: [source[name]] for name in _growing(header)}
    for name in ("mask_step", "mask"):
        parts[name] = (values[kept[rows]] for rows, values in row_blocks(source[name]))
    extra = source.get(layout.EXTRA)
    _write(header.with_attributes(mask_policy=str(policy)), parts, output, parent, extra)


def _growing(header: Header) -> list[str]:
    return [variable.name for variable in header.variables if variable.grows]


def _write(
    header: Header,
    parts: Mapping[str, Iterable[h5py.Dataset | Array]],
    output: Path,
    parent: int,
    extra: h5py.Group | None = None,
) -> None:
    """Write a trajectory beside `output`, hold it against the format, and put it in its place."""
    temporary = _temporary(output, os.getpid())
    with h5py.File(temporary, "w", **hdf5.CREATE_OPTIONS) as target:
        hdf5.create(target, header)
        for name, pieces in parts.items():
            _append(target[name], pieces)
        if extra is not None:
            extra.file.copy(extra, target, layout.EXTRA)
    with h5py.File(temporary, "r") as written:
        require_sound(file_problems(written, whole=False), temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    if os.getppid() != parent:
        # Whoever asked for it was killed; what stands there now may be another's.
        temporary.unlink()
        return
    temporary.replace(output)
    sync_folder(output.parent)


def _append(target: h5py.Dataset, pieces: Iterable[h5py.Dataset | Array]) -> None:
    """Append rows. Where a piece begins a chunk and its own chunks are alike, these are copied as they are."""
    length = target.chunks[0]
    waiting: list[Array] = []
    for piece in pieces:
        if isinstance(piece, h5py.Dataset) and not waiting and piece.chunks == target.chunks:
            whole = len(piece) - len(piece) % length
            _copy_chunks(piece, target, whole)
            waiting = [piece[whole:]] if whole < len(piece) else []
            continue
        blocks = (values for _, values in row_blocks(piece)) if isinstance(piece, h5py.Dataset) else [piece]
        for block in blocks:
            waiting.append(block)
            if sum(map(len, waiting)) >= length:
                rows = np.concatenate(waiting)
                whole = len(rows) - len(rows) % length
                hdf5.append_rows(target, rows[:whole])
                waiting = [rows[whole:]] if whole < len(rows) else []
    if waiting:
        hdf5.append_rows(target, np.concatenate(waiting))


def _copy_chunks(source: h5py.Dataset, target: h5py.Dataset, rows: int) -> None:
    """Append the first `rows` of `source`, whole chunks, without inflating them."""
    first = len(target)
    target.resize(first + rows, axis=0)
    stored: list[tuple[int, ...]] = []
    source.id.chunk_iter(lambda chunk: stored.append(chunk.chunk_offset))
    for offset in stored:
        if offset[0] < rows:
            filter_mask, content = source.id.read_direct_chunk(offset)
            target.id.write_direct_chunk((offset[0] + first, *offset[1:]), content, filter_mask)


def main(parent: str, task: str, source: str, output: str, *policy: str) -> None:
    """Do what `join` and `thin` ask for, in this process."""
    if task == "join":
        _join(Path(source), Path(output), int(parent))
    else:
        with open_checked(Path(source)) as file:
            _thin(file, parse_policy(*policy), Path(output), int(parent))


if __name__ == "__main__":
    main(*sys.argv[1:])
