"""Names the trajectories of several runs after their directories, with as much of each path as is needed."""

import os
from collections.abc import Sequence
from pathlib import Path

from regime_proto.checkpoints.locations import is_remote
from regime_proto.schema.errors import RegimeError

_BETWEEN = "-"


def names_of(sources: Sequence[Path]) -> list[str]:
    """Return a distinct name for each of several directories.

    The name is the last part of the path. Directories that share it get as many more parts as are needed to distinguish
    them, joined by hyphens.

    Parameters
    ----------
    sources : sequence of Path

    Raises
    ------
    RegimeError
        A directory is given twice, or two names would be the same.
    """
    _require_distinct(sources)
    parts = [_parts(source) for source in sources]
    groups: dict[str, list[int]] = {}
    for number, path in enumerate(parts):
        groups.setdefault(path[-1], []).append(number)
    names = [""] * len(sources)
    for group in groups.values():
        count = _telling([parts[number] for number in group])
        for number in group:
            names[number] = _BETWEEN.join(parts[number][-count:])
    _require_own(names, sources)
    return names


def _require_distinct(sources: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for source in sources:
        place = str(source) if is_remote(source) else os.path.realpath(source)
        if place in seen:
            again = "twice" if str(source) == str(seen[place]) else f"twice, also as {seen[place]}"
            raise RegimeError(f"{source}: given {again}; leave one out")
        seen[place] = source


def _require_own(names: Sequence[str], sources: Sequence[Path]) -> None:
    """Raise an error if two runs would be written to the same file."""
    seen: dict[str, Path] = {}
    for name, source in zip(names, sources, strict=True):
        other = seen.setdefault(name, source)
        if other is not source:
            raise RegimeError(
                f"{source} and {other}: both would be written to {name}.h5; convert one of them separately, with -o"
            )


def _parts(source: Path) -> list[str]:
    """Return the parts of a path that may form its name."""
    if not is_remote(source):
        # The root of a file system has no parts.
        return list(Path(os.path.abspath(source)).parts[1:]) or ["root"]  # noqa: PTH100
    scheme, _, path = str(source).partition("://")
    found = ["".join(_plain(letter) for letter in part) for part in path.split("/") if part]
    return [scheme, *found]


def _plain(letter: str) -> str:
    """Return a letter of an address, or a replacement if some file systems do not allow it."""
    return letter if letter.isalnum() or letter in "._-" else _BETWEEN


def _telling(paths: Sequence[Sequence[str]]) -> int:
    """Return how many last parts are needed to distinguish paths; the number of all parts if even these are equal."""
    longest = max(map(len, paths))
    for count in range(1, longest):
        if len({tuple(path[-count:]) for path in paths}) == len(paths):
            return count
    return longest
