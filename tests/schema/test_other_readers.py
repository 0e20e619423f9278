"""Other software reads a trajectory file unmodified, and reads in it what h5py does."""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
from folders import ROOT

import regime_proto
from regime_proto.schema import hdf5, layout
from regime_proto.schema.header import Header, Layer

FORMAT = (ROOT / "schema/FORMAT.md").read_text(encoding="utf-8")

ATTRIBUTES = dict.fromkeys(layout.REQUIRED_ATTRIBUTES, "größer / 大") | {
    "regime_version": layout.VERSION,
    "step_kind": "step",
    "observations_per_epoch": 2.5,
}
LAYERS = (
    Layer("/model/0/Relu", "Relu", "relu", "größe/层", 13),
    Layer('"b", \\ ; c', "Clip", "piecewise", "", 21, (0.0, 6.0)),
    Layer("μ", "Relu", "relu", "0", 8),
)
NAMES = Header({"encoder/w.µ": 12, "größe": 0}, LAYERS, 2, ATTRIBUTES, ("val acc",))
STEPS = np.array([0, 10, 20, 40])


@dataclass(frozen=True)
class Variable:
    """A variable as a reader shows it; `dtype` is None where the reader does not tell."""

    dims: tuple[str, ...]
    dtype: str | None
    values: np.ndarray
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Content:
    """A file as a reader shows it."""

    lengths: Mapping[str, int]
    unlimited: set[str]
    attributes: Mapping[str, Any]
    variables: Mapping[str, Variable]


def rows_of(header, mask_steps=STEPS):
    random = np.random.default_rng(0)
    lengths = {**header.sizes, layout.STEP: len(STEPS), layout.MASK_STEP: len(mask_steps)}
    rows = {}
    for variable in header.variables:
        if variable.grows:
            shape = [lengths[name] for name in variable.dims]
            whole = np.dtype(variable.dtype).kind in "iu"
            rows[variable.name] = random.integers(0, 256, shape) if whole else random.normal(size=shape)
    # netCDF fills what is not set with 255 in bytes, which in a mask is data, and with 2**32 - 1 in counts.
    rows["mask"][:1] = 255
    rows["flips"][-1] = 2**32 - 2
    rows["epoch"][0] = np.nan
    return rows | {"step": STEPS, "mask_step": mask_steps}


def write(path, header, **options):
    path.write_bytes(hdf5.image(header, rows_of(header, **options)))
    return path


def write_sampled(path):
    layers = tuple(Layer(f"relu_{stored}", "Relu", "relu", "", 99, stored=stored) for stored in (5, 9, 2))
    indices = tuple(np.arange(layer.width) * 3 for layer in layers)
    return write(path, Header({"w": 5}, layers, 3, ATTRIBUTES, unit_index=indices))


FILES = {
    "synthetic": lambda path: regime_proto.synthetic.trajectory(steps=7, layers=3, samples=2, units=21, path=path),
    "names": partial(write, header=NAMES),
    "no masks": partial(write, header=NAMES, mask_steps=STEPS[:0]),
    "sampled units": write_sampled,
}


@pytest.fixture(scope="module", params=FILES)
def trajectory(request, tmp_path_factory):
    path = FILES[request.param](tmp_path_factory.mktemp("files") / "run.h5")
    path.chmod(0o444)
    return path


def numpy_name(dtype):
    return "str" if dtype.kind in "OUT" else dtype.str[1:]


def with_h5py(path):
    # What HDF5 itself keeps in attributes to tie dimensions to variables.
    internal = {"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST"}
    lengths, unlimited, variables = {}, set(), {}
    with h5py.File(path) as file:
        for name, stored in file.items():
            if stored.is_scale:
                lengths[name] = len(stored)
                unlimited |= {name} if stored.maxshape == (None,) else set()
                if stored.attrs["NAME"].startswith(b"This is a netCDF dimension but not a netCDF variable."):
                    continue
            dims = (name,) if stored.is_scale else tuple(dim[0].name.strip("/") for dim in stored.dims)
            dtype = numpy_name(stored.dtype)
            values = stored.asstr()[...] if dtype == "str" else stored[...]
            attributes = {key: value for key, value in stored.attrs.items() if key not in internal}
            variables[name] = Variable(dims, dtype, values, attributes)
        return Content(lengths, unlimited, dict(file.attrs), variables)


def with_xarray(path, engine):
    with xr.open_dataset(path, engine=engine) as opened:
        variables = {
            name: Variable(found.dims, numpy_name(found.dtype), found.values, found.attrs)
            for name, found in opened.variables.items()
        }
        return Content(dict(opened.sizes), opened.encoding["unlimited_dims"], opened.attrs, variables)


def with_netcdf4(path):
    with netCDF4.Dataset(path) as opened:
        lengths = {name: len(dimension) for name, dimension in opened.dimensions.items()}
        unlimited = {name for name, dimension in opened.dimensions.items() if dimension.isunlimited()}
        variables = {}
        for name, found in opened.variables.items():
            assert not np.ma.is_masked(found[...])
            dtype = "str" if found.dtype is str else numpy_name(found.dtype)
            variables[name] = Variable(found.dimensions, dtype, np.asarray(found[...]), found.__dict__)
        return Content(lengths, unlimited, opened.__dict__, variables)


def output_of(program, *arguments, package):
    """Return what a program prints; without it the test is skipped, or fails where it must not be missing."""
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, encoding="utf-8", env=environment)
    except FileNotFoundError:
        done = None
    if done is None or "there is no package called" in done.stderr:
        absent = pytest.fail if os.environ.get("REGIME_REQUIRE_READERS") else pytest.skip
        absent(f"{program} cannot be used: apt-get install {package}")
    assert done.returncode == 0, done.stderr
    return done.stdout


CDL_TYPES = {"ubyte": "u1", "uint": "u4", "int64": "i8", "double": "f8", "string": "str"}
CDL_VALUE = r'"(?:[^"\\]|\\.)*"|[^\s,;"]+'


def cdl_values(text):
    """Return strings without quotes and escapes (ncdump writes an empty one as a single `_`), numbers as text."""
    found = re.findall(CDL_VALUE, text)
    return [re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] == '"' else value.replace("_", "") for value in found]


def cdl_attributes(header, owner):
    found = re.findall(rf"^\t\t(string )?{owner}:(\w+) = ({CDL_VALUE}) ;$", header, re.MULTILINE)
    return {name: cdl_values(text)[0] if string else float(text) for string, name, text in found}


def with_ncdump(path):
    text = output_of("ncdump", "-p", "9,17", path, package="netcdf-bin")
    header, _, data = text.partition("\ndata:\n")
    dimensions = re.findall(r"^\t(\w+) = (UNLIMITED ; // \()?(\d+)", header, re.MULTILINE)
    values = dict(re.findall(rf"^ (\w+) =((?:{CDL_VALUE}|[\s,])*);$", data, re.MULTILINE))
    variables = {}
    for cdl_type, name, dims in re.findall(r"^\t(\w+) (\w+)\((.*)\) ;$", header, re.MULTILINE):
        dims = tuple(dims.split(", "))
        # A growing coordinate without rows does not stand among the data.
        flat = np.array(cdl_values(values.get(name, ""))).astype(CDL_TYPES[cdl_type])
        variables[name] = Variable(dims, CDL_TYPES[cdl_type], flat, cdl_attributes(header, name))
    return Content(
        {name: int(length) for name, _, length in dimensions},
        {name for name, unlimited, _ in dimensions if unlimited},
        cdl_attributes(header, ""),
        variables,
    )


# Of a coordinate ncdf4 tells only whether it holds text or numbers.
R_TYPES = {"unsigned byte": "u1", "unsigned int": "u4", "8 byte int": "i8", "double": "f8", "string": "str"}
R_SHOW = r"""
library(ncdf4)
file <- nc_open(commandArgs(TRUE)[1])
say <- function(...) cat(paste(c(...), collapse = "\t"), "\n", sep = "")
plain <- function(values) if (is.character(values)) values else sprintf("%.17g", values)
say_attributes <- function(owner, found) {
  for (name in names(found)) say("attribute", owner, name, class(found[[name]]), plain(found[[name]]))
}
say_variable <- function(name, type, dims) {
  say("variable", name, type, paste(dims, collapse = ","), plain(ncvar_get(file, name)))
  say_attributes(name, ncatt_get(file, name))
}
for (dim in file$dim) {
  say("dimension", dim$name, dim$len, dim$unlim)
  if (dim$create_dimvar) say_variable(dim$name, if (is.character(dim$vals)) "string" else "number", dim$name)
}
for (var in file$var) say_variable(var$name, var$prec, rev(sapply(var$dim, function(dim) dim$name)))
say_attributes("", ncatt_get(file, 0))
"""


def output_of_r(folder, script, *arguments):
    (folder / "script.R").write_text(script, encoding="utf-8")
    return output_of("Rscript", folder / "script.R", *arguments, package="r-cran-ncdf4")


def with_r(path):
    lengths, unlimited, variables, attributes = {}, set(), {}, {}
    for line in output_of_r(path.parent, R_SHOW, path).splitlines():
        kind, name, *fields = line.split("\t")
        if kind == "dimension":
            lengths[name] = int(fields[0])
            unlimited |= {name} if fields[1] == "TRUE" else set()
        elif kind == "variable":
            dtype = R_TYPES.get(fields[0])
            flat = np.array(fields[2:]).astype(dtype or "f8")
            variables[name] = Variable(tuple(fields[1].split(",")), dtype, flat, attributes.setdefault(name, {}))
        else:
            key, r_class, value = fields
            attributes.setdefault(name, {})[key] = value if r_class == "character" else float(value)
    return Content(lengths, unlimited, attributes[""], variables)


READERS = {
    "xarray, h5netcdf": partial(with_xarray, engine="h5netcdf"),
    "xarray, netcdf4": partial(with_xarray, engine="netcdf4"),
    "netCDF4": with_netcdf4,
    "ncdump": with_ncdump,
    "R": with_r,
}


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_sees_what_h5py_sees(trajectory, reader):
    expected = with_h5py(trajectory)
    found = READERS[reader](trajectory)
    assert found.lengths == expected.lengths
    assert found.unlimited == expected.unlimited == set(layout.GROWING)
    assert found.attributes == expected.attributes
    assert found.variables.keys() == expected.variables.keys()
    for name, variable in expected.variables.items():
        seen = found.variables[name]
        assert seen.dims == variable.dims
        assert seen.dtype in (variable.dtype, None)
        assert seen.attributes == variable.attributes
        # Programs that print values print them flat, in the order in which they lie in the file.
        np.testing.assert_array_equal(seen.values.reshape(variable.values.shape), variable.values)


def test_h5py_sees_the_layout(trajectory):
    found = with_h5py(trajectory).variables
    known = layout.BY_NAME | {"metric_val_acc": layout.metric("val acc")}
    assert {variable.name for variable in layout.VARIABLES} <= found.keys() <= known.keys()
    for name, variable in found.items():
        assert (variable.dims, variable.dtype) == (known[name].dims, known[name].dtype)
        expected = {"long_name": known[name].meaning, "units": known[name].unit}
        assert variable.attributes == {key: value for key, value in expected.items() if value}


def test_h5py_sees_what_was_written(tmp_path):
    found = with_h5py(write(tmp_path / "run.h5", NAMES))
    # Without quantities it is a file of the oldest version.
    assert found.attributes == {**ATTRIBUTES, "regime_version": layout.PLAIN_VERSION}
    for name, values in (NAMES.arrays() | rows_of(NAMES)).items():
        np.testing.assert_array_equal(found.variables[name].values, values)


@pytest.mark.parametrize(("required", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_a_missing_program_is_named(monkeypatch, required, outcome):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("REGIME_REQUIRE_READERS", required)
    with pytest.raises(outcome, match="ncdump cannot be used: apt-get install netcdf-bin"):
        with_ncdump("run.h5")


def example(language, layer, step):
    """Return the block of FORMAT.md, for this layer (from 0) and this step."""
    reading = FORMAT[FORMAT.index("## Reading without") :]
    [block] = re.findall(rf"```{language}\n(.*?)```", reading, re.DOTALL)
    shown, asked = {
        "python": ("layer, step = 1, 10\n", f"layer, step = {layer}, {step}\n"),
        "r": ("layer <- 2; step <- 10\n", f"layer <- {layer + 1}; step <- {step}\n"),
    }[language]
    assert block.count(shown) == 1
    return block.replace(shown, asked)


def run_python(folder, layer, step):
    scope = {}
    exec(example("python", layer, step), scope)
    assert scope["active"].dtype == bool
    return scope["fraction"], scope["active"]


def run_r(folder, layer, step):
    show = """
    stopifnot(is.logical(active))
    cat(dim(fraction), "\n", sprintf("%.17g ", fraction), "\n", dim(active), "\n", as.integer(active), "\n")
    """
    printed = output_of_r(folder, example("r", layer, step) + show)
    shape, fraction, active_shape, active = (line.split() for line in printed.splitlines())
    # R varies the first index fastest, so its dimensions stand in reverse.
    return (
        np.array(fraction, float).reshape([int(length) for length in shape[::-1]]),
        np.array(active, int).astype(bool).reshape([int(length) for length in active_shape[::-1]]),
    )


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(("layer", "step"), [(1, 10), (0, 40), (2, 0)])
@pytest.mark.parametrize("run", [run_python, run_r])
def test_the_examples_of_the_format_read_fractions_and_masks(tmp_path, monkeypatch, run, layer, step, samples):
    random = np.random.default_rng(1)
    active = [random.random((len(STEPS), samples, len(gate.thresholds), gate.size)) < 0.5 for gate in LAYERS]
    units = random.integers(1, 99, (len(LAYERS), samples))
    header = Header({"w": 3}, LAYERS, samples, ATTRIBUTES, layer_units=units)
    packed = [np.packbits(bits, axis=-1).reshape(len(STEPS), samples, -1) for bits in active]
    rows = rows_of(header) | {"mask": np.concatenate(packed, axis=-1)}
    (tmp_path / "run.h5").write_bytes(hdf5.image(header, rows))
    monkeypatch.chdir(tmp_path)
    fraction, found = run(tmp_path, layer, step)
    np.testing.assert_allclose(fraction, rows["flips"].sum(axis=2) / units.sum(axis=1), rtol=1e-15)
    np.testing.assert_array_equal(found, active[layer][STEPS.tolist().index(step)])
