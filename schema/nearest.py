"""Suggestions for mistyped names: most wrong names are typing errors."""

import difflib
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

# A common ending makes different file names look similar.
_ALIKE = 0.7
# In a folder with more names, the search would take too long.
_NAMES = 10_000


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return ``; did you mean …?`` with the closest match for `name` in `names`; an empty text if none is close."""
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `` (nearest: '…')`` with the closest match for `name` in `names`; an empty text if none is close."""
    near = difflib.get_close_matches(name, names, n=1)
    return f" (nearest: {near[0]!r})" if near else ""


def no_such(path: Path, what: str = "file or directory") -> str:
    """Return the message that `path` does not exist, with the existing path that was probably meant.

    Parameters
    ----------
    path : Path
        If it is on another machine, no other path is suggested.
    what : str
        What was expected there.
    """
    return f"{path}: no such {what}{did_you_mean_path(path)}"


def did_you_mean_path(path: Path) -> str:
    """Return ``; did you mean …?`` with an existing path that differs from `path` in one of its names."""
    if not isinstance(path, Path):
        return ""
    try:
        # The first name on the path that does not exist is the wrong one.
        wrong = next(part for part in (*reversed(path.parents), path) if not part.exists())
        names = sorted(islice((entry.name for entry in os.scandir(wrong.parent)), _NAMES))
    except (OSError, StopIteration):
        return ""
    shown = [name for name in names if wrong.name.startswith(".") or not name.startswith(".")]
    near = difflib.get_close_matches(wrong.name, shown, cutoff=_ALIKE)
    meant = (wrong.with_name(name) / path.relative_to(wrong) for name in near)
    found = next((str(other) for other in meant if other.exists()), None)
    return "" if found is None else f"; did you mean {found}?"


def cannot_open(path: Path, error: OSError) -> str:
    """Return why the system cannot open `path`, in one line."""
    return no_such(path) if isinstance(error, FileNotFoundError) else f"{path}: {error.strerror or error}"
