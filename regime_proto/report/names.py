"""Prepares names from a file for figures: short, unique, and without markup."""

import html
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from regime_proto.schema.text import printable

# A part of a name ends at the next separator.
_PART = re.compile(r"[^/.:\s]*[/.:\s]*")


def distinct(names: Sequence[str], longest: int) -> list[str]:
    """Return names shortened to a given length, without duplicates.

    A long name keeps the parts in which it differs from others, then as much of its end and its start as fits; an
    ellipsis replaces the rest. Names that are equal, or that differ in more than fits, are numbered.

    Parameters
    ----------
    names : sequence of str
    longest : int
        Maximum number of letters; names up to this length stay unchanged.
    """
    shown = [printable(name) for name in names]
    branches = _branches(shown) if any(len(name) > longest for name in shown) else {}
    short = [name if len(name) <= longest else _shortened(name, branches[name], longest) for name in shown]
    count = Counter(short)
    taken = {name for name in short if count[name] == 1}
    return [name if count[name] == 1 else _numbered(name, longest, taken) for name in short]


def _branches(names: Sequence[str]) -> dict[str, set[int]]:
    """Return, for each name, the positions at which other names start to differ from it."""
    ordered = sorted(set(names))
    shared = [_shared(*pair) for pair in itertools.pairwise(ordered)]
    ahead = _lowest_so_far(shared)
    behind = list(_lowest_so_far(reversed(shared)))[::-1]
    return {name: {*before, *after} for name, before, after in zip(ordered, ahead, behind, strict=True)}


def _shared(one: str, other: str) -> int:
    """Return the number of letters that two names share at their start."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _lowest_so_far(values: Iterable[int]) -> Iterator[tuple[int, ...]]:
    """Yield, before each value and at the end, the minima over all ranges that end there."""
    lowest: list[int] = []
    yield ()
    for value in values:
        while lowest and lowest[-1] >= value:
            lowest.pop()
        lowest.append(value)
        yield tuple(lowest)


def _shortened(name: str, branches: set[int], longest: int) -> str:
    """Return the parts of a name in which other names differ, and as much of the rest as fits."""
    parts = [found.span() for found in _PART.finditer(name) if found[0]]
    differs = [any(start <= at < stop for at in branches) for start, stop in parts]
    # A number means little without the word before it.
    numbers = [re.match(r"\d+\b", name[slice(*span)]) is not None for span in parts[1:]]
    with_words = [
        own or (after and number)
        for own, after, number in zip(differs, [*differs[1:], False], [*numbers, False], strict=True)
    ]
    for kept in (with_words, differs):
        if any(kept) and len(_joined(name, parts, kept)) <= longest:
            return _filled(name, parts, kept, longest)
    # The last difference distinguishes most names.
    return _cut(name, max(branches, default=len(name)), longest)


def _filled(name: str, parts: Sequence[tuple[int, int]], kept: list[bool], longest: int) -> str:
    """Return the kept parts, and further parts from the end while they fit."""
    for index in reversed(range(len(parts))):
        more = [*kept[:index], True, *kept[index + 1 :]]
        if re.search(r"\w", name[slice(*parts[index])]) and len(_joined(name, parts, more)) <= longest:
            kept = more
    return _joined(name, parts, kept)


def _joined(name: str, parts: Sequence[tuple[int, int]], kept: Sequence[bool]) -> str:
    runs = itertools.groupby(zip(parts, kept, strict=True), key=lambda entry: entry[1])
    return "".join("".join(name[slice(*span)] for span, _ in group) if is_kept else "…" for is_kept, group in runs)


def _cut(name: str, at: int, longest: int) -> str:
    """Return a section of a name around a position, and its end."""
    room = longest - 2
    tail = min(room // 3, len(name))
    start = max(0, min(at - (room - tail) // 2, len(name) - room))
    if start + room >= len(name):
        return f"…{name[-(longest - 1) :]}"
    head = "…" if start else ""
    return f"{head}{name[start : start + room - tail]}…{name[-tail:]}"


def _numbered(name: str, longest: int, taken: set[str]) -> str:
    for number in itertools.count(1):
        end = f" ({number})"
        found = f"{name[: longest - len(end) - 1]}…{end}" if len(name) + len(end) > longest else f"{name}{end}"
        if found not in taken:
            taken.add(found)
            return found
    raise AssertionError


def in_plotly(text: str) -> str:
    """Return text that plotly shows literally: without markup, templates, and the colour names of page.js."""
    return html.escape(text, quote=False).replace("%", "&#37;").replace("var(", "var&#40;")
