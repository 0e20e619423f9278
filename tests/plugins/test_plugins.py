"""Adapters of other distributions, found through the entry-point group: one that works, and several that are broken."""

import os
import subprocess
import sys
from pathlib import Path

import children
import numpy as np
import pytest

import regime_proto

REGIME = Path(sys.executable).with_name("regime")

MINE = """
import numpy as np
from regime_proto.checkpoints.payload import TOP, Label, Payload

SUFFIXES = (".mine",)


def recognise(path):
    return "files of mine" if path.is_file() else None


def peek(path):
    return Label(step=int(path.read_text().split()[0]), metrics={"loss": 0.5})


def read(path):
    step, *numbers = path.read_text().split()
    return Payload({TOP: {"w": np.array(numbers, np.float32)}}, {"step": int(step), "loss": 0.5})
"""

MODULES = {
    "mine": MINE,
    "cannot_import": "import no_such_framework",
    "raises": "raise RuntimeError('out of order')",
    "lacks_read": MINE.partition("def read")[0],
    "fails_on_looking": MINE.replace('return "files of mine"', "raise KeyError('x')"),
}


@pytest.fixture
def distribution(tmp_path):
    """A distribution as pip installs it, with an adapter in each module; what it lies in is added to the path."""
    site = tmp_path / "site"
    info = site / "fake_adapters-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-adapters\nVersion: 1.0\n")
    lines = [f"{name} = {name}_of_fake" for name in MODULES] + ["absent = no_such_module_of_fake"]
    (info / "entry_points.txt").write_text("\n".join(["[regime_proto.adapters]", *lines]) + "\n")
    for name, code in MODULES.items():
        (site / f"{name}_of_fake.py").write_text(code)
    return site


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for number, step in enumerate((0, 30, 9)):
        (folder / f"{chr(97 + number)}.mine").write_text(f"{step} {step}.5 2")
    return folder


COMMAND = "import sys; sys.path.insert(0, sys.argv.pop(1)); from regime_proto.cli.main import main; main()"


def regime(site, *arguments):
    """Run the command where a distribution can be imported."""
    return children.run(COMMAND, site, *arguments)


def regime_as_a_user(site, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, REGIME, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )


def test_an_adapter_of_another_distribution_reads_its_files(distribution, run):
    done = regime_as_a_user(distribution, "inspect", run)
    assert done.returncode == 0, done.stderr
    assert "mine (files of mine)" in done.stdout
    assert "3, by the step in the payload (step)" in done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines if line and line[-1] == "B"] == [
        ["0", "a.mine"],
        ["9", "c.mine"],
        ["30", "b.mine"],
    ]


def test_broken_ones_warn_and_are_left_out(distribution, run):
    done = regime(distribution, "inspect", run)
    for name, reason in (
        ("cannot_import", "ModuleNotFoundError: No module named 'no_such_framework'"),
        ("raises", "RuntimeError: out of order"),
        ("absent", "ModuleNotFoundError: No module named 'no_such_module_of_fake'"),
        ("lacks_read", "expected the functions of a protocol"),
        ("fails_on_looking", "KeyError: 'x'"),
    ):
        assert f"adapter '{name}'" in done.stderr
        assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_without_them_nothing_is_said(run):
    done = regime(run, "inspect", run)
    assert done.returncode == 1
    assert "no checkpoint found (it holds a.mine, b.mine, c.mine)" in done.stderr
    assert "adapter '" not in done.stderr


def test_one_that_fails_on_a_file_is_named(distribution, run):
    (run / "b.mine").write_text("no number")
    done = regime(distribution, "inspect", run)
    assert done.returncode == 1
    assert "b.mine: adapter 'mine' fails on it (ValueError: invalid literal for int()" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_it_reads_is_converted(distribution, run, tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(distribution)!r})
import numpy as np, onnx
from onnx import helper, TensorProto
nodes = [helper.make_node("Mul", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
weights = [helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 1.0])]
graph = helper.make_graph(nodes, "g", [value("x", [3, 2])], [value("z", [3, 2])], weights)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
import regime_proto
regime_proto.convert({str(run)!r}, {str(tmp_path / "run.h5")!r}, model=model, probe=np.ones((3, 2), np.float32))
"""
    done = children.run(code)
    assert done.returncode == 0, done.stderr
    with regime_proto.open_trajectory(tmp_path / "run.h5") as found:
        assert found.attrs["source_adapter"] == "mine"
        assert found["weight_delta_l1"].values[1:, 0].tolist() == [9, 21]
        assert found["metric_loss"].values.tolist() == [0.5] * 3
        assert not np.isnan(found["flips"]).any()
