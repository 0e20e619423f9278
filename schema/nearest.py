"""Names that are nearly the one that was given: most wrong names are slips of the hand."""

import difflib
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

# Endings make the names of files alike that mean different things.
_ALIKE = 0.7
# In a folder of more names the nearest one is not worth the wait.
_NAMES = 10_000


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return ``; did you mean …?`` with the one of `names` that is nearest to `name`; nothing if none is near."""
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `` (nearest: '…')`` with the one of `names` that is nearest to `name`; nothing if none is near."""
    near = difflib.get_close_matches(name, names, n=1)
    return f" (nearest: {near[0]!r})" if near else ""


def no_such(path: Path, what: str = "file or directory") -> str:
    """Return that there is nothing at `path`, and which path that is there was probably meant.

    Parameters
    ----------
    path : Path
        If it lies on another machine, nothing is looked up.
    what : str
        What was expected there.
    """
    return f"{path}: no such {what}{did_you_mean_path(path)}"


def did_you_mean_path(path: Path) -> str:
    """Return ``; did you mean …?`` with a path that is there and differs from `path` in one of its names."""
    if not isinstance(path, Path):
        return ""
    try:
        # The first name on the way that is not there is the wrong one.
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
    """Return why the system does not open `path`, in one line."""
    return no_such(path) if isinstance(error, FileNotFoundError) else f"{path}: {error.strerror or error}"
