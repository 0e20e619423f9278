"""Remembers what was found in files that this machine wrote or has checked, so that they are not checked again.

A record holds what changes whenever a file is replaced, written to or given other times: size, inode and the times of
the last change of contents and status. None of that survives a copy from another machine. It is of the file that was
looked at, by its descriptor, whatever stands under its name by then.
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
# Raised when the checks become stricter: what passed them before is checked again.
CHECKS = 2


@dataclass(frozen=True)
class Record:
    """What is known of a file that readers may open.

    Parameters
    ----------
    state : str
        Of the file that was looked at, as `state_of` returns it.
    warnings : tuple of Problem
    defers : bool
        Whether the chunks of its masks are still to be inflated, by whoever reads them.
    """

    state: str
    warnings: tuple[Problem, ...] = ()
    defers: bool = False


def state_of(file: Path | int) -> str:
    """Return what changes whenever a file is replaced or written to.

    Parameters
    ----------
    file : path or int
        A descriptor tells it of the file that is open.
    """
    status = os.fstat(file) if isinstance(file, int) else file.stat()
    parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return " ".join(map(str, (layout.VERSION, CHECKS, *parts)))


def record(path: Path, known: Record | None = None) -> None:
    """Remember what is known of `path`: that it is sound as it is now, if nothing else is said.

    Where that cannot be written, it is checked again.
    """
    with suppress(OSError, RuntimeError):
        known = known or Record(state_of(path))
        problems = [[problem.rule, problem.where, problem.expected, problem.found] for problem in known.warnings]
        text = json.dumps([known.state, problems, known.defers])
        records.write(_KIND, _key(path), text, most=MAX_RECORDS)


def recall(path: Path) -> Record | None:
    """Return what is known of `path` as it is now; None if it has to be checked."""
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
    """Whether `path` is a trajectory that readers may open and that has not changed since that was recorded."""
    return recall(path) is not None


def add_segment(segment: Path) -> None:
    """Remember that this machine wrote a segment of a run, or has checked it, as it is now."""
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
    """Forget the segments of a folder, which are deleted."""
    with suppress(OSError, RuntimeError):
        _place(folder).unlink(missing_ok=True)


def _place(path: Path) -> Path:
    return records.place(_KIND, _key(path))


def _key(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
