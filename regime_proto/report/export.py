"""Writes the curves of a result for other tools: a tidy CSV table, a JSON object, a netCDF-4 file."""

import csv
import io
import json
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, BinaryIO

import h5netcdf
import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from regime_proto.analyzer.derived import EACH, START
from regime_proto.analyzer.quantity_curves import labels_of
from regime_proto.analyzer.result import Result
from regime_proto.schema.kinds import CURVES_TITLE
from regime_proto.schema.layout import QUANTITY_PREFIX
from regime_proto.schema.text import csv_cell, printable

SERIES = {
    "weight": "weight change, mean over the parameters",
    "pattern": "pattern change, mean over the layers",
    "layer_pattern": "pattern change of the layer",
}
STAGES = {
    "change": "as measured",
    "smoothed": "smoothed",
    "normalised": "smoothed and scaled by its percentiles",
}
COLUMNS = ("step", "series", "layer", *STAGES)

_MEANINGS = {
    "step": "step at the end of the change",
    "layer": "gate node, in execution order",
    **{
        f"{series}_{stage}": f"{meaning}, {form}"
        for series, meaning in SERIES.items()
        for stage, form in STAGES.items()
    },
    "weight_distance": "distance of the weights from their initial values (L2)",
}

# Fields of a result that a netCDF attribute can hold.
_NUMBERS = (
    "rho", "auc_w", "auc_p", "rho_range", "preset", "observations", "step_kind", "stride", "window", "noise_floor",
    "late_pattern_change", "pattern_error", "trajectory",
)  # fmt: skip


def write_csv(result: Result, file: BinaryIO) -> None:
    """Write one row per series, step and layer (RFC 4180, in UTF-8, with LF at the end of a row).

    Series of the whole network have an empty layer; undefined values are empty. A quantity is a series under its own
    name, with its values in the column ``change`` and its tensors, layers or samples in the column ``layer``. Names
    that a spreadsheet would treat as a formula get a leading apostrophe.
    """
    writer = csv.writer(_Rows(file), lineterminator=_Rows.END)
    writer.writerow(COLUMNS)
    for series in SERIES:
        writer.writerows(_rows(result.curves, series))
    for name in result.quantities:
        writer.writerows(_quantity_rows(result.curves, name))


def write_json(result: Result, file: BinaryIO) -> None:
    """Write one object: the one from `Result.to_json`, and the curves by name, (step,) or (step, layer).

    Undefined values are null.
    """
    curves = {name: _plain(result.curves[name].to_numpy()) for name in _present(result.curves)}
    file.write(json.dumps({**result.to_json(), "curves": curves}, allow_nan=False).encode() + b"\n")


def write_netcdf(result: Result, file: BinaryIO) -> None:
    """Write a netCDF-4 file with the curves over ``step`` and ``layer``, and the numbers as attributes.

    Numbers that are None have no attribute.
    """
    # HDF5 crashes the process when a disk is full, so the file is built in memory.
    content = io.BytesIO()
    with h5netcdf.File(content, "w") as target:
        target.dimensions = dict(result.curves.sizes)
        for name, meaning in _present(result.curves).items():
            said = _quantity_attributes(result.curves[name]) if _is_quantity(name) else {}
            _create_variable(target, result.curves[name], {"long_name": meaning} | said)
        found = {name: getattr(result, name) for name in _NUMBERS}
        target.attrs["title"] = CURVES_TITLE
        target.attrs.update({name: _attribute(value) for name, value in found.items() if value is not None})
    file.write(content.getbuffer())


FORMATS: dict[str, Callable[[Result, BinaryIO], None]] = {
    "csv": write_csv,
    "netcdf": write_netcdf,
    "json": write_json,
}


def _present(curves: xr.Dataset) -> dict[str, str]:
    """Return the variables of a result with their meanings."""
    quantities = {str(name): str(curves[name].attrs["long_name"]) for name in curves.data_vars if _is_quantity(name)}
    meanings = _MEANINGS | ({"tensor": "trainable tensor"} if "tensor" in curves else {})
    return {name: meaning for name, meaning in meanings.items() if name in curves} | quantities


def _is_quantity(name: Hashable) -> bool:
    return str(name).startswith(QUANTITY_PREFIX)


def _quantity_attributes(curve: xr.DataArray) -> dict[str, Any]:
    """Return the attributes of a quantity's curve.

    ``reduction`` says how the values that the file holds at a step were reduced to those of the curve: ``mean over
    tensor``, for example; ``none`` if they were not, and ``see definition`` if the curve follows from the definition.
    ``start`` is the value at the first observation, if it is defined before the first change.
    """
    said, by = curve.attrs, [str(dim) for dim in curve.dims[1:]]
    reduction = _reduction(said, by)
    kept = {name: said[name] for name in ("units", "against", "definition") if said[name]}
    # The start is that of the reduced curve.
    if START in said and not by:
        kept[START] = said[START]
    words = [said["long_name"], *(f"by {dim}" for dim in by), *([reduction] if " over " in reduction else [])]
    return {"long_name": ", ".join(words), "reduction": reduction, **kept}


def _reduction(said: Mapping[str, Any], by: list[str]) -> str:
    over = [dim for dim in said["dims"].split() if dim not in by]
    if not over and (by or said["curve"]):
        return "none"
    return f"{said['curve']} over {' and '.join(over)}" if over and said["curve"] else "see definition"


class _Rows:
    """The output of the csv module.

    Before Python 3.13 it quotes a CR in a name only if rows end with one, so CRLF is made LF here.
    """

    END = "\r\n"

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        return self._file.write(row.removesuffix(self.END).encode() + b"\n")


def _rows(curves: xr.Dataset, series: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of one series, holding the lists of only one step in memory."""
    stages = np.stack([curves[f"{series}_{stage}"].to_numpy() for stage in STAGES], axis=-1)
    layers = curves["layer"].to_numpy() if stages.ndim == 3 else [""]
    for step, values in zip(curves["step"].to_numpy(), stages, strict=True):
        for layer, numbers in zip(layers, _plain(np.atleast_2d(values)), strict=True):
            yield (step, series, csv_cell(layer), *numbers)


def _quantity_rows(curves: xr.Dataset, name: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of one quantity, which is not smoothed."""
    variable = f"{QUANTITY_PREFIX}{name}"
    steps, empty = curves["step"].to_numpy(), ("",) * (len(STAGES) - 1)
    for step, value in zip(steps, _plain(curves[variable].to_numpy()), strict=True):
        yield (step, name, "", value, *empty)
    each = curves.get(f"{variable}{EACH}")
    if each is not None:
        labels = labels_of(curves, str(each.dims[1]))
        for step, values in zip(steps, each.to_numpy(), strict=True):
            for label, value in zip(labels, _plain(values), strict=True):
                yield (step, name, csv_cell(label), value, *empty)


def _plain(values: NDArray[Any]) -> list[Any]:
    """Return an array as lists, with None for undefined numbers."""
    plain = values.astype(object)
    if values.dtype.kind == "f":
        plain[~np.isfinite(values)] = None
    return list(plain.tolist())


def _attribute(value: Any) -> Any:
    """Return a value that HDF5 can hold; file names may not be valid text."""
    return printable(value) if isinstance(value, str) else value


def _create_variable(target: h5netcdf.File, values: xr.DataArray, attributes: Mapping[str, Any]) -> None:
    array = values.to_numpy()
    is_number = array.dtype.kind in "if"
    stored = array if is_number else array.astype(object)
    variable = target.create_variable(
        values.name, values.dims, dtype=stored.dtype if is_number else h5py.string_dtype(), data=stored
    )
    variable.attrs.update(
        ({"units": "1"} if is_number else {}) | {key: _attribute(value) for key, value in attributes.items()}
    )
