"""Trajectories that mean harm, or have come to harm: made from a valid one, a class of fault after the other.

``python hostile_trajectories.py FOLDER [EACH [ONLY]]`` reads each of them (or so many of each class), in processes of
their own, as the guard and then the readers do, and prints as JSON what happened.
"""

import collections
import json
import os
import re
import resource
import shutil
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import trajectories
from apart import apart
from spoils import SPOILS, replaced

import regime_proto
from regime_proto.analyzer.analyze import analyze
from regime_proto.cli import render_inspection
from regime_proto.report.export import FORMATS
from regime_proto.schema import assemble, layout
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.header import Header, Layer
from regime_proto.schema.validation import trust
from regime_proto.schema.validation.check import allow, limit, look_at
from regime_proto.schema.validation.guard import BYTES_PER_SECOND, MEMORY, SECONDS
from regime_proto.schema.validation.rules import RULES, errors

REFUSED, SAME, HARMLESS = "refused", "same", "harmless"

# What may be needed of a process that reads a file which passed the guard, beside what it had before.
SECONDS_EACH, BYTES_EACH = 10, 85 * 10**7


@dataclass(frozen=True)
class Case:
    """A file, and what readers have to make of it: refuse it, give the numbers of the original, or do no harm."""

    name: str
    spoil: Callable[[Path], None]
    expected: str = REFUSED
    source: str = "valid"


def edit(work):
    """Return what spoils a file that is opened for it."""

    def spoil(path):
        with h5py.File(path, "r+", track_order=True) as file:
            work(file)

    return spoil


# These take seconds each, or are other tests' as well.
NO_SAMPLE = re.compile(
    "limits_-.*(objects|nested|below)|sizes-[^a]|shared_strings-(.* 41943040|[lt].* shared)|known_spoils|mutations"
)


def cases(each=None):
    """Yield every case; or so many of each family, as far apart as they come."""
    for family in (
        chunks, decoded, texts, shared_strings, unwritten, marks, first_rows, versions, limits_, references, metrics,
        values, sizes, known_spoils, mutations, heaps,
    ):  # fmt: skip
        found = [replace(case, name=f"{family.__name__}-{case.name}") for case in family()]
        if each:
            found = [case for case in found if not NO_SAMPLE.search(case.name)]
        yield from found[:: len(found) // each + 1 if each else 1]


CHUNKED = (
    "step", "epoch", "valid", "weight_delta_l1", "weight_delta_l2", "weight_distance_l2", "flips", "mask_step", "mask",
    "program", "probe", "metric_loss", "metric_val_acc",
)  # fmt: skip


def chunks():
    """Chunks that become shorter, longer, or nothing."""
    ways = {
        "short": lambda raw, size: (zlib.compress(raw[:8]), 0),
        "one byte short": lambda raw, size: (zlib.compress(raw[:-1]), 0),
        "empty": lambda raw, size: (zlib.compress(b""), 0),
        "one byte long": lambda raw, size: (zlib.compress(raw + b"\0"), 0),
        "cut": lambda raw, size: (zlib.compress(raw)[:-5], 0),
        "garbage": lambda raw, size: (b"garbage", 0),
        "stored short": lambda raw, size: (raw[:-4], 0xF),
        "stored long": lambda raw, size: (raw + b"more", 0xF),
        "nothing": lambda raw, size: (b"\0", 0xF),
    }
    for name in CHUNKED:
        for way, make in ways.items():

            def spoil(file, name=name, make=make):
                stored = file[name].id
                size = int(np.prod(file[name].chunks)) * file[name].dtype.itemsize
                offset = (0,) * file[name].ndim
                raw = bytes(size)
                content, mask = make(raw, size)
                stored.write_direct_chunk(offset, content, mask)

            yield Case(f"{name} {way}", edit(spoil))

    def trailing(file):
        mask, content = file["flips"].id.read_direct_chunk((0, 0, 0))
        file["flips"].id.write_direct_chunk((0, 0, 0), content + b"more", mask)

    yield Case("trailing bytes", edit(trailing), SAME)


def decoded():
    """Every attribute that a netCDF reader decodes, on every variable."""
    given = dict.fromkeys(sorted(layout.DECODED), 0) | {
        "_FillValue": 0, "dtype": "timedelta64[ns]", "calendar": "noleap", "coordinates": "epoch valid",
        "_Unsigned": "true", "valid_range": [1, 2], "scale_factor": 2.0, "add_offset": 1.0, "bounds": "flips",
    }  # fmt: skip
    for variable in (*layout.BY_NAME.values(), *layout.metrics(["loss"])):
        source = "sampled" if variable.group == layout.SAMPLED else "valid"
        for name, value in given.items():

            def spoil(file, variable=variable.name, name=name, value=value):
                file[variable].attrs[name] = value

            yield Case(f"{variable.name}@{name}", edit(spoil), source=source)
        for unit in ("days since 2000-01-01", "seconds", "2", ""):

            def spoil(file, variable=variable.name, unit=unit):
                file[variable].attrs["units"] = unit

            yield Case(f"{variable.name}@units={unit}", edit(spoil), source=source)
    yield Case("/@coordinates", edit(lambda file: file.attrs.update(coordinates="epoch valid")))


NAMES = ("tensor", "layer", "layer_op", "layer_kind", "layer_path")


def texts():
    """Names and texts that are not UTF-8, or hold NUL."""
    for name in NAMES:

        def other_bytes(file, name=name):
            file[name][0] = b"\xff\xfe"

        yield Case(f"{name} not UTF-8", edit(other_bytes))

        def fixed(file, name=name):
            replaced(file, name, data=np.array([b"a\0b", b"relu"]))

        yield Case(f"{name} NUL", edit(fixed))
    for where in ("/", "flips", "extra"):

        def value(file, where=where):
            file.require_group("extra")
            file[where].attrs.create("text", b"\xff\xfe", dtype=h5py.string_dtype())

        def name_of(file, where=where):
            file.require_group("extra")
            space = h5py.h5s.create(h5py.h5s.SCALAR)
            h5py.h5a.create(file[where].id, b"\xff\xfe", h5py.h5t.NATIVE_INT32, space).write(np.array(1, "i4"))

        yield Case(f"{where} attribute not UTF-8", edit(value))
        yield Case(f"{where} name of attribute not UTF-8", edit(name_of))
    yield Case("name of group not UTF-8", edit(lambda file: file.create_group(b"\xff\xfe")))
    yield Case("name in extra not UTF-8", edit(lambda file: file.require_group("extra").create_group(b"\xff")))
    for name in ("run_id", "software", "created", "source_fingerprint", "step_kind"):

        def root(file, name=name):
            del file.attrs[name]
            file.attrs.create(name, b"\xff\xfe", dtype=h5py.string_dtype())

        yield Case(f"{name} not UTF-8", edit(root))


def share(path, length, count):
    """Let the references to strings of one byte lead to a string of this length."""
    content, target, shorter, at = bytearray(path.read_bytes()), b"", [], 0
    while (at := content.find(b"GCOL", at + 1)) >= 0:
        address, found = struct.pack("<Q", at), -1
        while (found := content.find(address, found + 1)) >= 0:
            [size] = struct.unpack_from("<I", content, found - 4)
            if size == 1:
                shorter.append(found - 4)
            elif size == length:
                target = bytes(content[found - 4 : found + 12])
    assert target
    assert len(shorter) >= count, len(shorter)
    for place in shorter:
        content[place : place + 16] = target
    path.write_bytes(content)


def shared_strings():
    """Attributes of variable length that are large, and strings that share their bytes."""
    for where in ("/", "flips", "extra", "extra/deep"):
        for size in (2**20, 3 * 2**20, 40 * 2**20):

            def large(file, where=where, size=size):
                file.require_group("extra/deep")
                file[where].attrs["text"] = "x" * size

            yield Case(f"{where} {size}", edit(large))
        for count, length in ((300, 3001), (15, 60_001)):

            def together(path, where=where, count=count, length=length):
                with h5py.File(path, "r+", track_order=True) as file:
                    file.require_group("extra/deep")
                    file[where].attrs["text"] = ["x" * length] + ["a"] * (count - 1)
                share(path, length, count - 1)

            yield Case(f"{where} {count} of {length} shared", together)

    for name in ("layer_path", "layer_op", "tensor"):
        yield Case(f"{name} shared", lambda path, name=name: _shared_layers(path, name))
    yield Case("in extra shared", _shared_in_extra)


def _shared_layers(path, name):
    many = 3000
    head = trajectories.header(
        layers=tuple(Layer(f"l{n}", "Relu", "relu", "p", 8) for n in range(many)),
        tensors={f"t{n}": 1 for n in range(many)},
    )
    trajectories.write(path, head, count=3)
    with h5py.File(path, "r+") as file:
        file[name][0] = "y" * 50_021
        stored = file[name].id
        start = stored.get_offset()
    content = bytearray(path.read_bytes())
    content[start : start + 16 * many] = content[start : start + 16] * many
    path.write_bytes(content)


def _shared_in_extra(path):
    with h5py.File(path, "r+", track_order=True) as file:
        texts_ = ["z" * 99_991] + ["a"] * 4999
        stored = file.create_dataset("extra/texts", data=texts_, dtype=h5py.string_dtype()).id
        start = stored.get_offset()
    content = bytearray(path.read_bytes())
    content[start : start + 16 * 5000] = content[start : start + 16] * 5000
    path.write_bytes(content)


def unwritten():
    """Variables that were never written, with the mark of a dimension that has no values."""
    fixed = ("tensor_size", "layer_size", "layer_planes", "layer_units", "layer_byte_start", "layer_byte_stop")
    for name in (*fixed, "epoch", "valid", "metric_loss", "tensor", "layer", "step"):
        for marked in (True, False):

            def spoil(file, name=name, marked=marked):
                shape, dtype = file[name].shape, file[name].dtype
                attributes = {key: file[name].attrs[key] for key in ("long_name", "units") if key in file[name].attrs}
                del file[name]
                new = file.create_dataset(name, shape, dtype)
                new.attrs.update(attributes)
                if marked:
                    new.make_scale(f"{layout.BARE_DIMENSION} {shape[0]:10d}")

            yield Case(f"{name} {'marked' if marked else 'bare'}", edit(spoil))

    def terabytes(file):
        for variable in layout.VARIABLES:
            if variable.grows:
                del file[variable.name]
                tail = [5] * (len(variable.dims) - 1)
                file.create_dataset(variable.name, (2**39, *tail), variable.dtype)

    yield Case("terabytes", edit(terabytes))


def marks():
    """Scales and dimensions that are marked wrongly."""
    for name in layout.DIMENSIONS:
        if name == layout.UNIT:
            continue
        for mark in ("CLASS", "NAME"):
            for value in (None, b"wrong", b"This is a netCDF dimension but not a netCDF variable.        99"):

                def spoil(file, name=name, mark=mark, value=value):
                    del file[name].attrs[mark]
                    if value is not None:
                        file[name].attrs[mark] = np.bytes_(value)

                yield Case(f"{name}@{mark} {value}", edit(spoil))

    def text(file):
        replaced(file, "byte", data=np.array([b"a"] * 5)).attrs["NAME"] = np.bytes_(
            f"{layout.BARE_DIMENSION} {5:10d}".encode()
        )

    yield Case("a dimension of text", edit(text))


def first_rows():
    """First rows that hold something."""
    for how in ("plain", "valid", "first_observation"):
        for name, value in (
            ("weight_delta_l1", 1.0),
            ("weight_delta_l2", 1.0),
            ("weight_distance_l2", 3.0),
            ("flips", 1),
        ):

            def spoil(file, how=how, name=name, value=value):
                file[name][0] = value
                if how == "valid":
                    file["valid"][0] = 0
                if how == "first_observation":
                    file.attrs["first_observation"] = 1

            yield Case(f"{how} {name}", edit(spoil))
    yield Case("first_observation negative", edit(lambda file: file.attrs.update(first_observation=-1)))


def versions():
    """Versions in other digits and forms."""
    for text in ("१.०", "1.٠", "１.０", "1.0\n", " 1.0", "1", "1.0.0", "-1.0", "1.0a", "2.0", "0.9", "", "1,0"):
        yield Case(repr(text), edit(lambda file, text=text: file.attrs.update(regime_version=text)))


def limits_():
    """Numbers at the limit of the rules, and beside it."""

    def objects(file, count):
        group = file.create_group("extra")
        for number in range(count - 2 - len(file) + 1):
            group.create_group(str(number))

    yield Case("10,000 objects", edit(lambda file: objects(file, 10_000)))
    yield Case("9,999 objects", edit(lambda file: objects(file, 9_999)), SAME)

    def attributes(file, count):
        group = file.create_group("extra", track_order=True)
        for number in range(count):
            group.attrs[f"a{number}"] = number

    yield Case("1,000 attributes", edit(lambda file: attributes(file, 1000)))
    yield Case("999 attributes", edit(lambda file: attributes(file, 999)), SAME)

    def bytes_(file, count):
        file.create_group("extra", track_order=True).attrs["many"] = np.zeros(count, "u1")

    yield Case("an attribute of 1 MiB", edit(lambda file: bytes_(file, 2**20)))
    yield Case("an attribute below 1 MiB", edit(lambda file: bytes_(file, 2**20 - 1)), SAME)

    def nested(file):
        group = file.create_group("extra")
        for _ in range(3000):
            group = group.create_group("a")

    yield Case("nested groups", edit(nested), SAME)

    def types(file, kind, name):
        del file[name]
        h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple((2,))).write(
            h5py.h5s.ALL, h5py.h5s.ALL, np.zeros(2, "i8")
        )

    odd = h5py.h5t.STD_I64LE.copy()
    odd.set_precision(40)
    yield Case("an integer of 40 bits", edit(lambda file: types(file, odd, "tensor_size")))


def references():
    """What attaches dimensions leads nowhere, or is something else."""
    for variable in layout.VARIABLES:
        for name, value in (("DIMENSION_LIST", np.arange(len(variable.dims))), ("REFERENCE_LIST", np.arange(3))):

            def integers(file, variable=variable.name, name=name, value=value):
                if name in file[variable].attrs:
                    del file[variable].attrs[name]
                file[variable].attrs[name] = value

            yield Case(f"{variable.name}@{name}", edit(integers))
    for name in ("layer", "sample", "tensor", "step", "byte"):

        def deleted(file, name=name):
            values, attributes = file[name][...] if name != "sample" else None, dict(file[name].attrs)
            shape, dtype = file[name].shape, file[name].dtype
            del file[name]
            new = file.create_dataset(name, shape, dtype) if values is None else file.create_dataset(name, data=values)
            new.attrs["CLASS"], new.attrs["NAME"] = attributes["CLASS"], attributes["NAME"]

        # What is new may lie where the old was, and be referred to like that.
        yield Case(f"{name} deleted", edit(deleted), HARMLESS)


def metrics():
    """Metrics whose own names are other than their variables say."""
    for text in ("loss", "metric_loss", "", "other", "val_acc", "x" * 1000):

        def rename(file, text=text):
            file["metric_val_acc"].attrs["long_name"] = text

        yield Case(f"named {text[:20]!r}", edit(rename), SAME)

    def unnamed(file):
        for name in ("metric_val_acc", "metric_loss"):
            del file[name].attrs["long_name"]

    yield Case("unnamed", edit(unnamed), SAME)
    yield Case("named by bytes", edit(lambda file: file["metric_loss"].attrs.update(long_name=np.bytes_(b"a"))), SAME)
    yield Case("group", edit(lambda file: file.create_group("metric_extra")))


def values():
    """Values at the ends of their types."""

    def set_to(name, value, where=...):
        def spoil(file):
            file[name][where] = value

        return edit(spoil)

    yield Case("threshold inf beyond", set_to("layer_threshold", [0.0, np.inf], 0))
    yield Case("threshold -inf beyond", set_to("layer_threshold", [0.0, -np.inf], 0))
    yield Case("threshold inf", set_to("layer_threshold", [0.0, np.inf], 1))
    yield Case("epochs too close", set_to("epoch", 5e-324 * np.arange(70)), HARMLESS)
    yield Case("epochs too far", set_to("epoch", 1e307 * np.linspace(-10, 10, 70)), HARMLESS)
    yield Case("epochs infinite", set_to("epoch", np.inf), HARMLESS)
    yield Case("no units", set_to("layer_units", 0), HARMLESS)
    yield Case("tensors too large together", set_to("tensor_size", 2**62), HARMLESS)
    yield Case("tensors of nothing", set_to("tensor_size", 0), HARMLESS)
    yield Case("steps far apart", set_to("step", np.linspace(-(2**62) * 1.9, 2**62 * 1.9, 70).astype("i8")))
    yield Case("layers too large together", edit(_wrap))
    for name, value in (
        ("observations_per_epoch", 5e-324), ("observations_per_epoch", 0.0), ("observations_per_epoch", 1e308),
        ("observations_per_epoch", np.inf), ("observations_per_epoch", -1.0), ("observations_per_epoch", np.nan),
        ("noise_floor", np.inf), ("noise_floor", -1.0), ("planned_observations", -1), ("planned_observations", 2**62),
        ("mask_policy_requested", "\x1b[31m"), ("predicted_bytes", -5),
    ):  # fmt: skip
        yield Case(
            f"{name}={value!r}", edit(lambda file, name=name, value=value: file.attrs.update({name: value})), HARMLESS
        )
    for name in ("weight_delta_l1", "weight_delta_l2", "weight_distance_l2"):
        yield Case(f"{name} huge", set_to(name, 1.7e308, slice(1, None)), HARMLESS)
        yield Case(f"{name} tiny", set_to(name, 5e-324, slice(1, None)), HARMLESS)
    for name, value in (
        ("mask_policy", "every=0"),
        ("mask_policy", "every=１"),
        ("created", "２026-01-01"),
        ("step_kind", ""),
    ):
        yield Case(f"{name}={value!r}", edit(lambda file, name=name, value=value: file.attrs.update({name: value})))


def _wrap(file):
    """Sizes of layers whose sums wrap around 64 bits."""
    size, plane_bytes = 2**63 - 8, (2**63 - 8 + 7) // 8
    file["layer_size"][...] = size
    file["layer_byte_start"][...] = [0, plane_bytes]
    file["layer_byte_stop"][...] = [plane_bytes, 5]


def sizes():
    """Much in little."""

    def flips_of_a_gigabyte(path):
        head = Header(
            {"w": 1}, (Layer("a", "Relu", "relu", "", 8),), 1024, trajectories.ATTRIBUTES | {"mask_policy": "none"}
        )
        trajectories.write(path, head, count=3)
        rows, length = 2**18, 2**12
        with h5py.File(path, "r+", track_order=True) as file:
            for variable in head.variables:
                if variable.grows and variable.dims[0] == layout.STEP:
                    _grow(file, variable, rows, length)

    yield Case("flips of a gigabyte", flips_of_a_gigabyte)

    def bomb(path, size):
        with h5py.File(path, "r+") as file:
            chunk = int(np.prod(file["mask"].chunks))
            file["mask"].id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(chunk + size), 9))

    for size in (1, 2**16):
        yield Case(f"a bomb of {size}", lambda path, size=size: bomb(path, size))

    def layers(path, count):
        head = trajectories.header(layers=tuple(Layer(f"l{n}", "Relu", "relu", "", 3) for n in range(count)))
        trajectories.write(path, head, count=3)

    yield Case("5,000 layers", lambda path: layers(path, 5000), HARMLESS)

    def many_metrics(path):
        trajectories.write(path, trajectories.header(metrics=tuple(f"m{n}" for n in range(1000))))

    yield Case("1,000 metrics", many_metrics, HARMLESS)

    def many_objects(path):
        with h5py.File(path, "r+") as file:
            for number in range(9_900):
                file[f"other{number}"] = number

    yield Case("9,900 unknown variables", many_objects, SAME)


def _grow(file, variable, rows, length):
    old = file[variable.name]
    tail, dtype = old.shape[1:], old.dtype
    values = None if dtype.itemsize == 4 else np.arange(rows) if variable.name == "step" else np.ones((rows, *tail))
    old.resize(0, axis=0)
    stored = replaced(
        file, variable.name, shape=(rows, *tail), maxshape=(None, *tail), chunks=(length, *tail), dtype=dtype,
        compression=9,
    )  # fmt: skip
    if values is not None:
        stored[...] = values
        return
    chunk = trajectories.zeros(length * int(np.prod(tail)) * dtype.itemsize)
    for start in range(0, rows, length):
        stored.id.write_direct_chunk((start, *(0 for _ in tail)), chunk)


def known_spoils():
    """Every file that breaks a rule, of the validator's tests."""
    for rule, ways in SPOILS.items():
        for spoil, _, options in ways:
            expected = REFUSED if RULES[rule].severity == "error" else HARMLESS
            yield Case(
                f"{rule} {spoil.__name__}", edit(spoil), expected, "sampled" if options.get("sampled") else "valid"
            )


def mutations():
    """Bytes changed anywhere, zeroed, or exchanged; seeded."""
    for seed in range(200):

        def spoil(path, seed=seed):
            random = np.random.default_rng(seed)
            content = bytearray(path.read_bytes())
            end = len(content) if seed % 2 else min(len(content), 4096)
            at, length = int(random.integers(8, end)), int(random.integers(1, 9))
            how = seed % 4
            if how < 2:
                content[at : at + length] = random.integers(0, 256, length, np.uint8).tobytes()
            elif how == 2:
                content[at : at + length] = bytes(length)
            else:
                other = int(random.integers(8, end))
                content[at : at + length] = content[other : other + length]
            path.write_bytes(content)

        yield Case(str(seed), spoil, HARMLESS)


def heaps():
    """Bytes zeroed in what holds names, attributes and indices."""

    def heap(path, seed):
        """Zero bytes of a heap that holds the attributes of the users' group."""
        with h5py.File(path, "r+", track_order=True) as file:
            group = file.create_group("extra", track_order=True)
            for number in range(12):
                group.attrs[f"note{number}"] = "text" * 20
        content = bytearray(path.read_bytes())
        places, at = [], -1
        for mark in (b"GCOL", b"FRHP", b"FHDB", b"BTHD", b"BTLF", b"OCHK", b"TREE", b"HEAP", b"SNOD"):
            while (at := content.find(mark, at + 1)) >= 0:
                places.append(at)
        random = np.random.default_rng(seed)
        start = int(random.choice(places)) + int(random.integers(4, 64))
        content[start : start + 5] = bytes(5)
        path.write_bytes(content)

    for seed in range(100):
        yield Case(str(seed), lambda path, seed=seed: heap(path, seed), HARMLESS)


def check(path, *, whole):
    """Look at a file as the guard's child does."""
    size = path.stat().st_size
    seconds = SECONDS.value + size / BYTES_PER_SECOND
    limit(MEMORY.value * 2**20 + size, seconds)
    found = look_at(path, whole=whole, before_content=lambda count: allow(seconds + count / (25 * 2**20)))
    wrong = errors(found.problems)
    return f"refused: {wrong[0]}" if wrong else "sound"


def use(path, folder):
    """Read a file that passed the guard, in every way; return the numbers."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    said = []

    def attempt(work):
        try:
            said.append(work())
        except RegimeError as error:
            said.append(str(error))

    def numbers():
        result = analyze(path, resamples=20)
        return [result.rho, result.auc_w, result.auc_p]

    def load():
        with regime_proto.open_trajectory(path) as opened:
            opened.load()

    def export():
        result = analyze(path, resamples=0)
        for write in FORMATS.values():
            with (folder / "exported").open("wb") as file:
                write(result, file)

    attempt(numbers)
    attempt(load)
    attempt(lambda: render_inspection.trajectory(path) and None)
    attempt(export)
    thinned = [str(folder / name) for name in ("thinned.h5", ".regime-0123456789abcdef.tmp")]
    attempt(lambda: assemble.main(str(os.getppid()), "thin", str(path), *thinned, "none"))
    return said


def run(case, folder, sources):
    """Return what happened to a case, and what its processes took."""
    path = folder / "case.h5"
    shutil.copy(sources[case.source], path)
    case.spoil(path)
    took = [apart(lambda: check(path, whole=False))]
    if took[0].said == "sound":
        # A check of all rows begins with what readers refuse.
        took.append(apart(lambda: check(path, whole=True)))
        trust.record(path)
        took.append(apart(lambda: use(path, folder)))
    thinned = folder / "thinned.h5"
    grown = thinned.exists() and thinned.stat().st_size > path.stat().st_size + 2**20
    thinned.unlink(missing_ok=True)
    return "grown" if grown else outcome(case, took, sources["numbers"]), took


def outcome(case, took, numbers):
    """Return whether a case was refused or read; or what harm was done."""
    if any(process.died.startswith("Traceback") for process in took):
        return "traceback"
    refused = any(process.said != "sound" for process in took[:2])
    if used := took[2:]:
        if used[0].died:
            return used[0].died
        if not refused and case.expected == SAME and used[0].said[0] != numbers:
            return "numbers changed"
    if case.expected == REFUSED and not refused:
        return "accepted wrongly"
    if case.expected == SAME and refused:
        return "refused wrongly"
    return "refused" if refused else "read"


def survey(folder, each=None, *, only=""):
    """Run all cases, or so many of each family; return counts, and the cases in which harm was done."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = {
        "valid": trajectories.write(folder / "valid.h5"),
        "sampled": trajectories.write(folder / "sampled.h5", sampled=True),
    }
    trust.record(sources["valid"])
    sources["numbers"] = apart(lambda: use(sources["valid"], folder)).said[0]
    counts, harm, longest, largest = collections.Counter(), [], 0.0, 0
    chosen = [case for case in cases(each) if only in case.name]
    for case in chosen:
        what, took = run(case, folder, sources)
        counts[what] += 1
        seconds, memory = max(process.seconds for process in took), max(process.memory for process in took)
        longest, largest = max(longest, seconds), max(largest, memory)
        if what not in ("refused", "read") or seconds > SECONDS_EACH or memory > BYTES_EACH:
            harm.append(
                [case.name, what, round(seconds, 1), memory, [process.said or process.died for process in took]]
            )
            if "-v" in sys.argv:
                sys.stderr.write(f"{harm[-1]}\n")
    return {"cases": len(chosen), "counts": counts, "longest": longest, "largest": largest, "harm": harm}


def main(folder, each="", only=""):
    os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
    start = time.monotonic()
    found = survey(Path(folder), int(each) if each else None, only=only)
    sys.stdout.write(json.dumps({**found, "wall": time.monotonic() - start}) + "\n")


if __name__ == "__main__":
    main(*(argument for argument in sys.argv[1:] if not argument.startswith("-")))
