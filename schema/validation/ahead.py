"""Checks many files ahead of whoever reads them: some dozens in one process, which takes longer to start than to check.

Only that a file is sound is taken from there. Whoever opens one that is not finds that out by a check of its own.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from regime_proto.schema.errors import TrajectoryError
from regime_proto.schema.validation import trust
from regime_proto.schema.validation.guard import examine_together, require_file

# Files of the first child, for which the reader waits; each next one takes twice as many, up to the most.
_FIRST, _MOST = 8, 64
_MOST_BYTES = 256 * 2**20
_MOST_CHILDREN = 4

Known = Callable[[Path], trust.Record | None]


@contextmanager
def checking_ahead(paths: Sequence[Path]) -> Iterator[Known]:
    """Let children check files that this machine does not know, while this process reads those before them.

    Parameters
    ----------
    paths : sequence of Path
        In the order in which they will be read.

    Yields
    ------
    callable
        Waits for what was found in a file, and returns what is known of it; None if it is still to be checked.
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
    """Return how many children to have: one core is the reader's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores - 1, _MOST_CHILDREN))


def _is_unknown(path: Path) -> bool:
    """Whether there is a file that has to be checked; what is none is told of when its turn comes."""
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
    """Check files, remember those that readers may open, and return what is known of them."""
    found: dict[Path, trust.Record] = {}
    # One that changes meanwhile, or cannot be read, leaves those after it to a check of their own.
    with suppress(TrajectoryError):
        for path, (_, known) in zip(paths, examine_together(paths), strict=False):
            if known is not None:
                trust.record(path, known)
                found[path] = known
    return found
