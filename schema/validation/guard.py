"""Checks a file in a process of its own: a file can be made to crash the HDF5 library, or to keep it busy."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from regime_proto.schema.errors import TrajectoryError
from regime_proto.schema.files import segments_folder
from regime_proto.schema.nearest import no_such
from regime_proto.schema.validation import trust
from regime_proto.schema.validation.rules import Problem

# Beside the interpreter and its libraries.
MEMORY_BYTES = 400 * 2**20
SECONDS = 3.0
# A file may take a second more for so many bytes.
BYTES_PER_SECOND = 10 * 2**20
# Waiting for a slow file system is not counted by the limit above.
WAITING_SECONDS = 600.0

OUT_OF_MEMORY = 3
_MODULE = "regime_proto.schema.validation.check"


def validate(path: str | os.PathLike[str]) -> list[Problem]:
    """Hold a trajectory file against every rule of the format.

    The file is looked at in a process of its own, with limits on memory and time.

    Parameters
    ----------
    path : path

    Returns
    -------
    list of Problem
        Empty for a valid file. Problems of severity ``error`` make readers refuse it.

    Raises
    ------
    TrajectoryError
        There is no such file, or it cannot be read.
    """
    path = Path(path)
    require_file(path)
    return inspect_apart(path, whole=True)


def require_file(path: Path) -> None:
    """Raise a `TrajectoryError` unless `path` is a file that can be read."""
    if not path.is_file():
        if path.exists():
            raise TrajectoryError(f"{path}: not a file; expected a trajectory")
        segments = segments_folder(path)
        if segments.is_dir():
            raise TrajectoryError(
                f"{path}: no such file or directory; {segments} holds an unfinished run: finish it with regime merge"
            )
        raise TrajectoryError(no_such(path))
    if not os.access(path, os.R_OK):
        raise TrajectoryError(f"{path}: cannot be read; mend its permissions")


def inspect_apart(path: Path, *, whole: bool) -> list[Problem]:
    """Return what is wrong with a file, found out by a child process; one without problems is trusted from then on.

    Parameters
    ----------
    path : Path
    whole : bool
        Look at the values of all rows too, not only at what every reader relies on.
    """
    seconds = SECONDS + path.stat().st_size / BYTES_PER_SECOND
    arguments = [str(path.resolve()), "whole" if whole else "brief", str(MEMORY_BYTES), str(seconds)]
    problems = outcome(run_child([sys.executable, "-P", "-m", _MODULE, *arguments]), seconds)
    if not problems:
        trust.record(path)
    return problems


def run_child(command: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run a check, and wait until it is done or has taken too long."""
    # No filter plug-ins, and no more threads than one, whose stacks would count as memory.
    settings = {"HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        return subprocess.run(  # noqa: S603
            command,
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAITING_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, -signal.SIGXCPU, "", "")


def outcome(done: "subprocess.CompletedProcess[str]", seconds: float) -> list[Problem]:
    """Return the problems that a child reported, or the one that it came to grief."""
    if done.returncode == 0:
        return [Problem(*fields) for fields in json.loads(done.stdout)]
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        found = f"a file that takes longer than its size explains ({seconds:.0f} s, more where all rows are read)"
    elif done.returncode == OUT_OF_MEMORY:
        found = f"a file that takes more than {MEMORY_BYTES / 2**20:.0f} MiB of memory"
    elif done.returncode < 0:
        found = f"a file that crashes the HDF5 library (signal {-done.returncode})"
    else:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise TrajectoryError(f"the check could not run: {reason[0]}")
    return [Problem("file-safe", "/", "a file that can be read safely", found)]
