"""Checks files in a separate process: a file can be built to crash the HDF5 library, or to keep it busy."""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from regime_proto.schema.errors import TrajectoryError
from regime_proto.schema.files import SUFFIX, describe, segments_folder
from regime_proto.schema.limits import Limit
from regime_proto.schema.nearest import no_such
from regime_proto.schema.validation import trust
from regime_proto.schema.validation.rules import Problem, errors

# In addition to the interpreter and its libraries; the size of the file is added.
MEMORY = Limit("MEMORY", 400, "MiB of memory for a check")
SECONDS = Limit("SECONDS", 3, "seconds of processor time for a check")
# A file may take one more second per this many bytes.
BYTES_PER_SECOND = 10 * 2**20
# The limit above does not count the time spent waiting for a slow file system.
WAITING_SECONDS = 600.0

OUT_OF_MEMORY = 3
_TOGETHER = 128
# The extent of a check: the parts that every reader relies on; all rows; all rows of a segment.
BRIEF, WHOLE, SEGMENT = "brief", "whole", "segment"
_MODULE = "regime_proto.schema.validation.check"


def validate(path: str | os.PathLike[str]) -> list[Problem]:
    """Check a trajectory file against every rule of the format.

    The check runs in a separate process, with limits on memory and time.

    Parameters
    ----------
    path : path

    Returns
    -------
    list of Problem
        Empty for a file without problems. Readers refuse a file with problems of severity ``error``.

    Raises
    ------
    TrajectoryError
        The file does not exist, or cannot be read.
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
                f"{path}: no such file or directory; {segments} holds an unfinished run: run the command that "
                "wrote it again, which measures the rest; regime merge only joins what was measured"
            )
        raise TrajectoryError(no_such(path))
    if not os.access(path, os.R_OK):
        raise TrajectoryError(f"{path}: cannot be read; fix its permissions")


def inspect_apart(path: Path, *, whole: bool) -> list[Problem]:
    """Return the problems of a file, found by a child process; a file that readers may open is remembered.

    Parameters
    ----------
    path : Path
    whole : bool
        Also check the values of all rows, not only the parts that every reader relies on.

    Raises
    ------
    TrajectoryError
        The file cannot be read, or changed while it was checked.
    """
    extent = BRIEF if not whole else SEGMENT if path.absolute().parent.name.endswith(SUFFIX) else WHOLE
    [(problems, known)] = _examine([path], extent)
    if known is not None:
        trust.record(path, known)
    return problems


def require_checked(path: Path) -> trust.Record:
    """Return the record of a file, after a check if this machine has neither written nor checked it.

    Raises
    ------
    TrajectoryError
        Readers refuse the file; the message names the first broken rule.
    """
    known = trust.recall(path)
    if known is None:
        [known] = require_all_checked([path])
        trust.record(path, known)
    return known


def require_all_checked(
    paths: Sequence[Path], *, require: Callable[[list[Problem], Path], None] | None = None
) -> list[trust.Record]:
    """Return the records of several files, checked together; the records are not saved.

    Parameters
    ----------
    paths : sequence of Path
    require : callable, optional
        Raises an error for the problems of a file; by default `require_sound`.

    Raises
    ------
    TrajectoryError
        Readers refuse one.
    """
    records = []
    # A process may have a few hundred files open.
    for start in range(0, len(paths), _TOGETHER):
        together = paths[start : start + _TOGETHER]
        for path, (problems, known) in zip(together, _examine(together, BRIEF), strict=False):
            (require or require_sound)(problems, path)
            records += [known] if known else []
    return records


def require_sound(problems: list[Problem], path: Path) -> None:
    """Raise a `TrajectoryError` that names the first error among `problems`, if there is any."""
    wrong = errors(problems)
    if wrong:
        more = f", and {len(wrong) - 1} more: see regime validate" if len(wrong) > 1 else ""
        raise TrajectoryError(f"{path}: {wrong[0]}{more}")


Examined = tuple[list[Problem], trust.Record | None]
"""The problems of a file, and the record to keep if readers may open it."""


def examine_together(paths: Sequence[Path]) -> Iterator[Examined]:
    """Check the parts of each of several files that every reader relies on; errors as in `inspect_apart`.

    One child checks file after file as long as they are valid, each within the limits of a separate check. A file that
    it refuses, or on which it fails, is checked again in a separate child, whose result counts.
    """
    return _examine(paths, BRIEF)


def _examine(paths: Sequence[Path], extent: str) -> Iterator[Examined]:
    left = list(paths)
    while left:
        found = _examined_by_child(left, extent)
        sound = list(itertools.takewhile(lambda one: one[1] is not None, found))
        yield from sound
        if len(sound) < len(left):
            yield found[0] if len(left) == 1 else _examined_by_child(left[len(sound) : len(sound) + 1], extent)[0]
        left = left[len(sound) + 1 :]


def _examined_by_child(paths: Sequence[Path], extent: str) -> list[Examined]:
    """Check files in a child process, up to the first that readers refuse."""
    with ExitStack() as stack:
        descriptors = [stack.enter_context(_descriptor(path)) for path in paths]
        before = [trust.state_of(descriptor) for descriptor in descriptors]
        limits = [str(MEMORY.value * 2**20), str(SECONDS.value)]
        # The files that are open here, even if others get their names meanwhile.
        files = [f"/dev/fd/{descriptor}" for descriptor in descriptors]
        command = [sys.executable, "-P", "-m", _MODULE, extent, *limits, *files]
        # The result for several files is not reported: the failing file is checked again, alone.
        seconds = SECONDS.value + os.fstat(descriptors[0]).st_size / BYTES_PER_SECOND
        found = outcome(run_child(command, descriptors), seconds)
        examined = []
        for path, descriptor, state, (problems, defers) in zip(paths, descriptors, before, found, strict=False):
            if not state == trust.state_of(descriptor) == trust.state_of(path):
                raise TrajectoryError(
                    f"{path}: changed while it was checked; run the command again when it no longer changes"
                )
            known = None if errors(problems) else trust.Record(state, tuple(problems), defers)
            examined.append((problems, known))
        return examined


@contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise TrajectoryError(f"{path}: cannot be read ({describe(error)})") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def run_child(
    command: list[str], descriptors: Sequence[int] = (), *, waiting: float = WAITING_SECONDS
) -> "subprocess.CompletedProcess[str]":
    """Run a check, which may use open files, and wait until it is done or has taken too long."""
    # No filter plug-ins, and only one thread: the stacks of more would count as memory.
    settings = {"HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        return subprocess.run(  # noqa: S603
            command,
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=waiting,
            pass_fds=descriptors,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, -signal.SIGXCPU, "", "")


def outcome(done: "subprocess.CompletedProcess[str]", seconds: float) -> list[tuple[list[Problem], bool]]:
    """Return the problems in each file and whether masks are still to be checked, up to one on which a child failed."""
    lines = [json.loads(line) for line in done.stdout.splitlines(keepends=True) if line.endswith("\n")]
    looked_at = [([Problem(*fields) for fields in problems], bool(defers)) for problems, defers in lines]
    if done.returncode == 0:
        return looked_at
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        found = (
            f"a file that takes longer than its size explains ({seconds:.0f} s, more for inflated data); "
            f"{SECONDS.advice()}"
        )
    elif done.returncode == OUT_OF_MEMORY:
        found = f"a file that takes more than {MEMORY.value} MiB of memory; {MEMORY.advice()}"
    elif done.returncode < 0:
        found = f"a file that crashes the HDF5 library (signal {-done.returncode})"
    else:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise TrajectoryError(f"the check could not run: {reason[0]}")
    return [*looked_at, ([Problem("file-safe", "/", "a file that can be read safely", found)], False)]
