"""The checks, and the program that runs them in a separate process.

``python -m regime_proto.schema.validation.check brief|whole|segment MEMORY SECONDS FILE…`` prints the result for each
file as a line of JSON, up to the first file that readers refuse. MEMORY and SECONDS are limits for a file of any size;
larger files may use more.
"""

import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from regime_proto.schema.files import describe
from regime_proto.schema.validation.contents import contents_problems
from regime_proto.schema.validation.guard import BRIEF, BYTES_PER_SECOND, OUT_OF_MEMORY, SEGMENT
from regime_proto.schema.validation.rules import Problem, errors
from regime_proto.schema.validation.structure import (
    Objects,
    chunk_problems,
    defers_masks,
    inflated_total,
    structure_problems,
    text_problems,
)
from regime_proto.schema.validation.values import fixed_problems, row_problems

# For a file with errors everywhere, this many problems are enough.
MAX_PROBLEMS = 100

# Inflating chunks and reading all rows may each take one more second per this many inflated bytes: a third of the
# measured speed.
ROW_BYTES_PER_SECOND = 25 * 2**20

_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Found:
    """The result of the check of a file.

    Parameters
    ----------
    problems : list of Problem
    defers : bool
        Whether the reader must still inflate the chunks of its masks.
    """

    problems: list[Problem]
    defers: bool = False


def problems_of(path: Path, *, whole: bool, **given: Any) -> list[Problem]:
    """Return the problems of a file, found in this process. Options as in `look_at`."""
    return look_at(path, whole=whole, **given).problems


def look_at(
    path: Path, *, whole: bool, in_run: bool = False, before_content: Callable[[int], None] | None = None
) -> Found:
    """Check a file against the rules, in this process.

    Parameters
    ----------
    path : Path
    whole : bool
        Also check the values of all rows.
    in_run : bool
        The file is a segment, which may begin with the change to its first row.
    before_content : callable, optional
        Called before chunks are inflated, and again before rows are read, with the number of bytes.
    """
    with path.open("rb") as opened:
        if opened.read(len(_SIGNATURE)) != _SIGNATURE:
            return Found([Problem("file-hdf5", "/", "a trajectory, which is an HDF5 file", "another kind of file")])
    announce = before_content or _say_nothing
    try:
        with h5py.File(path, "r") as file:
            found = file_problems(file, later=not whole, announce=announce)
            if whole and not errors(found):
                announce(inflated_total(file))
                found += _first(row_problems(file, in_run=in_run))
            return Found(found, defers=not whole and not errors(found) and defers_masks(file))
    except MemoryError:
        raise
    except Exception as error:
        if re.search("memory allocation failed|allocate", str(error)):
            raise MemoryError from None
        # Any error that the library raises on damaged data.
        return Found([Problem("file-hdf5", "/", "an undamaged HDF5 file", describe(error))])


def _say_nothing(count: int) -> None:
    """Do nothing before content is read."""
    del count


def file_problems(
    file: h5py.File, *, inflate: bool = True, later: bool = False, announce: Callable[[int], None] = _say_nothing
) -> list[Problem]:
    """Return the problems in the parts that every reader relies on, stage by stage: each stage trusts the previous one.

    Parameters
    ----------
    file : h5py.File
    inflate : bool
        False for files that this process wrote from chunks that are known to be complete.
    later : bool
        Masks that are too large to be inflated now may be inflated when they are read.
    announce : callable, optional
        Called before chunks are inflated, with the number of bytes.
    """
    objects = Objects(file)

    def chunks() -> Iterator[Problem]:
        if inflate:
            announce(inflated_total(file))
            yield from chunk_problems(objects, later=later)

    stages: tuple[Callable[[], Iterator[Problem]], ...] = (
        lambda: structure_problems(objects),
        chunks,
        lambda: text_problems(objects),
        lambda: contents_problems(file),
        lambda: fixed_problems(file),
    )
    found: list[Problem] = []
    for stage in stages:
        found += _first(stage())
        if errors(found):
            break
    return found


def _first(problems: Iterator[Problem]) -> list[Problem]:
    return list(itertools.islice(problems, MAX_PROBLEMS))


def limit(memory: int, seconds: float) -> None:
    """Limit the resources of this process from now on, as far as the system supports it."""
    with suppress(ImportError, OSError, ValueError):
        # Missing on systems other than Linux; the parent still does not wait forever.
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        allow(seconds)
        most = _taken_memory() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _taken_memory() -> int:
    """Return the size of the address space of this process, in bytes."""
    import resource

    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def allow(seconds: float) -> None:
    """Limit the processor time of this process to this many seconds from now on."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 1, most))


class _Limits:
    """The resources that each of several files may use: the same as in a separate process.

    Resources that a file does not release count for those after it, so they may use less, but never more.
    """

    def __init__(self, memory: int, seconds: float, sizes: Sequence[int]) -> None:
        self._memory = memory
        self._seconds = seconds
        self._before = 0
        with suppress(ImportError, OSError, ValueError):
            self._before = _taken_memory()
        limit(memory + max(sizes, default=0), seconds)

    def begin(self, size: int) -> None:
        """Limit the resources for the next file, which has this size in bytes."""
        self._allowed = self._seconds + size / BYTES_PER_SECOND
        self.before_content(0)
        with suppress(ImportError, OSError, ValueError):
            import resource

            _, most = resource.getrlimit(resource.RLIMIT_AS)
            soft = self._before + self._memory + size
            resource.setrlimit(resource.RLIMIT_AS, (soft if most < 0 else min(soft, most), most))

    def before_content(self, count: int) -> None:
        """Allow the time that this many bytes of content need."""
        with suppress(ImportError, OSError, ValueError):
            allow(self._allowed + count / ROW_BYTES_PER_SECOND)


def main(extent: str, memory: str, seconds: str, *paths: str) -> int:
    """Print the results for files as JSON."""
    sizes = [Path(path).stat().st_size for path in paths]
    limits = _Limits(int(memory), float(seconds), sizes)
    try:
        for path, size in zip(paths, sizes, strict=True):
            limits.begin(size)
            found = look_at(
                Path(path), whole=extent != BRIEF, in_run=extent == SEGMENT, before_content=limits.before_content
            )
            fields = [[problem.rule, problem.where, problem.expected, problem.found] for problem in found.problems]
            # Immediately: the next file may crash this process.
            print(json.dumps([fields, found.defers]), flush=True)  # noqa: T201
            if errors(found.problems):
                break
    except MemoryError:
        return OUT_OF_MEMORY
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
