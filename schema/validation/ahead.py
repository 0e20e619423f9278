"""Checks many files in advance of their reader: dozens in one process, as starting a process takes longer than a check.

Only the result that a file is valid is used. The reader of an invalid file checks it again itself.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from regime_proto.schema.errors import TrajectoryError
from regime_proto.schema.validation import trust
from regime_proto.schema.validation.guard import examine_together, require_file

# The number of files for the first child, for which the reader waits; each further child gets twice as many, up to the
# maximum.
_FIRST, _MOST = 8, 64
_MOST_BYTES = 256 * 2**20
_MOST_CHILDREN = 4

Known = Callable[[Path], trust.Record | None]


@contextmanager
def checking_ahead(paths: Sequence[Path]) -> Iterator[Known]:
    """Let child processes check files that this machine does not know, while this process reads earlier ones.

    Parameters
    ----------
    paths : sequence of Path
        In the order in which they will be read.

    Yields
    ------
    callable
        Waits for the check of a file, and returns its record; None if the file must still be checked.
    """
    found: dict[Path, Future[dict[Path, trust.Record]]] = {}
    pool = ThreadPoolExecutor(_children(), thread_name_prefix="regime-check")
    try:
        for batch in _batches([path for path in dict.fromkeys(paths) if _is_unknown(path)]):
            found |= dict.fromkeys(batch, pool.submit(_sound, batch))

        def known(path: Path) -> trust.Record | None:
            waiting = found.pop(path, None)
            return None if waiting is None else waiting.result().get(path)

        yield known
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _children() -> int:
    """Return the number of children: one core is left for the reader."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores - 1, _MOST_CHILDREN))


def _is_unknown(path: Path) -> bool:
    """Whether a file must be checked; a path that is not a file causes an error later, when it is read."""
    with suppress(TrajectoryError):
        require_file(path)
        return not trust.is_trusted(path)
    return False


def _batches(paths: Sequence[Path]) -> Iterator[list[Path]]:
    batch: list[Path] = []
    size, most = 0, _FIRST
    for path in paths:
        size += path.stat().st_size
        if batch and (len(batch) == most or size > _MOST_BYTES):
            yield batch
            batch, size, most = [], path.stat().st_size, min(2 * most, _MOST)
        batch.append(path)
    if batch:
        yield batch


def _sound(paths: Sequence[Path]) -> dict[Path, trust.Record]:
    """Check files, remember those that readers may open, and return their records."""
    found: dict[Path, trust.Record] = {}
    # If a file changes meanwhile or cannot be read, the files after it are checked separately.
    with suppress(TrajectoryError):
        for path, (_, known) in zip(paths, examine_together(paths), strict=False):
            if known is not None:
                trust.record(path, known)
                found[path] = known
    return found
