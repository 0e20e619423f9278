"""Every rule of the format has a file that breaks it, and is found; valid files have no problem."""

import re
import shutil
import sys
import time

import h5py
import numpy as np
import pytest
import trajectories
from spoils import SPOILS, replaced, stranger, wrong_flips

import regime_proto
from regime_proto.schema import reader, validate
from regime_proto.schema.header import Header, Layer
from regime_proto.schema.validation.check import problems_of
from regime_proto.schema.validation.guard import outcome, run_child
from regime_proto.schema.validation.rules import RULES


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    return trajectories.write(tmp_path_factory.mktemp("valid") / "sampled.h5", sampled=True)


@pytest.mark.parametrize("options", [{}, {"sampled": True}, {"policy": "none"}, {"policy": "every=10"}, {"count": 1}])
def test_a_valid_file_has_no_problem(tmp_path, options):
    path = trajectories.write(tmp_path / "run.h5", **options)
    assert validate(path) == []
    with regime_proto.open_trajectory(path) as opened:
        assert opened.sizes["step"] == options.get("count", 70)


@pytest.mark.parametrize("steps", [1, 80])
def test_a_synthetic_trajectory_is_valid(tmp_path, steps):
    assert validate(regime_proto.synthetic.trajectory(steps=steps, path=tmp_path / "run.h5")) == []


CASES = [pytest.param(rule, *case, id=f"{rule}-{case[0].__name__}") for rule, cases in SPOILS.items() for case in cases]


@pytest.mark.parametrize(("rule", "spoil", "expected", "options"), CASES)
def test_a_broken_rule_is_found(valid, sampled, tmp_path, rule, spoil, expected, options):
    path = tmp_path / "wrong.h5"
    shutil.copy(sampled if options.get("sampled") else valid, path)
    with h5py.File(path, "r+", track_order=False) as file:
        spoil(file)
    found = [problem for problem in problems_of(path, whole=True) if problem.rule == rule]
    assert found, problems_of(path, whole=True)
    assert expected in str(found[0])


@pytest.mark.parametrize("row", [1, 63, 64, 65, 69])
def test_wrong_flips_are_found_wherever_blocks_begin(valid, tmp_path, monkeypatch, row):
    path = tmp_path / "wrong.h5"
    shutil.copy(valid, path)
    monkeypatch.setattr(reader, "BLOCK_BYTES", 64 * 18)
    assert problems_of(path, whole=True) == []
    with h5py.File(path, "r+") as file:
        file["flips"][row, 0, 2] ^= 1
    [problem] = problems_of(path, whole=True)
    assert (problem.rule, problem.found) == ("mask-flips", f"other numbers in row {row}")


def test_other_writers_may_lay_it_out_otherwise(valid, tmp_path):
    """Other chunks and filters, the other byte order, strings of fixed length, no limit where none is needed."""
    path = tmp_path / "other.h5"
    shutil.copy(valid, path)
    with h5py.File(path, "r+", track_order=False) as file:
        replaced(file, "step", data=file["step"][...].astype(">i8"), chunks=(7,), maxshape=(None,), fletcher32=True)
        replaced(file, "flips", chunks=(5, 1, 3), maxshape=(None, 2, 3), shuffle=True, compression=1)
        replaced(file, "mask", chunks=(70, 3, 6), maxshape=(None, 3, 6))
        replaced(file, "weight_delta_l1", data=file["weight_delta_l1"][...].astype(">f8"))
        replaced(file, "layer_op", data=np.array([b"Relu", b"Clip"]))
    assert {problem.rule for problem in validate(path)} == {"dimension-unlimited"}
    with pytest.warns(regime_proto.RegimeWarning, match="an unlimited first axis"):
        assert regime_proto.analyze(path).rho == regime_proto.analyze(valid).rho


@pytest.mark.usefixtures("own_processes")
def test_a_process_that_starts_anew_finds_the_same(valid, tmp_path):
    """Other tests fork those that check, from one that has the imports done."""
    path = tmp_path / "wrong.h5"
    shutil.copy(valid, path)
    assert validate(path) == []
    with h5py.File(path, "r+", track_order=False) as file:
        wrong_flips(file)
        stranger(file)
    assert validate(path) == problems_of(path, whole=True)
    assert {problem.rule for problem in validate(path)} == {"mask-flips", "name-known"}


# These come to light before a file is open.
OPENING = {"file-hdf5", "file-safe"}


def test_every_rule_has_a_file_that_breaks_it():
    assert set(SPOILS) | OPENING == set(RULES)


@pytest.mark.parametrize("content", [b"", b"hello" * 1000, b"\x89HDF\r\n\x1a\n" + bytes(500)])
def test_what_is_no_hdf5_file_is_a_problem(tmp_path, content):
    path = tmp_path / "run.h5"
    path.write_bytes(content)
    [problem] = validate(path)
    assert problem.rule == "file-hdf5"


@pytest.mark.parametrize(("mebibytes", "count"), [(50, 2**23), pytest.param(None, 2**26, marks=pytest.mark.slow)])
def test_a_file_that_needs_much_memory_is_a_problem(tmp_path, monkeypatch, mebibytes, count):
    """Some megabytes of zeros, every length and chunk as it may be; but reading the steps alone takes too much."""
    if mebibytes is not None:
        monkeypatch.setenv("REGIME_LIMIT_MEMORY", str(mebibytes))
    most = mebibytes or 400
    layer = Layer("only", "Relu", "relu", "", 8)
    head = Header({"w": 1}, (layer,), 1, trajectories.ATTRIBUTES)
    path = trajectories.write(tmp_path / "wrong.h5", head, count=1)
    rows = 2**22
    with h5py.File(path, "r+", track_order=False) as file:
        for variable in head.variables:
            if not variable.grows:
                continue
            old = file[variable.name]
            tail, dtype = old.shape[1:], old.dtype
            stored = replaced(
                file, variable.name, shape=(count, *tail), maxshape=(None, *tail), chunks=(rows, *tail), dtype=dtype,
                compression=9,
            )  # fmt: skip
            chunk = trajectories.zeros(rows * dtype.itemsize)
            for start in range(0, count, rows):
                stored.id.write_direct_chunk((start, *(0 for _ in tail)), chunk)
    assert path.stat().st_size < 5 * 10**6
    start = time.monotonic()
    [problem] = validate(path)
    assert problem.rule == "file-safe"
    assert time.monotonic() - start < 10
    # Whoever follows the advice meets the next limit.
    monkeypatch.setenv("REGIME_LIMIT_INFLATION", re.search(r"REGIME_LIMIT_INFLATION=(\d+)", problem.found)[1])
    with pytest.raises(
        regime_proto.TrajectoryError, match=rf"more than {most} MiB .* set REGIME_LIMIT_MEMORY={2 * most}"
    ):
        regime_proto.open_trajectory(path)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.abort()", r"crashes the HDF5 library \(signal 6\)"),
        ("import ctypes; ctypes.string_at(0)", r"crashes the HDF5 library \(signal 11\)"),
        ("import sys; sys.exit(3)", "takes more than 400 MiB"),
        (
            "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass",
            "takes longer than its size explains",
        ),
    ],
)
def test_a_child_that_comes_to_grief_is_a_problem(code, message):
    [([problem], _)] = outcome(run_child([sys.executable, "-c", code]), 1.0)
    assert problem.rule == "file-safe"
    assert re.search(message, problem.found)


def test_a_check_that_cannot_run_is_an_error():
    with pytest.raises(regime_proto.TrajectoryError, match="could not run: ZeroDivisionError"):
        outcome(run_child([sys.executable, "-c", "1 / 0"]), 1.0)
