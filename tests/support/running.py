"""Runs an example as its description says."""

import contextlib
import io
import os
import runpy
import subprocess
import sys

import pytest

apart_too = pytest.mark.parametrize("apart", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "apart"])
"""Runs a test in this process, where libraries are imported already, and in the slow suite by `run_module` apart."""


def run_module(name, *arguments, folder, apart=False):
    """Do what ``python -m NAME ARGUMENTS`` does in a folder, in this process or apart; return what it says."""
    given = [os.fspath(argument) for argument in arguments]
    if apart:
        done = subprocess.run([sys.executable, "-m", name, *given], capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(said):
        patched.chdir(folder)
        patched.setattr(sys, "argv", [name, *given])
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    return said.getvalue()
