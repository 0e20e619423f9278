"""The checks, and the program that runs them in a process of its own.

``python -m regime_proto.schema.validation.check FILE whole|brief MEMORY SECONDS`` prints the problems as JSON.
"""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
from regime_proto.schema.validation.contents import contents_problems
from regime_proto.schema.validation.rules import Problem, errors
from regime_proto.schema.validation.structure import structure_problems
from regime_proto.schema.validation.values import fixed_problems, row_problems

# Of a file that is wrong everywhere, this much is enough.
MAX_PROBLEMS = 100

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_OUT_OF_MEMORY = 3


def problems_of(path: Path, *, whole: bool) -> list[Problem]:
    """Return what is wrong with a file; in this process.

    Parameters
    ----------
    path : Path
    whole : bool
        Look at the values of all rows too.
    """
    with path.open("rb") as opened:
        if opened.read(len(_SIGNATURE)) != _SIGNATURE:
            return [Problem("file-hdf5", "/", "a trajectory, which is an HDF5 file", "another kind of file")]
    try:
        with h5py.File(path, "r") as file:
            return file_problems(file, whole=whole)
    except MemoryError:
        raise
    except Exception as error:
        # Whatever the library says when it stumbles over damage.
        return [Problem("file-hdf5", "/", "an undamaged HDF5 file", " ".join(str(error).split())[:200])]


def file_problems(file: h5py.File, *, whole: bool) -> list[Problem]:
    """Return what is wrong with an open file, stage by stage: the next one trusts the one before."""
    stages = [structure_problems, contents_problems, fixed_problems]
    found: list[Problem] = []
    for stage in [*stages, row_problems] if whole else stages:
        found += _first(stage(file))
        if errors(found):
            break
    return found


def _first(problems: Iterator[Problem]) -> list[Problem]:
    return list(itertools.islice(problems, MAX_PROBLEMS))


def _limit(memory: int, seconds: float) -> None:
    """Bound what this process may take from now on, as far as the system can."""
    try:
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        allowed = int(used.ru_utime + used.ru_stime + seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (allowed, allowed + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, OSError, ValueError):
        # Not Linux: the parent still waits no longer than it says.
        return


def main(path: str, extent: str, memory: str, seconds: str) -> int:
    """Print the problems of a file as JSON."""
    _limit(int(memory), float(seconds))
    try:
        found = problems_of(Path(path), whole=extent == "whole")
    except MemoryError:
        return _OUT_OF_MEMORY
    fields = [[problem.rule, problem.where, problem.expected, problem.found] for problem in found]
    sys.stdout.write(json.dumps(fields))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
