"""The checks, and the program that runs them in a process of its own.

``python -m regime_proto.schema.validation.check FILE whole|brief MEMORY SECONDS`` prints the problems as JSON.
"""

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import h5py
from regime_proto.schema.files import describe
from regime_proto.schema.validation.contents import contents_problems
from regime_proto.schema.validation.guard import OUT_OF_MEMORY
from regime_proto.schema.validation.rules import Problem, errors
from regime_proto.schema.validation.structure import structure_problems
from regime_proto.schema.validation.values import fixed_problems, row_problems

# Of a file that is wrong everywhere, this much is enough.
MAX_PROBLEMS = 100

# To read all rows may take a second more for so many bytes, inflated: a third of what it took where it was measured.
ROW_BYTES_PER_SECOND = 25 * 2**20

_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def problems_of(path: Path, *, whole: bool, before_rows: Callable[[int], None] | None = None) -> list[Problem]:
    """Return what is wrong with a file; in this process.

    Parameters
    ----------
    path : Path
    whole : bool
        Look at the values of all rows too.
    before_rows : callable, optional
        Called before that with the bytes that they take, inflated.
    """
    with path.open("rb") as opened:
        if opened.read(len(_SIGNATURE)) != _SIGNATURE:
            return [Problem("file-hdf5", "/", "a trajectory, which is an HDF5 file", "another kind of file")]
    try:
        with h5py.File(path, "r") as file:
            found = file_problems(file)
            if whole and not errors(found):
                if before_rows is not None:
                    before_rows(sum(file[name].nbytes for name in file if isinstance(file[name], h5py.Dataset)))
                found += _first(row_problems(file))
            return found
    except MemoryError:
        raise
    except Exception as error:
        # Whatever the library says when it stumbles over damage.
        return [Problem("file-hdf5", "/", "an undamaged HDF5 file", describe(error))]


def file_problems(file: h5py.File) -> list[Problem]:
    """Return what is wrong with what every reader relies on, stage by stage: the next trusts the one before."""
    found: list[Problem] = []
    for stage in (structure_problems, contents_problems, fixed_problems):
        found += _first(stage(file))
        if errors(found):
            break
    return found


def _first(problems: Iterator[Problem]) -> list[Problem]:
    return list(itertools.islice(problems, MAX_PROBLEMS))


def limit(memory: int, seconds: float) -> None:
    """Bound what this process may take from now on, as far as the system can."""
    with suppress(ImportError, OSError, ValueError):
        # What is missing on other systems than Linux; the parent still does not wait for ever.
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        allow(seconds)
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def allow(seconds: float) -> None:
    """Let this process take so many seconds of processor time from now on."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 1, most))


def main(path: str, extent: str, memory: str, seconds: str) -> int:
    """Print the problems of a file as JSON."""
    limit(int(memory), float(seconds))

    def before_rows(count: int) -> None:
        with suppress(ImportError, OSError, ValueError):
            allow(float(seconds) + count / ROW_BYTES_PER_SECOND)

    try:
        found = problems_of(Path(path), whole=extent == "whole", before_rows=before_rows)
    except MemoryError:
        return OUT_OF_MEMORY
    fields = [[problem.rule, problem.where, problem.expected, problem.found] for problem in found]
    sys.stdout.write(json.dumps(fields))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
