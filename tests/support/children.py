"""Processes of their own that start at once: forked from one that has imported what they need.

A test that starts ``python -c`` waits a second or more for imports. One that is about imports, or about the start of a
process, must do so; all others take these.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

_PRELOADED = (
    "h5py", "numpy", "onnx_ir", "onnxruntime", "rich.console", "safetensors.torch", "torch", "torch.export", "xarray",
    "regime_proto.analyzer.analyze", "regime_proto.cli.main", "regime_proto.conversion.run",
    "regime_proto.recording.record", "regime_proto.plugins.registry",
)  # fmt: skip

spent: list[float] = []
"""Seconds of processor time of those that have ended by themselves; their parent is another process."""


@dataclass(frozen=True)
class Child:
    """A process, and where its output goes."""

    process: BaseProcess
    out: Path
    err: Path
    times: Path

    @property
    def pid(self):
        return self.process.pid

    @property
    def returncode(self):
        """As `subprocess.Popen` has it: None while it runs, negative after a signal."""
        return self.process.exitcode

    @property
    def stdout(self):
        """What it has written so far."""
        return self.out.read_text(errors="replace")

    @property
    def stderr(self):
        """What it has written so far."""
        return self.err.read_text(errors="replace")

    def send_signal(self, number):
        os.kill(self.process.pid, number)

    def kill(self):
        self.process.kill()

    def wait(self, timeout=120):
        """Wait for its end, and return what `subprocess.run` returns."""
        self.process.join(timeout)
        if self.times.exists():
            spent.append(float(self.times.read_text()))
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still running after {timeout} s: {self.stdout}{self.stderr}")
        return subprocess.CompletedProcess([], self.process.exitcode, self.stdout, self.stderr)

    def wait_for(self, is_there, timeout=60):
        """Wait until something is there that it makes."""
        until = time.monotonic() + timeout
        while not is_there():
            assert self.process.is_alive(), f"ended with {self.process.exitcode}: {self.stdout}{self.stderr}"
            assert time.monotonic() < until, f"nothing after {timeout} s: {self.stdout}{self.stderr}"
            time.sleep(0.01)


def start(code, *arguments, env=None, cwd=None, prepare=None):
    """Start a process that runs Python code, as ``python -c CODE ARGUMENTS`` does.

    Parameters
    ----------
    code : str
    *arguments
        Its ``sys.argv[1:]``.
    env : mapping, optional
        All of its environment.
    cwd : path, optional
    prepare : callable, optional
        A function of a module, called first, for limits of the process.
    """
    folder = Path(tempfile.mkdtemp(prefix="regime-child-"))
    out, err = folder / "out", folder / "err"
    out.touch()
    err.touch()
    texts = [str(argument) for argument in arguments]
    times = folder / "times"
    what = (code, texts, dict(os.environ if env is None else env), str(cwd or Path.cwd()), prepare, out, err, times)
    process = _context().Process(target=_work, args=what)
    process.start()
    return Child(process, out, err, times)


def run(code, *arguments, timeout=120, **options):
    """Run Python code in a process of its own to its end."""
    return start(code, *arguments, **options).wait(timeout)


_COMMAND = "import sys; from regime_proto.cli.main import main; sys.argv[0] = 'regime'; main()"


def start_regime(*arguments, **options):
    """Start ``regime ARGUMENTS``."""
    return start(_COMMAND, *arguments, **options)


def run_regime(*arguments, timeout=120, **options):
    """Run ``regime ARGUMENTS`` to its end."""
    return start_regime(*arguments, **options).wait(timeout)


def _context():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    return context


def _work(code, arguments, environment, folder, prepare, out, err, times):
    for number, path in ((1, out), (2, err)):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["-c", *arguments]
    if prepare is not None:
        prepare()
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    finally:
        times.write_text(str(sum(os.times()[:4])))
