"""The recipes for several processes and clusters run as they stand; those that are said not to be tested are whole."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from folders import ROOT
from reading import assert_same
from trainings import save_walk

import regime_proto

PAGE = (ROOT / "docs/clusters.md").read_text(encoding="utf-8")
TESTED, UNTESTED = PAGE.split("\n## Not tested\n")


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    save_walk(folder / "checkpoints", 130)
    regime_proto.convert(folder / "checkpoints", folder / "expected.h5")
    (folder / "runs").mkdir()
    (folder / "runs/a").symlink_to("../checkpoints")
    return folder


def run(folder, *command):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    # What runs in the background ends with the shell.
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("recipe", blocks(TESTED, "sh"))
def test_commands_run_as_they_stand(folder, recipe):
    missing = subprocess.run(["which", "parallel"], capture_output=True).returncode != 0
    if "parallel" in recipe and missing and "REGIME_REQUIRE_READERS" not in os.environ:
        pytest.skip("GNU parallel is not installed")
    # Dask has a module for what it installs as a program, which may not be on the path of a test.
    recipe = re.sub(r"^dask (\w+)", rf"{sys.executable} -m distributed.cli.dask_\1", recipe, flags=re.MULTILINE)
    script = f"set -eo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait || true' EXIT\n{recipe}"
    done = run(folder, "bash", "-c", script)
    assert done.returncode == 0, done.stderr
    [found] = [*folder.glob("run.h5"), *folder.glob("trajectories/a.h5")]
    assert_same(found, folder / "expected.h5")
    found.unlink()


@pytest.mark.parametrize("recipe", blocks(TESTED, "python"))
def test_python_runs_as_it_stands(folder, recipe):
    # Workers import it.
    (folder / "recipe.py").write_text(recipe)
    done = run(folder, sys.executable, "recipe.py")
    assert done.returncode == 0, done.stderr
    assert_same(folder / "run.h5", folder / "expected.h5")
    (folder / "run.h5").unlink()


def test_the_others_are_whole(tmp_path):
    scripts, programs = blocks(UNTESTED, "sh"), blocks(UNTESTED, "python")
    assert scripts
    assert programs
    for script in scripts:
        assert run(tmp_path, "bash", "-nc", script).returncode == 0
    for program in programs:
        compile(program, "recipe", "exec")
