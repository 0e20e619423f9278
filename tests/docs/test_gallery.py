"""The notebooks of the gallery run from top to bottom, offline; the manual shows their outputs."""

import ast
import re
import socket
from pathlib import Path

import matplotlib
import pytest
from folders import ROOT

FOLDER = ROOT / "docs/gallery"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "index")
CELL = re.compile(r"^```\{code-cell\} ipython3\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def text_of(name):
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_):
        raise AssertionError("a notebook opens a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def own_folder(monkeypatch, tmp_path):
    """Notebooks change to a temporary folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name, offline, own_folder):
    cells = CELL.findall(text_of(name))
    assert len(cells) > 3
    names, shown = {}, 0
    with matplotlib.rc_context({"backend": "agg"}):
        for cell in cells:
            shown += run_cell(cell, names)
        if "plt" in names:
            names["plt"].close("all")
    assert shown
    assert [*Path.cwd().glob("*.h5")]


def run_cell(cell, names):
    """Run a cell, and return whether it ends with a value that a notebook shows as more than text."""
    *_, last = body = ast.parse(cell).body
    if not isinstance(last, ast.Expr):
        exec(cell, names)
        return False
    exec(compile(ast.Module(body[:-1], []), "cell", "exec"), names)
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    found = [getattr(value, f"_repr_{form}_", None) for form in ("html", "png")]
    return any(show is not None and show() for show in found)


def test_the_gallery_names_all_notebooks():
    [tree] = re.findall(r"```\{toctree\}\n(.*?)```", text_of("index"), re.DOTALL)
    named = [line for line in tree.split() if not line.startswith(":")]
    assert sorted(named) == NOTEBOOKS
    assert len(named) == 5
    for name in named:
        assert f":link: {name}\n" in text_of("index")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_text_with_a_question_and_limits(name):
    text = text_of(name)
    assert text.startswith("---\nfile_format: mystnb\nkernelspec:\n  name: python3\n")
    assert "*Question: " in text
    assert "\n## What not to conclude\n" in text
    # The page is 80 letters wide.
    assert not [line for cell in CELL.findall(text) for line in cell.split("\n") if len(line) > 80]
