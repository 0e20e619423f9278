"""Checks version, attributes, variables and dimensions of a file against the table in `layout`."""

import datetime
import re
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
from h5py import h5r

from regime_proto.schema import layout
from regime_proto.schema.reader import attached_dimensions, metric_variables, quantity_names
from regime_proto.schema.validation.rules import Problem
from regime_proto.schema.validation.structure import address_of, text_of

_KINDS = {"f8": "fiu", "i8": "iu"}
_TYPE_NAMES = {"str": "string of variable length", "f8": "number", "i8": "integer"}
# Attributes that netCDF libraries write for themselves.
_OTHERS_ATTRIBUTES = {"_NCProperties", "_nc3_strict"}


def contents_problems(file: h5py.File) -> Iterator[Problem]:
    """Yield the problems of names, types and lengths in a file whose structure is valid."""
    version = list(_version_problems(file))
    yield from version
    if any(problem.rule != "version-minor" for problem in version):
        return
    yield from _attribute_problems(file)
    present = _present(file)
    yield from _variable_problems(file, present)
    yield from _length_problems(file, present)
    yield from _unknown_names(file, present)


def _version_problems(file: h5py.File) -> Iterator[Problem]:
    where = "/@regime_version"
    found = file.attrs.get("regime_version")
    match = re.fullmatch(r"([0-9]{1,6})\.([0-9]{1,6})", found) if isinstance(found, str) else None
    if match is None:
        what = "none: an HDF5 file, but not a trajectory" if found is None else repr(found)
        yield Problem("version-present", where, f"a version such as {layout.VERSION}", what)
        return
    major, minor = map(int, match.groups())
    our_major, our_minor = map(int, layout.VERSION.split("."))
    if major != our_major:
        yield Problem("version-major", where, f"format {our_major}.x; use a regime-proto for that format", str(found))
    elif minor > our_minor:
        yield Problem("version-minor", where, f"format {layout.VERSION} or older", f"{found}: new names are not read")


def _attribute_problems(file: h5py.File) -> Iterator[Problem]:
    for attribute in layout.ATTRIBUTES:
        where = f"/@{attribute.name}"
        if attribute.name not in file.attrs:
            if attribute.required:
                yield Problem("attribute-present", where, "a value", "none")
            continue
        value = file.attrs[attribute.name]
        array = np.asarray(value)
        if isinstance(value, h5py.Empty) or array.shape != () or not _is_of(attribute.dtype, value):
            yield Problem("attribute-type", where, f"a single {_TYPE_NAMES[attribute.dtype]}", _shown(value))
        elif attribute.choices and value not in attribute.choices:
            yield Problem("attribute-choice", where, " or ".join(attribute.choices), _shown(value))
        elif attribute.name == layout.FIRST_OBSERVATION and value < 0:
            yield Problem("attribute-type", where, "a number of at least 0", _shown(value))
        elif attribute.name == "created" and not _is_time(value):
            yield Problem("attribute-time", where, "a time such as 2026-01-31T12:00:00+00:00", _shown(value))


def _is_of(dtype: str, value: Any) -> bool:
    if dtype == "str":
        return isinstance(value, str)
    return not isinstance(value, str | bytes) and np.asarray(value).dtype.kind in _KINDS[dtype]


def _is_time(text: str) -> bool:
    try:
        return datetime.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _shown(value: Any) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) < 60 else text[:57] + "…"


def _present(file: h5py.File) -> tuple[layout.Variable, ...]:
    """Return the variables of the table that the file must have: required ones, and all of each group that it uses."""
    groups = {variable.group for variable in layout.OPTIONAL if variable.name in file}
    quantities = (_quantity_variable(file[name]) for name in quantity_names(file) if _is_variable(file, name))
    return (*layout.variables(groups=groups), *metric_variables(file), *quantities)


def _is_variable(file: h5py.File, name: str) -> bool:
    return isinstance(file.get(name), h5py.Dataset)


def _quantity_variable(stored: h5py.Dataset) -> layout.Variable:
    """Return a quantity as a variable of the table, with the dimensions and the unit that it declares."""
    found = attached_dimensions(stored)
    dims = found if found[:1] == (layout.STEP,) and found[1:] in layout.QUANTITY_DIMENSIONS else (layout.STEP,)
    name = stored.name.removeprefix("/")
    unit, meaning = (_text(stored.attrs.get(key)) for key in ("units", "long_name"))
    return layout.Variable(name, dims, "f8", unit or "1", meaning or name)


def _variable_problems(file: h5py.File, present: tuple[layout.Variable, ...]) -> Iterator[Problem]:
    for variable in present:
        where = f"/{variable.name}"
        stored = file.get(variable.name)
        if not isinstance(stored, h5py.Dataset):
            rule = "variable-group" if variable.group else "variable-present"
            yield Problem(rule, where, f"a variable over {_listed(variable.dims)}", "none")
            continue
        if stored.ndim != len(variable.dims):
            yield Problem("variable-dims", where, _listed(variable.dims), f"{stored.ndim} dimensions")
        if not _has_type(stored, variable.dtype):
            yield Problem("variable-type", where, variable.dtype, str(stored.dtype))
        if layout.is_quantity(variable.name):
            yield from _quantity_problems(where, stored, variable)
        yield from _decoded_problems(where, stored.attrs, variable.unit)
        yield from _label_problems(where, stored.attrs, variable)
        if stored.ndim and variable.grows and stored.maxshape[0] is not None:
            yield Problem("dimension-unlimited", where, "an unlimited first axis", f"a limit of {stored.maxshape[0]}")


def _quantity_problems(where: str, stored: h5py.Dataset, variable: layout.Variable) -> Iterator[Problem]:
    if attached_dimensions(stored) != variable.dims:
        expected = " or ".join(_listed((layout.STEP, *dims)) for dims in layout.QUANTITY_DIMENSIONS)
        yield Problem("quantity-dims", where, expected, _listed(attached_dimensions(stored)))
    if layout.means_time(variable.unit):
        yield Problem("variable-decoded", f"{where}@units", "a unit that is not decoded as a time", repr(variable.unit))
    for name, choices in (("against", layout.AGAINST), ("curve", layout.CURVES)):
        if stored.attrs.get(name) not in choices:
            expected = ", ".join(choice or "an empty string" for choice in choices)
            yield Problem("quantity-says", f"{where}@{name}", f"one of {expected}", _shown(stored.attrs.get(name)))
    if not isinstance(stored.attrs.get("definition"), str):
        yield Problem("quantity-says", f"{where}@definition", "a formula", "none")


def _decoded_problems(where: str, attributes: h5py.AttributeManager, unit: str) -> Iterator[Problem]:
    """Yield the attributes with which other readers would change the values."""
    if "_FillValue" in attributes:
        yield Problem("variable-fill", f"{where}@_FillValue", "no such attribute", "one")
    for name in attributes:
        if name in layout.DECODED:
            yield Problem("variable-decoded", f"{where}@{name}", "no attribute that changes values", "one")
    if "units" in attributes and (not unit or _text(attributes["units"]) != unit):
        expected = f"{unit!r}" if unit else "no such attribute"
        yield Problem("variable-decoded", f"{where}@units", expected, _shown(attributes["units"]))


def _text(value: Any) -> str | None:
    """Return an attribute that is one text, whatever its declared length."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else None


def _label_problems(where: str, attributes: h5py.AttributeManager, variable: layout.Variable) -> Iterator[Problem]:
    for name, expected in (("long_name", True), ("units", bool(variable.unit))):
        if expected and not isinstance(attributes.get(name), str):
            yield Problem("variable-label", f"{where}@{name}", "a string", "none")
        elif name == "long_name" and variable.name not in layout.BY_NAME and attributes[name] != variable.meaning:
            found = f"{_shown(attributes[name])}, which is read as {variable.meaning!r} instead"
            yield Problem(
                "variable-label", f"{where}@{name}", "a unique name that leads to that of the variable", found
            )


def _listed(names: tuple[str, ...]) -> str:
    return f"({', '.join(names)})"


def _has_type(stored: h5py.Dataset, dtype: str) -> bool:
    if dtype == "str":
        return h5py.check_string_dtype(stored.dtype) is not None
    return bool(stored.dtype.newbyteorder("=") == np.dtype(dtype))


def _length_problems(file: h5py.File, present: tuple[layout.Variable, ...]) -> Iterator[Problem]:
    lengths: dict[str, tuple[int, str]] = {}
    scales = _Scales(file)
    for variable in present:
        stored = file.get(variable.name)
        if not isinstance(stored, h5py.Dataset) or stored.ndim != len(variable.dims):
            continue
        lists = stored.attrs.get("DIMENSION_LIST")
        for axis, (name, length) in enumerate(zip(variable.dims, stored.shape, strict=True)):
            expected, owner = lengths.setdefault(name, (length, variable.name))
            if length != expected:
                yield Problem(
                    "dimension-length", f"/{variable.name}", f"{expected} along {name}, as in {owner}", str(length)
                )
            if length == 0 and name not in layout.GROWING:
                yield Problem("dimension-empty", f"/{variable.name}", f"at least one entry along {name}", "none")
            if not scales.are_attached(lists, axis, length, variable.name, name):
                yield Problem(
                    "dimension-scale", f"/{variable.name}", f"axis {axis} attached to /{name}", "another scale or none"
                )
    for name in lengths:
        yield from _scale_problems(file, name)


class _Scales:
    """The dimension scales of a file, each looked up once."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        # Length and address in the file, by name; None if there is no dataset of that name.
        self._found: dict[str, tuple[tuple[int, ...], int] | None] = {}

    def are_attached(self, lists: Any, axis: int, length: int, variable: str, name: str) -> bool:
        """Whether the dimension of this name, and no other, is attached to an axis of a variable.

        Parameters
        ----------
        lists : sequence of sequences of references, or None
            The attribute ``DIMENSION_LIST`` of the variable.
        axis, length : int
            The axis, and its length.
        variable, name : str
        """
        if name not in self._found:
            scale = self._file.get(name)
            self._found[name] = (scale.shape, address_of(scale.id)) if isinstance(scale, h5py.Dataset) else None
        scale = self._found[name]
        if scale is None or scale[0] != (length,):
            return False
        if variable == name:
            return True
        attached = [] if lists is None else [address_of(h5r.dereference(found, self._file.id)) for found in lists[axis]]
        return attached == [scale[1]]


def _scale_problems(file: h5py.File, name: str) -> Iterator[Problem]:
    """Yield the problems of the marks of a dimension scale."""
    scale = file.get(name)
    if not isinstance(scale, h5py.Dataset):
        return
    length = scale.shape[0] if scale.shape else 0
    expected = name if name in layout.BY_NAME else f"{layout.BARE_DIMENSION} {length:10d}"
    for mark, value in (("CLASS", "DIMENSION_SCALE"), ("NAME", expected)):
        found = text_of(scale.id, mark.encode())
        if found != value:
            yield Problem("dimension-scale", f"/{name}@{mark}", repr(value), "none" if found is None else repr(found))
    if name not in layout.BY_NAME and scale.dtype.kind not in "iuf":
        yield Problem("dimension-scale", f"/{name}", "a numeric type", "text")


def _unknown_names(file: h5py.File, present: tuple[layout.Variable, ...]) -> Iterator[Problem]:
    known = {variable.name for variable in present} | set(layout.DIMENSIONS) | {layout.EXTRA}
    for name in file:
        if name not in known:
            yield Problem("name-known", f"/{name}", f"a name of the format, or one in /{layout.EXTRA}", "another name")
    for name in file.attrs:
        if name in layout.DECODED | {"_FillValue"}:
            yield Problem("variable-decoded", f"/@{name}", "no attribute that changes values", "one")
        elif name not in layout.ATTRIBUTE_BY_NAME and name not in _OTHERS_ATTRIBUTES:
            yield Problem("name-known", f"/@{name}", "an attribute of the format", "another name")
