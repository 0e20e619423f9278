"""Finishes an interrupted run: joins its segments into the trajectory that they belong to."""

from dataclasses import dataclass
from pathlib import Path

import h5py

from regime_proto.schema.assemble import join
from regime_proto.schema.errors import TrajectoryError
from regime_proto.schema.files import SUFFIX, segments_folder
from regime_proto.schema.nearest import did_you_mean_path
from regime_proto.schema.reader import existing_header, open_checked
from regime_proto.schema.segments import Segments, kept_observations, open_segment, ordered_segments, require_free
from regime_proto.schema.shards import require_all_parts


@dataclass(frozen=True)
class Finished:
    """A finished trajectory.

    Parameters
    ----------
    path : Path
    observations : int
    joined : bool
        False if there was nothing to do.
    planned : int, optional
        The number of observations that the run would have; None if the file does not state it.
    """

    path: Path
    observations: int
    joined: bool
    planned: int | None = None


def finish(path: Path, *, overwrite: bool = False) -> Finished:
    """Join the segments of an interrupted run; a second call changes nothing.

    Parameters
    ----------
    path : Path
        The folder of segments, or the trajectory that it belongs to.
    overwrite : bool
        Replace a trajectory of another run.

    Raises
    ------
    TrajectoryError
        There is nothing to join, a segment or a part is missing or damaged, the output belongs to another run, or it
        could not be written.
    """
    path, output = _named(path)
    if not path.name or not segments_folder(output).is_dir():
        return _already(path, output)
    with Segments(output) as segments:
        require_all_parts(segments.folder)
        paths = ordered_segments(segments.folder)
        if not paths:
            segments.clear()
            return _already(path, output)
        needed = _is_needed(output, paths, overwrite=overwrite)
        if needed:
            segments.clear_leftovers()
            join(segments)
        segments.clear()
    return _finished(output, joined=needed)


def foresee(path: Path, *, overwrite: bool = False) -> Finished:
    """Return or raise the same as `finish`, but do nothing.

    Raises
    ------
    RegimeError
        As in `finish`.
    """
    path, output = _named(path)
    if path.name:
        require_all_parts(segments_folder(output))
    paths = ordered_segments(segments_folder(output)) if path.name else []
    if not paths:
        return _already(path, output)
    require_free(output)
    if not _is_needed(output, paths, overwrite=overwrite):
        return _finished(output, joined=False)
    with open_segment(paths[-1]) as last:
        planned = _planned(last)
    return Finished(output, kept_observations(output), joined=True, planned=planned)


def _named(path: Path) -> tuple[Path, Path]:
    """Return the path with a name, and the trajectory that it or its folder of segments belongs to."""
    # "." may be such a folder.
    path = path if path.name not in ("", "..") else path.resolve()
    return path, path.parent / path.name.removesuffix(SUFFIX)


def _is_needed(output: Path, paths: list[Path], *, overwrite: bool) -> bool:
    """Whether the segments hold more than their output."""
    with open_segment(paths[-1]) as last:
        run, steps = str(last.attrs["run_id"]), last["step"][...]
    if overwrite:
        # Only a trajectory is ever replaced.
        existing_header(output)
        return True
    return not output.exists() or _lacks(output, run, int(steps[-1]))


def _already(path: Path, output: Path) -> Finished:
    if not output.is_file():
        raise TrajectoryError(
            f"{path}: no segments found; expected the folder NAME.h5{SUFFIX} of an interrupted run, or NAME.h5"
            f"{did_you_mean_path(path)}"
        )
    return _finished(output, joined=False)


def _finished(output: Path, *, joined: bool) -> Finished:
    with open_checked(output) as file:
        return Finished(output, len(file["step"]), joined, _planned(file))


def _planned(file: h5py.File) -> int | None:
    found = file.attrs.get("planned_observations")
    return None if found is None else int(found)


def _lacks(output: Path, run: str, step: int) -> bool:
    """Whether a trajectory ends before `step`: a kill during the deletion leaves segments that are already joined.

    Raises
    ------
    TrajectoryError
        It belongs to another run.
    """
    with open_checked(output) as file:
        found, last = str(file.attrs["run_id"]), int(file["step"][-1])
    if found != run:
        raise TrajectoryError(
            f"{output}: exists and belongs to another run (run_id {found}; that of the segments is {run}); move it "
            "away, or replace it with --overwrite"
        )
    return last < step
