"""The processes in which the software checks and joins files, forked from one that has the imports done.

What they run, their limits and how they end are the same; an interpreter that starts anew takes 0.3 s each time.
"""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import children

from regime_proto.schema import assemble
from regime_proto.schema.validation import guard

# As ``python -m`` runs a module; that it is imported already is what this is about.
_RUN = "import os, runpy, sys, warnings; warnings.simplefilter('ignore', RuntimeWarning)\n"
_CHECK = f"{_RUN}runpy.run_module({guard._MODULE!r}, run_name='__main__')"
# The parent is not the process that asks, but the one that forks.
_ASSEMBLE = f"{_RUN}sys.argv[1] = str(os.getppid())\nrunpy.run_module({assemble._MODULE!r}, run_name='__main__')"


def install(monkeypatch):
    """Let this process start its children so."""
    monkeypatch.setattr(guard, "run_child", _check)
    started_so = SimpleNamespace(Popen=_Assembling, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr(assemble, "subprocess", started_so)


def _arguments(command, module):
    assert command[:4] == [sys.executable, "-P", "-m", module]
    return command[4:]


def _check(command, descriptors=(), **given):
    """Do what `guard.run_child` does."""
    # The very files that are open here; what another process forks has none of them.
    opened = f"/proc/{os.getpid()}/fd/"
    arguments = [text.replace("/dev/fd/", opened) for text in _arguments(command, guard._MODULE)]
    child = children.start(_CHECK, *arguments)
    done = child.wait(timeout=600)
    shutil.rmtree(child.out.parent)
    return done


class _Assembling:
    """Is what `assemble` needs of a `subprocess.Popen`."""

    def __init__(self, command, **given):
        self._child = children.start(_ASSEMBLE, *_arguments(command, assemble._MODULE))

    @property
    def returncode(self):
        return self._child.returncode

    def communicate(self):
        done = self._child.wait()
        shutil.rmtree(self._child.out.parent)
        return None, done.stderr

    def kill(self):
        self._child.kill()

    def wait(self):
        self._child.process.join()
