"""Reads trajectory files, after checking that they are what the layout says."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from regime_proto.schema import layout
from regime_proto.schema.errors import TrajectoryError
from regime_proto.schema.header import Array, Header, Layer


@contextmanager
def open_checked(path: Path) -> Iterator[h5py.File]:
    """Open a trajectory file for reading.

    Raises
    ------
    TrajectoryError
        The file is missing, is not HDF5, or does not follow the layout.
    """
    if not path.is_file():
        found = "not a file; expected a trajectory" if path.exists() else "no such file or directory"
        raise TrajectoryError(f"{path}: {found}")
    if not h5py.is_hdf5(path):
        raise TrajectoryError(f"{path}: not an HDF5 file; expected a trajectory")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise TrajectoryError(f"{path}: a damaged HDF5 file ({error})") from None
    with file:
        check(file, path)
        yield file


def check(file: h5py.File, path: Path) -> None:
    """Compare version, variables, dimensions and steps with the layout.

    Raises
    ------
    TrajectoryError
        Names the first thing that is wrong.
    """
    version = file.attrs.get("regime_version")
    if not isinstance(version, str):
        raise TrajectoryError(f"{path}: an HDF5 file, but not a trajectory (no attribute regime_version)")
    if version.partition(".")[0] != layout.VERSION.partition(".")[0]:
        raise TrajectoryError(
            f"{path}: trajectory format {version}; this regime reads {layout.VERSION}: update regime-proto"
        )
    missing = [name for name in layout.REQUIRED_ATTRIBUTES if name not in file.attrs]
    if missing:
        raise TrajectoryError(f"{path}: attribute {missing[0]} is missing")
    lengths: dict[str, tuple[int, str]] = {}
    for variable in layout.variables(_metrics(file), sampled=_is_sampled(file)):
        _check_variable(file, variable, lengths, path)
    _check_steps(file, path)


def _check_variable(
    file: h5py.File, variable: layout.Variable, lengths: dict[str, tuple[int, str]], path: Path
) -> None:
    stored = file.get(variable.name)
    if not isinstance(stored, h5py.Dataset):
        raise TrajectoryError(f"{path}: variable {variable.name} is missing")
    if stored.ndim != len(variable.dims):
        raise TrajectoryError(
            f"{path}: variable {variable.name} has {stored.ndim} dimensions, expected {variable.dims}"
        )
    kinds = "O" if variable.dtype == "str" else {"i": "iu", "u": "iu", "f": "f"}[variable.dtype[0]]
    if stored.dtype.kind not in kinds:
        raise TrajectoryError(f"{path}: variable {variable.name} holds {stored.dtype}, expected {variable.dtype}")
    for name, length in zip(variable.dims, stored.shape, strict=True):
        expected, owner = lengths.setdefault(name, (length, variable.name))
        if length != expected:
            raise TrajectoryError(f"{path}: {variable.name} has {length} entries along {name}, {owner} has {expected}")


def _check_steps(file: h5py.File, path: Path) -> None:
    steps = file["step"][...]
    if not len(steps):
        raise TrajectoryError(f"{path}: no observation in the file")
    if np.any(np.diff(steps) <= 0):
        raise TrajectoryError(f"{path}: the steps do not increase strictly")


def _is_sampled(file: h5py.File) -> bool:
    return any(variable.name in file for variable in layout.SAMPLED)


def _metrics(file: h5py.File) -> tuple[str, ...]:
    """Return the original names of the metrics in the file."""
    names = [name for name in file if name.startswith(layout.METRIC_PREFIX)]
    return tuple(str(file[name].attrs.get("long_name", name)) for name in names)


def read_attributes(path: Path) -> dict[str, Any]:
    """Return the root attributes of a trajectory file."""
    with open_checked(path) as file:
        return dict(file.attrs)


def read_header(file: h5py.File) -> Header:
    """Return the part of an open trajectory that does not grow."""

    def strings(name: str) -> list[str]:
        return list(file[name].asstr()[...])

    thresholds = file["layer_threshold"][...]
    planes = file["layer_planes"][...]
    indices = None
    if _is_sampled(file):
        indices = tuple(row[row >= 0] for row in file["unit_index"][...])
    stored = [None] * len(planes) if indices is None else [len(row) for row in indices]
    layers = tuple(
        Layer(name, op, kind, module, int(size), tuple(row[:count].tolist()), width)
        for name, op, kind, module, size, row, count, width in zip(
            strings("layer"),
            strings("layer_op"),
            strings("layer_kind"),
            strings("layer_path"),
            file["layer_size"][...],
            thresholds,
            planes,
            stored,
            strict=True,
        )
    )
    return Header(
        tensors=dict(zip(strings("tensor"), file["tensor_size"][...].tolist(), strict=True)),
        layers=layers,
        samples=len(file[layout.SAMPLE]),
        attributes=dict(file.attrs),
        metrics=_metrics(file),
        layer_units=file["layer_units"][...],
        unit_index=indices,
    )


def read_rows(file: h5py.File, header: Header) -> dict[str, Array]:
    """Return the growing variables of an open trajectory, whole."""
    growing = (variable for variable in header.variables if variable.grows)
    return {variable.name: file[variable.name][...] for variable in growing}
