"""Runs what an advice says, and makes what it is about."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import children
import nets
import pytest
import torch
from folders import SUPPORT

from regime_proto.plugins.open_directory import open_directory

STATES = 4


# Instead of a Python that imports everything anew: what the shell would give it.
TELL = 'python() { printf "%s\\0" "$@"; }; '


def run_the_command(text, *, by="fork"):
    """Run the command of an advice; return the directory that it names.

    A shell reads it in any case. What it hands to Python runs in a process forked from one with torch (``fork``), in
    this one, which has the libraries imported (``exec``), or as a user runs it (``shell``).
    """
    assert len(text.splitlines()) == 1
    command, out = re.search(
        r"((?:python -c|for d in) .*); then use (.*?)(?: with --weights .*| and, as the model, .*)?$", text
    ).groups()
    # Where the model's code is, and with this Python.
    places = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    by = by if command.startswith("python -c ") else "shell"
    shell = ["bash", "-c", command if by == "shell" else TELL + command]
    done = subprocess.run(shell, cwd=SUPPORT, env=places, capture_output=True, text=True)
    if by != "shell":
        option, code, *arguments = done.stdout.removesuffix("\0").split("\0")
        assert option == "-c"
        if by == "exec":
            exec_here(code, arguments)
        else:
            done = children.run(code, *arguments, cwd=SUPPORT, env=places)
    assert done.returncode == 0, done.stderr
    return Path(out)


def exec_here(code, arguments):
    with pytest.MonkeyPatch.context() as monkeypatch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monkeypatch.setattr(sys, "argv", ["-c", *arguments])
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def save_run(folder, plain, save):
    for step, trained in enumerate(nets.train(nets.make_mlp(), STATES)):
        folder.mkdir(parents=True, exist_ok=True)
        plain.mkdir(exist_ok=True)
        save(trained, step)
        torch.save(trained.state_dict(), plain / f"step_{step}.pt")


def read_the_first(folder):
    source = open_directory(folder)
    source.read(source.checkpoints[0])


def write(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
