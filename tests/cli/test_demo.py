"""`make demo`: a training and its analysis, from one command."""

import os
import shutil

import pytest
from code_blocks import blocks_of, run_python
from commands import REGIME, assert_one_line, regime, tree

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What `regime demo` said, and the folder in which its training and analysis are. Read only."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        return regime("demo", "--out", "demo-run"), folder / "demo-run"


def test_it_is_the_quickstart_step_by_step(demo, tmp_path, monkeypatch):
    # The command is installed beside the interpreter that runs the tests.
    assert os.access(REGIME, os.X_OK)
    monkeypatch.chdir(tmp_path)
    _, [training], [program], *_ = (
        block.commands for block in blocks_of("docs/quickstart.md") if block.language == "sh"
    )
    run_python(training.split()[1:])
    assert regime(*program.split()[1:]).exit_code == 0
    for name in ("checkpoints/program.onnx", "probe.npz"):
        assert (tmp_path / "run" / name).read_bytes() == (demo[1] / name).read_bytes()


def test_the_demo_trains_and_analyzes(demo):
    result, folder = demo
    assert result.exit_code == 0, result.output
    assert "$ regime analyze" in result.stderr
    assert "73 observations" in result.stdout
    assert float((folder / "validation_accuracy.txt").read_text()) > 0.9


def test_the_demo_goes_on_where_it_is(demo, tmp_path):
    shutil.copytree(demo[1], tmp_path / "demo")
    again = regime("demo", "--out", tmp_path / "demo")
    assert "nothing changed" in again.stderr
    before = tree(tmp_path)
    dry = regime("demo", "--out", tmp_path / "demo", "--dry-run")
    assert (
        f"would write nothing: {tmp_path / 'demo/checkpoints.regime.h5'} already holds all 73 observations"
        in dry.stderr
    )
    assert tree(tmp_path) == before
    (tmp_path / "demo/checkpoints/program.onnx").unlink()
    before = tree(tmp_path)
    half = regime("demo", "--out", tmp_path / "demo", "--dry-run")
    assert f"would write {tmp_path / 'demo/checkpoints/program.onnx'} (" in half.stderr
    assert f"would replace {tmp_path / 'demo/checkpoints.regime.h5'} (" in half.stderr
    assert tree(tmp_path) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    assert_one_line(regime("demo", "--out", tmp_path / "mine"), "mine: exists and is not a demo")
