"""The code blocks of README and manual: where they are, how each is run, and what it prints.

Conventions of the pages, which `tests/docs/test_code_blocks.py` holds:

* ``sh`` blocks of `regime`, `python`, `pip` and `make` commands are run line by line; any other ``sh`` block is run by
  bash.
* A ``python`` block whose first line is ``# NAME.py`` is written to that file, for a command or block that comes after.
  Every other one is run; the blocks of a page share their variables.
* A ``text`` block shows output: of the commands in it, which begin with ``$ ``, or of the block before it.
* ``<!-- not run: REASON -->`` before a block says why it is not run. Its syntax is checked all the same.
* ``<!-- libraries: NAME NAME -->`` at the top of a page names libraries that `make test` does not install.
"""

import contextlib
import difflib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import regime
from folders import ROOT

DOCS = ROOT / "docs"
# Notebooks are run when the manual is built; results of trainings that take hours have tests of their own.
_LEFT_OUT = ("docs/gallery/", "docs/api/", "docs/paper.md", "docs/paper/", "docs/_build/")
_FENCE = re.compile(r"^ *```([\w-]+) *\n(.*?)^ *``` *$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- not run: (.+?) -->\s*\Z")
_LIBRARIES = re.compile(r"\A(?:---\n.*?---\n)?\s*<!-- libraries: ([\w. ]+) -->", re.DOTALL)
RUN = ("sh", "python", "text", "toml", "r")
"""Languages that are run or checked."""
NOT_CODE = ("bibtex",)
CUT = "…"
"""A line of an output that stands for lines that are left out."""
_IN_PROCESS = ("regime", "python", "pip", "make")
_OPTIONAL = ("parallel", "Rscript", "ncdump")


@dataclass(frozen=True)
class Block:
    """A code block of a page."""

    page: str
    line: int
    language: str
    text: str
    not_run: str = ""

    @property
    def file(self):
        """The name of the file that the block is to be saved as; empty if it has none."""
        found = re.match(r"# ([\w/]+\.(?:py|toml))$", self.text.partition("\n")[0])
        return found[1] if found else ""

    @property
    def commands(self):
        """The commands of an ``sh`` block, lines that go on joined."""
        joined = self.text.replace("\\\n", " ")
        return [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def pages():
    """Return the names of README and of all pages of the manual, relative to the repository."""
    found = (str(path.relative_to(ROOT)) for path in sorted(DOCS.rglob("*.md")))
    return ["README.md", *(name for name in found if not name.startswith(_LEFT_OUT))]


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def libraries_of(page):
    """Return the libraries that a page needs, and `make test` does not install."""
    found = _LIBRARIES.match(read(page))
    return tuple(found[1].split()) if found else ()


def blocks_of(page):
    """Return the blocks of a page in their order."""
    text = read(page)
    found = []
    for match in _FENCE.finditer(text):
        mark = _MARK.search(text[: match.start()])
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, match[1], match[2], mark[1] if mark else ""))
    return found


def compare(found, shown):
    """Fail if an output differs from the one that is shown, in which a line ``…`` stands for any lines.

    Numbers may differ in the last place between processors, and so may a step; words and layout may not.
    """
    lines, start = without_numbers(found), 0
    parts = "".join(line if line.strip() != CUT else "\0" for line in shown.splitlines(keepends=True)).split("\0")
    for number, part in enumerate(parts):
        wanted = without_numbers(part)
        begins = [number for number in range(start, len(lines) + 1) if lines[number : number + len(wanted)] == wanted]
        begins = begins[:1] if number else [begin for begin in begins if begin == 0]
        is_end = number == len(parts) - 1 and (part.strip() or number == 0)
        if not begins or (is_end and begins[0] + len(wanted) != len(lines)):
            changes = "\n".join(difflib.unified_diff(without_numbers(shown), lines, "shown", "printed", lineterm=""))
            raise AssertionError(f"the page shows a different output; `make outputs` renews it\n{changes}")
        start = begins[0] + len(wanted)
    rho = [[float(value) for value in re.findall(r"^ρ +([\d.]+)", text, re.MULTILINE)] for text in (found, shown)]
    if len(rho[0]) == len(rho[1]):
        assert rho[0] == pytest.approx(rho[1], abs=0.05)


def without_numbers(text):
    """Return the lines of an output without what differs between processors: numbers, bars, the width of columns."""
    lines = (re.sub(r"[\d.▁▂▃▄▅▆▇█]+(e-?#)?", "#", line) for line in text.strip().splitlines())
    return [re.sub(r"#e-#", "#", re.sub(r" +", " ", line)).rstrip() for line in lines]


class Runner:
    """Runs the blocks of one page, one after the other, in one folder.

    Parameters
    ----------
    folder : Path
        What the page speaks of is there.
    scope : dict
        Variables that its Python blocks find.
    """

    def __init__(self, folder, scope):
        self.folder = folder
        self.scope = {"__name__": "__page__", **scope}
        self.printed = ""
        self.done = 0
        self._distribution = ""

    def run_to(self, blocks, block):
        """Run a block, and before it those of its page that have not been run yet; return what it printed."""
        while self.done <= blocks.index(block):
            current = blocks[self.done]
            self.done += 1
            self.run(current)
        return self.printed

    def run(self, block):
        """Run a block; an output that is shown is not compared here, but the commands in it are run."""
        with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
            patched.chdir(self.folder)
            patched.syspath_prepend(self.folder)
            # What libraries say of each other is not the page's.
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", module="regime_proto")
            try:
                if block.not_run:
                    check_syntax(block)
                elif block.language in RUN:
                    getattr(self, f"_{block.language}")(block)
            finally:
                self._forget_modules()

    def _python(self, block):
        if block.file:
            self._save(block)
            return
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block.text, f"{block.page}:{block.line}", "exec"), self.scope)
        self.printed = printed.getvalue()

    def _toml(self, block):
        tomllib.loads(block.text)
        if block.file:
            self._save(block)

    def _save(self, block):
        path = self.folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")

    def _sh(self, block):
        programs = {command.split()[0] for command in block.commands}
        plain = programs <= set(_IN_PROCESS) and not re.search(r"[|&>$]", "".join(block.commands).replace("<", ""))
        if plain:
            self.printed = "".join(self._command(command) for command in block.commands)
        else:
            self.printed = self._bash(block.text)

    def _r(self, block):
        (self.folder / "page.R").write_text(block.text, encoding="utf-8")
        self.printed = self._bash("Rscript page.R")

    def _text(self, block):
        commands = commands_shown(block)
        if commands:
            self.printed = "".join(f"$ {command}\n{self._command(command, fails=None)}" for command in commands)

    def _command(self, command, *, fails=False):
        """Run a command; it must fail, must not, or may do either (None). Return what it printed."""
        program, *arguments = shlex.split(command, comments=True)
        if program == "regime":
            return self._regime(command, arguments, fails)
        if program == "python":
            return run_python(arguments)
        if program == "pip":
            return self._pip(arguments)
        if program == "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert arguments[0] in targets, command
            return ""
        return self._bash(command)

    def _regime(self, command, arguments, fails):
        if self._distribution:
            environment = {**os.environ, "PYTHONPATH": str(self.folder)}
            script = Path(sys.executable).with_name("regime")
            ran = subprocess.run(
                [sys.executable, script, *arguments], env=environment, capture_output=True, text=True, timeout=120
            )
            code, output = ran.returncode, ran.stdout + ran.stderr
        else:
            result = regime(*as_a_shell_does(arguments))
            code, output = result.exit_code, result.output
        assert "Traceback" not in output, (command, output)
        if fails is False:
            assert code == 0, (command, output)
        return output

    def _pip(self, arguments):
        """Check that what would be installed is ours; a distribution of the page is laid out as pip does it."""
        assert arguments[0] == "install"
        if arguments[1:] == ["-e", "."]:
            project = tomllib.loads((self.folder / "pyproject.toml").read_text())["project"]
            info = self.folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
            )
            lines = [
                line
                for group, entries in project["entry-points"].items()
                for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
            ]
            (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
            self._distribution = project["name"]
            return ""
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        ours = [re.fullmatch(r"regime-proto(?:\[([\w,]+)\])?", name) for name in arguments[1:]]
        assert any(ours), arguments
        for match in filter(None, ours):
            assert set((match[1] or "cpu").split(",")) <= set(known), arguments
        return ""

    def _bash(self, text):
        for name in _OPTIONAL:
            if (
                re.search(rf"\b{name}\b", text)
                and not shutil.which(name)
                and "REGIME_REQUIRE_READERS" not in os.environ
            ):
                pytest.skip(f"{name} is not installed")
        # Dask has a module for what it installs as a program, which may not be on the path of a test.
        text = re.sub(r"^dask (\w+)", rf"{sys.executable} -m distributed.cli.dask_\1", text, flags=re.MULTILINE)
        script = f"set -eo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait || true' EXIT\n{text}"
        # What runs in the background ends with the shell.
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        ran = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def _forget_modules(self):
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if file and Path(file).is_relative_to(self.folder):
                del sys.modules[name]


def commands_shown(block):
    """Return the commands of a ``text`` block."""
    return [line.removeprefix("$ ") for line in block.text.splitlines() if line.startswith("$ ")]


def as_a_shell_does(arguments):
    """Replace patterns by the files that fit, in the current directory."""
    for argument in arguments:
        found = sorted(map(str, Path().glob(argument))) if re.search(r"[*]", argument) and "/" in argument else []
        # A directory keeps the slash at its end.
        yield from (f"{path}/" if argument.endswith("/") else path for path in found) if found else [argument]


def run_python(arguments):
    """Do what ``python ARGUMENTS`` does, in this process; return what it prints."""
    is_module = arguments[0] == "-m"
    name, rest = (arguments[1], arguments[2:]) if is_module else (arguments[0], arguments[1:])
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(io.StringIO()) as printed:
        patched.setattr(sys, "argv", [name, *rest])
        if is_module:
            # As a process that has imported nothing.
            patched.delitem(sys.modules, name, raising=False)
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(name, run_name="__main__")
    return printed.getvalue()


def check_syntax(block):
    """Fail if a block that is not run would not even be read by its language."""
    if block.language == "python":
        compile(block.text, f"{block.page}:{block.line}", "exec")
    elif block.language == "sh":
        done = subprocess.run(["bash", "-nc", block.text], capture_output=True, text=True)
        assert done.returncode == 0, (block.page, block.line, done.stderr)
