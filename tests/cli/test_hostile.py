"""Files that mean harm, or have come to harm: a clear error in little time and memory, and nothing else is touched."""

import json
import os
import re
import shutil
import time

import children
import h5py
import numpy as np
import processor_time
import pytest
import trajectories
from commands import assert_one_line, regime
from spoils import SPOILS

import regime_proto
from regime_proto.schema import validate
from regime_proto.schema.validation import structure, trust
from regime_proto.schema.validation.check import Found, look_at

# What a file is made of, lengths and steps: what a reader relies on before it looks at a value.
STRUCTURAL = (
    "link-hard", "link-single", "storage-inside", "filter-known", "size-limit", "chunk-count", "chunk-stored",
    "chunk-inflated", "step-order", "variable-type", "dimension-length",
)  # fmt: skip
CASES = [
    pytest.param(rule, spoil, options, id=f"{rule}-{spoil.__name__}")
    for rule in STRUCTURAL
    for spoil, _, options in SPOILS[rule]
]


@pytest.mark.parametrize(("rule", "spoil", "options"), CASES)
def test_every_reader_refuses_it(valid, tmp_path, rule, spoil, options):
    path = tmp_path / "hostile.h5"
    shutil.copy(valid, path)
    with h5py.File(path, "r+", track_order=False) as file:
        spoil(file)
    start = time.monotonic()
    assert rule in [problem.rule for problem in validate(path)]
    with pytest.raises(regime_proto.TrajectoryError, match=rule):
        regime_proto.open_trajectory(path)
    # Two processes are started; a busy machine takes seconds for that, a hostile file would take minutes.
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("spoil", [SPOILS["link-hard"][1][0], SPOILS["chunk-inflated"][0][0]])
def test_every_command_refuses_it_in_one_line(valid, tmp_path, spoil):
    path = tmp_path / "hostile.h5"
    shutil.copy(valid, path)
    with h5py.File(path, "r+", track_order=False) as file:
        spoil(file)
    thin = ["thin", "--masks", "none", "-o", tmp_path / "x.h5"]
    for command in (["analyze"], ["inspect"], ["export", "--to", "csv"], thin, ["program", "-o", tmp_path / "x"]):
        assert_one_line(regime(*command, path), r"hostile.h5: .*expected .*, found .* \[(link-hard|chunk-inflated)\]")
    assert regime("validate", path).exit_code == 1
    assert {found.name for found in tmp_path.iterdir()} == {path.name}


# To open a pipe for writing fails until somebody opens it for reading.
WATCH = """
import os, pathlib, sys, time
pipe, ready, opened = map(pathlib.Path, sys.argv[1:])
ready.touch()
while True:
    try:
        os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        break
    except OSError:
        time.sleep(0.005)
opened.touch()
"""


@pytest.mark.parametrize("how", ["storage", "link", "virtual"])
def test_no_other_file_is_opened(valid, tmp_path, how):
    """A pipe: who would open it for reading, even for a moment, meets one who waits to write."""
    path, pipe = tmp_path / "hostile.h5", tmp_path / "pipe"
    os.mkfifo(pipe)
    shutil.copy(valid, path)
    with h5py.File(path, "r+") as file:
        del file["epoch"]
        if how == "storage":
            file.create_dataset("epoch", (70,), "f8", external=[(str(pipe), 0, 560)])
        elif how == "link":
            file["epoch"] = h5py.ExternalLink(str(pipe), "/epoch")
        else:
            virtual = h5py.VirtualLayout((70,), "f8")
            virtual[:] = h5py.VirtualSource(str(pipe), "epoch", (70,))
            file.create_virtual_dataset("epoch", virtual)
    ready, opened = tmp_path / "ready", tmp_path / "opened"
    watcher = children.start(WATCH, pipe, ready, opened)
    watcher.wait_for(ready.exists)
    for command in ("validate", "analyze", "inspect"):
        done = regime(command, path)
        assert done.exit_code == 1
        assert "storage-inside" in done.output or "link-hard" in done.output
    assert not opened.exists()
    # It would have been noticed.
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    watcher.wait_for(opened.exists)
    os.close(reading)
    assert watcher.wait().returncode == 0


ENDS = """
import os, time
from apart import apart
def none_left(): raise MemoryError
works = [lambda: {"a": 1}, os.abort, none_left, lambda: 1 / 0, lambda: time.sleep(60), lambda: os._exit(0)]
for took in [apart(work, waiting=1) for work in works]:
    print(took.said, took.died.strip().splitlines()[-1:])
block = 100 * 2**20
took = apart(lambda: len(bytearray(os.urandom(block))))
print(took.said == block, block < took.memory < 3 * block, 0 < took.seconds < 60)
"""


def test_what_becomes_of_a_process_is_told():
    assert children.run(ENDS).stdout.splitlines() == [
        "{'a': 1} []",
        "None ['signal 6']",
        "None ['memory']",
        "None ['ZeroDivisionError: division by zero']",
        "None ['signal 14']",
        "None ['signal 0']",
        "True True True",
    ]


def fuzzed(valid, tmp_path, kind, count, seed=0):
    done = children.run("import sys, fuzz; fuzz.main(*sys.argv[1:])", valid, tmp_path, kind, count, seed, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not [outcome for outcome in found["counts"] if outcome.startswith("harm")], found
    assert found["longest"] < 5
    assert found["memory"] < 400 * 2**20
    return found["counts"]


@pytest.mark.parametrize("parts", [24, pytest.param(64, marks=pytest.mark.slow)])
def test_a_file_cut_anywhere_is_refused(valid, tmp_path, parts):
    assert fuzzed(valid, tmp_path, "truncate", parts) == {"refused": parts - 1}


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 40), *(pytest.param(seed, 200, marks=pytest.mark.slow) for seed in range(10))]
)
def test_changed_bytes_do_no_harm(valid, tmp_path, seed, count):
    counts = fuzzed(valid, tmp_path, "mutate", count, seed)
    assert sum(counts.values()) == count
    assert counts["refused"] > count / 2
    # What is left to the guard: crashes, hangs, hunger.
    assert sum(number for outcome, number in counts.items() if outcome.startswith("guarded")) < count / 10


@pytest.fixture
def large_masks(valid, tmp_path):
    """A trajectory whose masks inflate to more than a gigabyte of zeros."""
    path = tmp_path / "hostile.h5"
    shutil.copy(valid, path)
    with h5py.File(path, "r+") as file:
        rows, width = 70, 6 * 2**20
        del file["mask"]
        stored = file.create_dataset(
            "mask", (rows, 3, width), "u1", maxshape=(None, 3, width), chunks=(rows, 1, 2**17), compression=9
        )
        chunk = trajectories.zeros(rows * 2**17)
        for sample in range(3):
            for start in range(0, width, 2**17):
                stored.id.write_direct_chunk((0, sample, start), chunk)
        for axis, name in enumerate(("mask_step", "sample")):
            stored.dims[axis].attach_scale(file[name])
        stored.attrs.update({"long_name": "mask", "units": "1"})
        # All in one layer, so that every number fits.
        file["layer_size"][1] = 4 * (width - 2)
        file["layer_byte_stop"][1] = width
        del file["byte"]
        bare = file.create_dataset("byte", (width,), ">f4")
        bare.make_scale(f"This is a netCDF dimension but not a netCDF variable. {width:10d}")
        stored.dims[2].attach_scale(bare)
    assert path.stat().st_size < 4 * 2**20
    return path


def trusted(path, monkeypatch):
    """Raise the limit that a refusal names, as it says."""
    with pytest.raises(regime_proto.TrajectoryError, match=r"REGIME_LIMIT_INFLATION=(\d+)") as refused:
        regime_proto.analyze(path)
    variable, number = re.search(r"(REGIME_LIMIT_INFLATION)=(\d+)", str(refused.value)).groups()
    monkeypatch.setenv(variable, number)
    return path


def test_masks_that_inflate_to_gigabytes_cost_a_reader_nothing(large_masks, monkeypatch):
    """They are refused; who trusts them does not inflate them either."""
    trusted(large_masks, monkeypatch)
    start = processor_time.spent()
    assert regime_proto.analyze(large_masks, resamples=0).observations == 70
    assert processor_time.spent() - start < 2


def test_masks_that_are_not_inflated_by_readers_are_by_a_check_of_all_rows(valid, tmp_path, monkeypatch):
    path = tmp_path / "hostile.h5"
    shutil.copy(valid, path)
    with h5py.File(path, "r+") as file:
        file["flips"][65, 1, 2] = 0
    monkeypatch.setattr(structure, "EAGER_BYTES", 100)
    assert look_at(path, whole=False) == Found([], defers=True)
    found = look_at(path, whole=True)
    assert [problem.rule for problem in found.problems] == ["mask-flips"]


@pytest.mark.slow
def test_masks_that_inflate_to_gigabytes_are_checked_when_all_rows_are(large_masks, monkeypatch):
    trusted(large_masks, monkeypatch)
    assert [problem.rule for problem in validate(large_masks)] == ["mask-flips"]


def test_a_file_is_looked_at_once(valid, tmp_path, monkeypatch):
    """What this machine wrote or has checked is opened at once; what changed since is checked again."""
    path = tmp_path / "run.h5"
    shutil.copy(valid, path)
    assert not trust.is_trusted(path)
    with regime_proto.open_trajectory(path):
        assert trust.is_trusted(path)
    with h5py.File(path, "r+") as file:
        file["step"][5] = 3
    assert not trust.is_trusted(path)
    with pytest.raises(regime_proto.TrajectoryError, match="step-order"):
        regime_proto.open_trajectory(path)
    assert not trust.is_trusted(path)
    assert trust.is_trusted(regime_proto.synthetic.trajectory(steps=3, path=tmp_path / "own.h5"))


def test_a_copy_with_the_times_of_the_original_is_not_trusted(tmp_path):
    own = regime_proto.synthetic.trajectory(steps=3, path=tmp_path / "own.h5")
    other = tmp_path / "other.h5"
    shutil.copy2(own, other)
    with h5py.File(other, "r+") as file:
        file["flips"][...] = 0
    os.utime(other, ns=(own.stat().st_atime_ns, own.stat().st_mtime_ns))
    other.replace(own)
    assert not trust.is_trusted(own)


def test_without_a_place_for_records_every_file_is_checked(valid, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    path = tmp_path / "run.h5"
    shutil.copy(valid, path)
    for _ in range(2):
        with regime_proto.open_trajectory(path) as opened:
            assert opened.sizes["step"] == 70
        assert not trust.is_trusted(path)


def test_records_do_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(trust, "MAX_RECORDS", 8)
    paths = [tmp_path / str(number) for number in range(30)]
    for number, path in enumerate(paths):
        path.touch()
        trust.record(path)
        os.utime(trust._place(path), (number, number))
    assert len(list(trust._place(paths[0]).parent.iterdir())) <= 8
    assert trust.is_trusted(paths[-1])
    assert not trust.is_trusted(paths[0])


def test_a_newer_minor_version_is_read_and_said(valid, tmp_path):
    path = tmp_path / "newer.h5"
    shutil.copy(valid, path)
    with h5py.File(path, "r+") as file:
        file.attrs["regime_version"] = "1.9"
        file["novelty"] = np.zeros(3)
    for _ in range(2):
        with pytest.warns(regime_proto.RegimeWarning) as said:
            result = regime_proto.analyze(path)
        assert any("format 1.1 or older, found 1.9: new names are not read" in str(warning.message) for warning in said)
        assert any("/novelty" in str(warning.message) for warning in said)
    assert result.rho == regime_proto.analyze(valid).rho


def test_what_is_not_named_in_the_format_may_stand_under_extra(valid, tmp_path):
    path = tmp_path / "more.h5"
    shutil.copy(valid, path)
    with h5py.File(path, "r+") as file:
        group = file.create_group("extra/ours", track_order=True)
        group["grid"] = np.zeros((3, 4))
        group.attrs["who"] = "us"
    assert validate(path) == []
    with regime_proto.open_trajectory(path) as opened:
        assert "grid" not in opened
