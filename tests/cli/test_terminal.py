"""Colours and bars: on a terminal that wants them, and nowhere else."""

import re
import subprocess

import children
import numpy as np
import pytest
from terminals import REGIME, environment, on_a_terminal, on_a_terminal_at_once

import regime_proto

ESCAPE = "\x1b["


SLOW = """
import time
import numpy as np
import onnx

def make():
    time.sleep(2)
    net = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> net (float[N,4] x) => (float[N,3] y) { h = Gemm(x, w) y = Relu(h) }'
    )
    net.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), "w"))
    return net
"""


@pytest.fixture(scope="module")
def trajectory(tmp_path_factory):
    return regime_proto.synthetic.trajectory(steps=9, path=tmp_path_factory.mktemp("terminal") / "run.h5")


# What draws by click, and by rich-click.
@pytest.mark.parametrize(
    ("start", "arguments"),
    [(on_a_terminal_at_once, ["validate", "{}"]), (on_a_terminal, ["analyze", "{}.none"]), (on_a_terminal, ["--help"])],
)
def test_colours_are_on_on_a_terminal_only(trajectory, start, arguments):
    arguments = [argument.format(trajectory) for argument in arguments]
    assert ESCAPE in start(*arguments)
    assert ESCAPE not in start(*arguments, NO_COLOR="1")
    assert ESCAPE not in start(*arguments, TERM="dumb")
    piped = subprocess.run([REGIME, *arguments], capture_output=True, text=True, env=environment())
    assert ESCAPE not in piped.stdout + piped.stderr


def test_results_and_bars_are_drawn_on_a_terminal_only(mlp_run):
    """What draws by rich."""
    drawn = on_a_terminal_at_once("check", mlp_run)
    assert "\x1b[32mnothing wrong found" in drawn
    assert re.search(r"checking .*━.*\d/8", drawn)
    plain = on_a_terminal_at_once("check", mlp_run, NO_COLOR="1")
    assert "nothing wrong found" in plain
    assert ESCAPE not in plain
    assert "checking" not in plain


def test_linearizing_draws_a_bar(mlp_run, tmp_path):
    command = ["linearize", mlp_run, "--dry-run", "-o", tmp_path / "maps.npz"]
    assert re.search(r"linearizing .*━.*\d/\d", on_a_terminal_at_once(*command))
    assert "━" not in on_a_terminal_at_once(*command, "--quiet")


def test_an_export_that_takes_long_is_said_on_a_terminal_only(tmp_path):
    (tmp_path / "slow_net.py").write_text(SLOW)
    run = tmp_path / "run"
    run.mkdir()
    for step in range(2):
        np.savez(run / f"step_{step}.npz", w=np.full((4, 3), step, np.float32))
    np.save(tmp_path / "probe.npy", np.ones((3, 4), np.float32))
    command = ["analyze", run, "--model", "slow_net:make", "--probe", tmp_path / "probe.npy", "--dry-run"]
    here, said = {"PYTHONPATH": str(tmp_path)}, "exporting the model …"
    assert on_a_terminal(*command, **here).count(said) == 1
    for option in ("--quiet", "--json"):
        shown = on_a_terminal(*command, option, **here)
        assert "dry run: would write" in shown
        assert said not in shown
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from regime_proto.cli.main import main; main()"
    piped = children.run(code, tmp_path, *command)
    assert "dry run: would write" in piped.stderr
    assert said not in piped.stderr
