"""Remembers the check results of files that this machine wrote or has checked, so that they are not checked again.

A record holds values that change whenever a file is replaced, written to or given other times: size, inode, and the
times of the last change of contents and status. None of them survives a copy from another machine. A record belongs to
the checked file, identified by its descriptor, even if another file has its name by then.
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from regime_proto.schema import layout, records
from regime_proto.schema.validation.rules import Problem

_KIND = "checked"
MAX_RECORDS = 4096
# Increased when the checks become stricter: files that passed before are checked again.
CHECKS = 2


@dataclass(frozen=True)
class Record:
    """The record of a file that readers may open.

    Parameters
    ----------
    state : str
        The state of the checked file, from `state_of`.
    warnings : tuple of Problem
    defers : bool
        Whether the reader must still inflate the chunks of its masks.
    """

    state: str
    warnings: tuple[Problem, ...] = ()
    defers: bool = False


def state_of(file: Path | int) -> str:
    """Return a text that changes whenever a file is replaced or written to.

    Parameters
    ----------
    file : path or int
        A descriptor stands for the open file.
    """
    status = os.fstat(file) if isinstance(file, int) else file.stat()
    parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return " ".join(map(str, (layout.VERSION, CHECKS, *parts)))


def record(path: Path, known: Record | None = None) -> None:
    """Save the record of `path`; by default, that it is valid in its current state.

    If the record cannot be written, the file is checked again later.
    """
    with suppress(OSError, RuntimeError):
        known = known or Record(state_of(path))
        problems = [[problem.rule, problem.where, problem.expected, problem.found] for problem in known.warnings]
        text = json.dumps([known.state, problems, known.defers])
        records.write(_KIND, _key(path), text, most=MAX_RECORDS)


def recall(path: Path) -> Record | None:
    """Return the record of `path` in its current state; None if it must be checked."""
    try:
        text = records.read(_KIND, _key(path))
        if text is None:
            return None
        state, problems, defers = json.loads(text)
        known = Record(state, tuple(Problem(*fields) for fields in problems), bool(defers))
        return known if known.state == state_of(path) else None
    except (OSError, RuntimeError, ValueError, TypeError):
        return None


def is_trusted(path: Path) -> bool:
    """Whether `path` is a trajectory that readers may open, unchanged since this was recorded."""
    return recall(path) is not None


def add_segment(segment: Path) -> None:
    """Remember that this machine wrote or checked a segment of a run, in its current state."""
    with suppress(OSError, RuntimeError):
        place = records.made_place(_KIND, _key(segment.parent))
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(state_of(segment) + "\n")


def segment_states(folder: Path) -> frozenset[str]:
    """Return the states of segments in a folder that `add_segment` remembered."""
    try:
        return frozenset((records.read(_KIND, _key(folder)) or "").splitlines())
    except (OSError, RuntimeError):
        return frozenset()


def forget_segments(folder: Path) -> None:
    """Forget the segments of a folder, which have been deleted."""
    with suppress(OSError, RuntimeError):
        _place(folder).unlink(missing_ok=True)


def _place(path: Path) -> Path:
    return records.place(_KIND, _key(path))


def _key(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
