"""Commands on a pseudo-terminal."""

import functools
import os
import pty
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import children

REGIME = Path(sys.executable).with_name("regime")


def on_a_terminal(*arguments, **variables):
    """Run a command on a pseudo-terminal, and return what it shows there."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [REGIME, *map(str, arguments)], stdin=child, stdout=child, stderr=child, env=environment(**variables)
    )
    os.close(child)
    shown = read_to_end(parent)
    process.wait()
    return shown


def on_a_terminal_at_once(*arguments, **variables):
    """The same, in a process that has its imports done."""
    parent, child = pty.openpty()
    process = children.start_regime(
        *arguments, env=environment(**variables), prepare=functools.partial(take_terminal, os.ttyname(child))
    )
    with ThreadPoolExecutor(1) as readers:
        shown = readers.submit(read_to_end, parent)
        process.wait()
        os.close(child)
        return shown.result()


def take_terminal(name):
    """Let this process write to a terminal."""
    opened = os.open(name, os.O_RDWR | os.O_NOCTTY)
    for number in range(3):
        os.dup2(opened, number)
    os.close(opened)


def read_to_end(parent):
    shown = b""
    try:
        while piece := os.read(parent, 65536):
            shown += piece
    except OSError:
        # Linux's way to say that nobody writes any more.
        pass
    os.close(parent)
    return shown.decode()


def environment(**variables):
    """What decides on colours as it is here, and the rest as it was."""
    without = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    # What runs the tests elsewhere makes rich believe in terminals.
    without.pop("GITHUB_ACTIONS", None)
    return {**without, "TERM": "xterm-256color", **variables}
