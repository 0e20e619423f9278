"""Reads trajectory files, after making sure that they are what the format says."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from regime_proto.schema import layout
from regime_proto.schema.errors import RegimeWarning, TrajectoryError
from regime_proto.schema.files import describe
from regime_proto.schema.header import LAYER_VARIABLES, Array, Header, Layer, layers_in
from regime_proto.schema.validation import trust
from regime_proto.schema.validation.guard import inspect_apart, require_file
from regime_proto.schema.validation.rules import Problem, errors

# Values of a growing variable that are read at once, in bytes.
BLOCK_BYTES = 16 * 2**20


@contextmanager
def open_checked(path: Path) -> Iterator[h5py.File]:
    """Open a trajectory file for reading.

    A file that this machine has neither written nor checked before is looked at in a process of its own first.

    Parameters
    ----------
    path : Path

    Raises
    ------
    TrajectoryError
        The file is missing, is not HDF5, or does not follow the format; names the first rule that it breaks.

    Warns
    -----
    RegimeWarning
        The file can be read, but holds something that this version does not know.
    """
    require_file(path)
    if not trust.is_trusted(path):
        problems = inspect_apart(path, whole=False)
        require_sound(problems, path)
        for problem in problems:
            warnings.warn(f"{path}: {problem}", RegimeWarning, stacklevel=4)
    with _opened(path) as file:
        yield file


def require_sound(problems: list[Problem], path: Path) -> None:
    """Raise a `TrajectoryError` that names the first error among `problems`, if there is one."""
    wrong = errors(problems)
    if wrong:
        more = f", and {len(wrong) - 1} more: see regime validate" if len(wrong) > 1 else ""
        raise TrajectoryError(f"{path}: {wrong[0]}{more}")


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise TrajectoryError(f"{path}: a damaged HDF5 file ({describe(error)})") from None
    with file:
        yield file


def is_present(file: h5py.File, group: str) -> bool:
    """Whether a file holds a group of optional variables."""
    return all(variable.name in file for variable in layout.OPTIONAL if variable.group == group)


def existing_header(output: Path) -> Header | None:
    """Return the header of an output that is there already, None if there is none.

    Raises
    ------
    TrajectoryError
        The output is something else than a trajectory: nobody's file is replaced by mistake.
    """
    if not output.exists():
        return None
    try:
        with open_checked(output) as file:
            return read_header(file)
    except TrajectoryError as error:
        raise TrajectoryError(f"{error}; it is not replaced: choose another output with -o") from None


def read_header(file: h5py.File) -> Header:
    """Return the part of an open trajectory that does not grow."""
    return Header(
        tensors=dict(zip(_strings(file, "tensor"), file["tensor_size"][...].tolist(), strict=True)),
        layers=read_layers(file),
        samples=len(file[layout.SAMPLE]),
        attributes=dict(file.attrs),
        metrics=read_metrics(file),
        layer_units=file["layer_units"][...],
        unit_index=_unit_index(file),
        has_distance=is_present(file, layout.DISTANCE),
        embedded=read_embedded(file),
        extra=dict(file[layout.EXTRA].attrs) if layout.EXTRA in file else {},
    )


def read_layers(file: h5py.File) -> tuple[Layer, ...]:
    """Return the layers of an open trajectory."""
    stored = {name: file[name] for name in LAYER_VARIABLES if name in file}
    return layers_in(
        {
            name: (values.asstr() if h5py.check_string_dtype(values.dtype) else values)[...]
            for name, values in stored.items()
        }
    )


def _unit_index(file: h5py.File) -> tuple[Array, ...] | None:
    """Return the units of each layer that are stored; None where all are."""
    return tuple(row[row >= 0] for row in file["unit_index"][...]) if is_present(file, layout.SAMPLED) else None


def _strings(file: h5py.File, name: str) -> list[str]:
    return list(file[name].asstr()[...])


def read_metrics(file: h5py.File) -> tuple[str, ...]:
    """Return the names of the metrics in a file, as in its source."""
    return tuple(variable.meaning for variable in metric_variables(file))


def metric_variables(file: h5py.File) -> tuple[layout.Variable, ...]:
    """Return the metrics in a file, under the names that they have there."""
    return tuple(
        layout.Variable(name, (layout.STEP,), "f8", "1", _metric_name(file[name]))
        for name in file
        if name.startswith(layout.METRIC_PREFIX)
    )


def _metric_name(stored: h5py.Dataset) -> str:
    found = stored.attrs.get("long_name")
    return found if isinstance(found, str) else str(stored.name).rpartition("/")[2]


def read_embedded(file: h5py.File) -> dict[str, bytes]:
    """Return the files that an open trajectory carries, by the names of their variables."""
    return {name: file[name][...].tobytes() for name in layout.EMBEDDED if name in file}


def read_rows(file: h5py.File, header: Header, start: int = 0, stop: int | None = None) -> dict[str, Array]:
    """Return the growing variables of an open trajectory, from one observation to before another.

    Masks are those of the same observations, as far as they are stored.
    """
    steps = file[layout.STEP][start:stop]
    stored = np.searchsorted(file[layout.MASK_STEP][...], (steps[0], steps[-1] + 1)) if len(steps) else (0, 0)
    rows = {layout.STEP: slice(start, stop), layout.MASK_STEP: slice(*map(int, stored))}
    growing = (variable for variable in header.variables if variable.grows)
    return {variable.name: file[variable.name][rows[variable.dims[0]]] for variable in growing}


def row_blocks(stored: h5py.Dataset) -> Iterator[tuple[slice, Array]]:
    """Yield the rows of a growing variable, some megabytes at a time, along whole chunks where these are not larger.

    Parameters
    ----------
    stored : h5py.Dataset

    Yields
    ------
    slice, array
        Which rows, and their values.
    """
    row = int(np.prod(stored.shape[1:])) * stored.dtype.itemsize
    rows = max(1, BLOCK_BYTES // max(1, row))
    length = stored.chunks[0] if stored.chunks else 1
    if rows > length:
        rows -= rows % length
    for start in range(0, len(stored), rows):
        stop = min(start + rows, len(stored))
        yield slice(start, stop), stored[start:stop]
