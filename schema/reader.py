"""Reads trajectory files, after checking that they follow the format."""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from regime_proto.schema import layout
from regime_proto.schema.errors import RegimeWarning, TrajectoryError
from regime_proto.schema.files import describe
from regime_proto.schema.header import LAYER_VARIABLES, Header, Layer, is_unicode, layers_in
from regime_proto.schema.types import Array
from regime_proto.schema.validation import trust
from regime_proto.schema.validation.guard import require_checked, require_file

# The size of the block of a growing variable that is read at once, in bytes.
BLOCK_BYTES = 16 * 2**20


@contextmanager
def open_checked(path: Path) -> Iterator[h5py.File]:
    """Open a trajectory file for reading.

    A file that this machine has neither written nor checked before is first checked in a separate process.

    Parameters
    ----------
    path : Path

    Raises
    ------
    TrajectoryError
        The file is missing, is not HDF5, or does not follow the format; the message names the first broken rule.

    Warns
    -----
    RegimeWarning
        The file can be read, but holds something unknown to this version.
    """
    known = checked(path)
    with open_known(path, known.state) as file:
        yield file


def checked(path: Path, known: trust.Record | None = None) -> trust.Record:
    """Return the record of a trajectory file that may be opened; errors and warnings as in `open_checked`.

    Parameters
    ----------
    path : Path
    known : trust.Record, optional
        The result of a check that has just been done.
    """
    require_file(path)
    known = known or require_checked(path)
    for problem in known.warnings:
        warnings.warn(f"{path}: {problem}", RegimeWarning, stacklevel=5)
    return known


def open_known(path: Path, state: str) -> h5py.File:
    """Open a checked file.

    Parameters
    ----------
    path : Path
    state : str
        The state of the file when it was checked, from `trust.state_of`.

    Raises
    ------
    TrajectoryError
        The file is damaged, or has been replaced or changed since then.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise TrajectoryError(f"{path}: a damaged HDF5 file ({describe(error)})") from None
    if trust.state_of(file.id.get_vfd_handle()) != state:
        file.close()
        raise TrajectoryError(f"{path}: changed since it was checked; run the command again when it no longer changes")
    return file


def is_present(file: h5py.File, group: str) -> bool:
    """Whether a file holds a group of optional variables."""
    return all(variable.name in file for variable in layout.OPTIONAL if variable.group == group)


def existing_header(output: Path) -> Header | None:
    """Return the header of an existing output, None if it does not exist.

    Raises
    ------
    TrajectoryError
        The output is not a trajectory: no other file is replaced by mistake.
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
        quantities=read_quantities(file),
        embedded=read_embedded(file),
        extra=read_extra(file),
    )


def read_extra(file: h5py.File) -> dict[str, object]:
    """Return what an open trajectory holds beyond the format: the attributes of its group ``extra``."""
    return dict(file[layout.EXTRA].attrs) if layout.EXTRA in file else {}


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
    """Return the stored units of each layer; None if all are stored."""
    return tuple(row[row >= 0] for row in file["unit_index"][...]) if is_present(file, layout.SAMPLED) else None


def _strings(file: h5py.File, name: str) -> list[str]:
    return list(file[name].asstr()[...])


def read_metrics(file: h5py.File) -> tuple[str, ...]:
    """Return the names of the metrics in a file, as in its source."""
    return tuple(variable.meaning for variable in metric_variables(file))


def metric_variables(file: h5py.File) -> tuple[layout.Variable, ...]:
    """Return the metrics in a file, under their names in the file.

    If the ``long_name`` of a metric is missing, is used twice or does not lead to the name of the variable, the metric
    has the name of the variable.
    """
    stored = [name for name in file if _is_metric(name)]
    own = [name.removeprefix(layout.METRIC_PREFIX) for name in stored]
    told = [_long_name(file[name], default) for name, default in zip(stored, own, strict=True)]
    repeated = {name for name, count in Counter(told).items() if count > 1}
    names = [default if name in repeated else name for name, default in zip(told, own, strict=True)]
    derived = [variable.name for variable in layout.metrics(names)]
    if derived != stored or len(set(names)) < len(names):
        # Only the names of the variables are certain to lead back to their variables.
        names = own
    return tuple(
        layout.Variable(name, (layout.STEP,), "f8", "1", metric) for name, metric in zip(stored, names, strict=True)
    )


def _is_metric(name: str) -> bool:
    own = name.removeprefix(layout.METRIC_PREFIX)
    return name.startswith(layout.METRIC_PREFIX) and bool(own) and layout.metric(own).name == name


def _long_name(stored: object, default: str) -> str:
    found = stored.attrs.get("long_name") if isinstance(stored, h5py.Dataset) else None
    return found if isinstance(found, str) and found and "\0" not in found and is_unicode(found) else default


def read_quantities(file: h5py.File) -> tuple[layout.Quantity, ...]:
    """Return the descriptions of the quantities in a file, in the order of their variables."""
    distance = (layout.WEIGHT_DISTANCE,) if is_present(file, layout.DISTANCE) else ()
    return (*distance, *(_quantity(file, name) for name in quantity_names(file)))


def quantity_names(file: h5py.File) -> list[str]:
    """Return the names of the variables that hold quantities; version 1.0 has none."""
    if str(file.attrs.get("regime_version")) == layout.PLAIN_VERSION:
        return []
    return [name for name in file if layout.is_quantity(name)]


def _quantity(file: h5py.File, name: str) -> layout.Quantity:
    """Return the description of a quantity in a file; unknown values of newer versions are replaced by known ones."""
    stored = file[name]
    against, curve = (_text(stored, key, "") for key in ("against", "curve"))
    return layout.Quantity(
        name.removeprefix(layout.QUANTITY_PREFIX),
        attached_dimensions(stored)[1:],
        unit=_text(stored, "units", "1"),
        meaning=_text(stored, "long_name", name),
        against=against if against in layout.AGAINST else "",
        definition=_text(stored, "definition", ""),
        curve=curve if curve in layout.CURVES else layout.CURVES[0],
    )


def _text(stored: h5py.Dataset, attribute: str, default: str) -> str:
    found = stored.attrs.get(attribute)
    return found if isinstance(found, str) else default


def attached_dimensions(stored: h5py.Dataset) -> tuple[str, ...]:
    """Return the names of the dimensions that a variable is attached to; an empty name for an axis without one."""
    lists = stored.attrs.get("DIMENSION_LIST")
    if lists is None:
        return tuple([""] * int(stored.ndim))
    names = (stored.file[references[0]].name if len(references) else "" for references in lists)
    return tuple(str(name).removeprefix("/") for name in names)


def read_embedded(file: h5py.File) -> dict[str, bytes]:
    """Return the files that an open trajectory carries, by the names of their variables."""
    return {name: file[name][...].tobytes() for name in layout.EMBEDDED if name in file}


def read_rows(file: h5py.File, header: Header, start: int = 0, stop: int | None = None) -> dict[str, Array]:
    """Return the growing variables of an open trajectory, for a range of observations.

    Masks are those of the same observations, if they are stored.
    """
    steps = file[layout.STEP][start:stop]
    stored = np.searchsorted(file[layout.MASK_STEP][...], (steps[0], steps[-1] + 1)) if len(steps) else (0, 0)
    rows = {layout.STEP: slice(start, stop), layout.MASK_STEP: slice(*map(int, stored))}
    growing = (variable for variable in header.variables if variable.grows)
    return {variable.name: file[variable.name][rows[variable.dims[0]]] for variable in growing}


def row_blocks(stored: h5py.Dataset, samples: slice | None = None) -> Iterator[tuple[slice, Array]]:
    """Yield the rows of a growing variable, a few megabytes at a time, in whole chunks unless these are larger.

    Parameters
    ----------
    stored : h5py.Dataset
    samples : slice, optional
        The samples to read, if the second axis is that of samples.

    Yields
    ------
    slice, array
        The range of the rows, and their values.
    """
    row = int(np.prod(stored.shape[1:])) * stored.dtype.itemsize
    rows = max(1, BLOCK_BYTES // max(1, row))
    length = stored.chunks[0] if stored.chunks else 1
    if rows > length:
        rows -= rows % length
    for start in range(0, len(stored), rows):
        stop = min(start + rows, len(stored))
        yield slice(start, stop), stored[start:stop] if samples is None else stored[start:stop, samples]
