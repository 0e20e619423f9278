"""The way from an installation to a report, as it is written down for a new user, and as the demo goes it."""

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import sys
import tomllib

import pytest
from commands import REGIME, assert_one_line, regime, tree
from folders import ROOT

QUICKSTART = (ROOT / "examples/quickstart.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What `regime demo` said, and the folder in which its training and analysis are. Read only."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        return regime("demo", "--out", "demo-run"), folder / "demo-run"


def as_typed(command):
    """Run a command line of Python or regime, and return what it printed."""
    program, *arguments = shlex.split(command)
    if program == "regime":
        done = regime(*arguments)
        assert done.exit_code == 0, (command, done.output)
        return done.stdout
    assert (program, arguments[0]) == ("python", "-m")
    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.redirect_stdout(io.StringIO()) as printed:
        monkeypatch.setattr(sys, "argv", arguments[1:])
        # As a process that starts anew.
        monkeypatch.delitem(sys.modules, arguments[1], raising=False)
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    return printed.getvalue()


def test_five_commands_lead_to_a_report(demo, tmp_path, monkeypatch):
    install, *others = re.findall(r"```sh\n(.*)\n```", QUICKSTART)
    assert len(others) == 4
    [extras] = re.findall(r'^pip install "regime-proto\[([\w,]+)\]"$', install)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)
    # The command is installed beside the interpreter that runs the tests.
    assert os.access(REGIME, os.X_OK)
    monkeypatch.chdir(tmp_path)
    said = "".join(map(as_typed, others))
    assert re.search(r"^ρ +1\.\d\d", said, re.MULTILINE)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Patterns may have settled earlier than weights" in page
    assert (tmp_path / "run/checkpoints.regime.h5").is_file()
    # It is the demo, step by step.
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


def test_the_output_that_the_readme_shows_is_the_output(demo, monkeypatch):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"```text\n(\$ regime analyze.*?)```", readme, re.DOTALL)
    command, _, expected = shown.partition("\n")
    monkeypatch.chdir(demo[1].parent)
    found = [line.rstrip() for line in as_typed(command.removeprefix("$ ")).splitlines()]
    lines = [line.rstrip() for line in expected.splitlines() if not line.startswith(("wrote", "nothing"))]

    # Numbers may differ in the last place between processors; words and layout may not.
    def words(text):
        return [re.sub(r"[\d.▁▂▃▄▅▆▇█]+", "#", line) for line in text]

    assert words(found) == words(lines)
    rho = [float(re.search(r"ρ +([\d.]+)", "\n".join(text))[1]) for text in (found, lines)]
    assert rho[0] == pytest.approx(rho[1], abs=0.05)


def test_links_between_documents_lead_somewhere():
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples/quickstart.md"):
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            aim = (path.parent / name).resolve() if name else path
            assert aim.exists(), (path.name, target)
            if anchor and aim.suffix == ".md":
                assert anchor in anchors(aim.read_text(encoding="utf-8")), (path.name, target)


def anchors(text):
    """The anchors of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
