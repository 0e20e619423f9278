"""Creates one trajectory file from others: joins segments, leaves masks out, or adds notes.

The functions `join`, `thin` and `note` run this module as a program, ``python -m regime_proto.schema.assemble
join|thin|note …``: HDF5 may crash a process when the disk is full, so a child does this work. Small segments are joined
in memory, without a child.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from regime_proto.schema import hdf5, layout
from regime_proto.schema.errors import TrajectoryError
from regime_proto.schema.files import create_new, describe, put_in_place, temporary_in
from regime_proto.schema.header import Header
from regime_proto.schema.notes import ORDER_DOUBT, Note
from regime_proto.schema.policy import MaskPolicy, parse_policy, policy_of
from regime_proto.schema.reader import open_checked, read_header, row_blocks
from regime_proto.schema.segments import AGREED, Segments, check_segments, open_segment, segment_paths
from regime_proto.schema.types import Array
from regime_proto.schema.validation import trust
from regime_proto.schema.validation.check import file_problems
from regime_proto.schema.validation.guard import inspect_apart, require_file, require_sound

_MODULE = "regime_proto.schema.assemble"
# Up to this size, segments are joined in the memory of this process: starting a child would take longer.
IN_MEMORY_BYTES = 64 * 2**20


def join(segments: Segments) -> None:
    """Join the segments of an unfinished trajectory into their output; the segments are kept.

    Raises
    ------
    TrajectoryError
        The output could not be written.
    """
    paths = segment_paths(segments.folder)
    check_segments(paths)
    if sum(path.stat().st_size for path in (*paths, *segments.carried())) > IN_MEMORY_BYTES:
        _in_child("join", segments.folder, segments.output, temporary_in(segments.folder))
        return
    try:
        _join_in_memory(segments)
    except (OSError, RuntimeError) as error:
        raise TrajectoryError(f"{segments.output}: could not be written: {describe(error)}") from None


def thin(source: Path, output: Path, policy: MaskPolicy) -> None:
    """Write a copy of a trajectory that holds the masks of fewer observations.

    Raises
    ------
    TrajectoryError
        The source is invalid or lacks masks that the policy keeps, or the output could not be written.
    """
    require_thinnable(source, policy)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrajectoryError(f"{output}: cannot be written ({error.strerror}); choose another output") from None
    _in_child("thin", source, output, temporary_in(output.parent), str(policy))


def require_thinnable(source: Path, policy: MaskPolicy) -> None:
    """Raise an error unless `thin` can write a copy of a trajectory with these masks.

    Raises
    ------
    TrajectoryError
        The source is invalid, or lacks masks that the policy keeps.
    """
    # A file that readers accept may still be invalid, but a file that is written must be valid.
    require_file(source)
    require_sound(inspect_apart(source, whole=True), source)
    with open_checked(source) as file:
        held = policy_of(file.attrs)
    if not held.holds(policy):
        raise TrajectoryError(f"{source}: its mask policy is {held}, which lacks masks that {policy} keeps")


def note(output: Path, notes: Mapping[str, Note], attributes: Mapping[str, float] | None = None) -> None:
    """Add notes and root attributes to a finished trajectory, or change them; a crash leaves the file as it was.

    Parameters
    ----------
    output : Path
    notes : mapping of str to str, int or float
        As `as_notes` returns them.
    attributes : mapping of str to float, optional
        Attributes of the format.

    Raises
    ------
    TrajectoryError
        Another process is writing the trajectory, or it could not be written.
    """
    with Segments(output) as segments:
        _in_child("note", output, output, temporary_in(segments.folder), json.dumps([notes, attributes or {}]))


def _in_child(task: str, source: Path, output: Path, temporary: Path, *more: str) -> None:
    """Let a child write `output`, under a temporary name until it is complete."""
    try:
        create_new(temporary).close()
        _run_child([task, str(source), str(output), str(temporary), *more], output)
    except OSError as error:
        raise TrajectoryError(f"{output}: could not be written: {describe(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _run_child(arguments: list[str], output: Path) -> None:
    child = subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", "-m", _MODULE, str(os.getpid()), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, said = child.communicate()
    except BaseException:
        # Interrupted: the child must not finish the output later.
        child.kill()
        child.wait()
        raise
    if child.returncode:
        # The output of a child that HDF5 crashed is not for users, but holds the error number.
        crashed = child.returncode < 0 or not said.strip()
        reason = describe(OSError(said or f"signal {-child.returncode}")) if crashed else said.strip().splitlines()[-1]
        raise TrajectoryError(f"{output}: could not be written: {reason}")


@dataclass(frozen=True)
class _Target:
    """A file to write.

    Parameters
    ----------
    output : Path
        Its name once it is complete.
    temporary : Path
        Its name until then; an empty file exists.
    parent : int
        The process that requested it.
    """

    output: Path
    temporary: Path
    parent: int


def _join_in_memory(segments: Segments) -> None:
    with h5py.File.in_memory(**hdf5.CREATE_OPTIONS) as target:
        _join(segments.folder, target)
        require_sound(file_problems(target, inflate=False), segments.output)
        content = hdf5.content(target)
    temporary = temporary_in(segments.folder)
    try:
        with create_new(temporary) as file:
            file.write(content)
            file.flush()
            _give_name(file, temporary, segments.output)
    finally:
        temporary.unlink(missing_ok=True)


def _join(folder: Path, target: h5py.File) -> None:
    """Write the rows of all segments into an empty file."""
    paths = segment_paths(folder)
    carried = (folder / name for name in layout.EMBEDDED)
    embedded = {path.name: path.read_bytes() for path in carried if path.is_file()}
    with open_segment(paths[-1], check=False) as last:
        header = read_header(last)
    attributes = {name: value for name, value in header.attributes.items() if name != "first_observation"}
    extra = {**header.extra, **(_first_doubt(paths) if (folder / AGREED).exists() else {})}
    hdf5.create(target, replace(header, attributes=attributes, embedded=embedded, extra=extra))
    growing = _growing(target, header)
    for path in paths:
        with open_segment(path, check=False) as segment:
            for name, rows in growing.items():
                if name in segment:
                    rows.add(segment[name], is_last=path == paths[-1])
                else:
                    # A metric that was added later.
                    rows.add(np.full(len(segment["step"]), np.nan))
    for rows in growing.values():
        rows.finish()


def _first_doubt(paths: Sequence[Path]) -> dict[str, object]:
    """Return the first doubt about the order of the checkpoints in the parts, each of which checked its own."""
    for path in paths:
        with open_segment(path, check=False) as segment:
            doubt = segment[layout.EXTRA].attrs.get(ORDER_DOUBT) if layout.EXTRA in segment else None
        if doubt:
            return {ORDER_DOUBT: doubt}
    return {}


def _thin(source: h5py.File, policy: MaskPolicy, target: h5py.File) -> None:
    """Write a trajectory into an empty file, with the masks that a policy keeps."""
    header = read_header(source)
    kept = np.isin(source["mask_step"][...], policy.chosen(source["step"][...]))
    # The group `extra` is copied unchanged.
    thinned = replace(header, extra={}).with_attributes(mask_policy=str(policy))
    hdf5.create(target, thinned)
    for name, rows in _growing(target, header).items():
        if name in ("mask_step", "mask"):
            for at, values in row_blocks(source[name]):
                rows.add(values[kept[at]])
        else:
            rows.add(source[name])
        rows.finish()
    if layout.EXTRA in source:
        source.copy(layout.EXTRA, target)


def _note(source: Path, notes: Mapping[str, Note], attributes: Mapping[str, float], temporary: Path) -> None:
    """Copy a trajectory and add notes and root attributes."""
    shutil.copyfile(source, temporary)
    with h5py.File(temporary, "r+", libver=hdf5.CREATE_OPTIONS["libver"]) as target:
        extra = target[layout.EXTRA] if layout.EXTRA in target else target.create_group(layout.EXTRA, track_order=True)
        extra.attrs.update(notes)
        target.attrs.update({name: np.float64(value) for name, value in attributes.items()})


def _place(made: _Target) -> None:
    """Validate a file and give it its name, unless the process that requested it has ended."""
    with h5py.File(made.temporary, "r") as written:
        # Its chunks are our own, or those of a file that was checked.
        require_sound(file_problems(written, inflate=False), made.temporary)
    with made.temporary.open("rb") as file:
        if os.getppid() != made.parent:
            # The parent was killed; the output may belong to another process by now.
            made.temporary.unlink()
            return
        _give_name(file, made.temporary, made.output)


def _give_name(file: BinaryIO, temporary: Path, output: Path) -> None:
    """Give a complete and valid file its name."""
    os.fsync(file.fileno())
    put_in_place(temporary, output)
    # The record is for this file, even if another one has its name by now.
    trust.record(output, trust.Record(trust.state_of(file.fileno())))


def _growing(target: h5py.File, header: Header) -> "dict[str, _Rows]":
    return {variable.name: _Rows(target[variable.name]) for variable in header.variables if variable.grows}


class _Rows:
    """The rows of a growing variable; a chunk is written as soon as it is full."""

    def __init__(self, target: h5py.Dataset) -> None:
        self._target = target
        self._waiting: list[Array] = []

    def add(self, piece: h5py.Dataset | Array, *, is_last: bool = False) -> None:
        """Add rows. If they begin at the start of a chunk and have the same chunk shape, chunks are copied unchanged.

        A chunk that is not full is copied too, if no rows follow.
        """
        if not isinstance(piece, h5py.Dataset):
            self._add_array(piece)
        elif self._waiting or piece.chunks != self._target.chunks:
            for _, values in row_blocks(piece):
                self._add_array(values)
        else:
            whole = len(piece) - (0 if is_last else len(piece) % self._target.chunks[0])
            _copy_chunks(piece, self._target, whole)
            if whole < len(piece):
                self._waiting = [piece[whole:]]

    def _add_array(self, values: Array) -> None:
        self._waiting.append(values)
        count, length = sum(map(len, self._waiting)), self._target.chunks[0]
        if count >= length:
            rows = np.concatenate(self._waiting)
            whole = count - count % length
            hdf5.append_rows(self._target, rows[:whole])
            self._waiting = [rows[whole:]] if whole < count else []

    def finish(self) -> None:
        """Write the remaining rows."""
        if self._waiting:
            hdf5.append_rows(self._target, np.concatenate(self._waiting))


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


def main(parent: str, task: str, source: str, output: str, temporary: str, *more: str) -> None:
    """Do the work of `join`, `thin` and `note` in this process."""
    made = _Target(Path(output), Path(temporary), int(parent))
    if task == "note":
        notes, attributes = json.loads(*more)
        _note(Path(source), notes, attributes, made.temporary)
    else:
        with h5py.File(made.temporary, "w", **hdf5.CREATE_OPTIONS) as target:
            if task == "join":
                _join(Path(source), target)
            else:
                with open_checked(Path(source)) as file:
                    _thin(file, parse_policy(*more), target)
    _place(made)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except TrajectoryError as error:
        sys.exit(str(error))
    except (OSError, RuntimeError) as error:
        # HDF5 raises both.
        sys.exit(describe(error))
