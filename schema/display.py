"""What a value shows of itself: text at a prompt, HTML in a notebook.

The HTML is a fragment without script, style sheet or network. It takes text colour and background from the notebook.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regime_proto.schema.numbers import UNKNOWN
from regime_proto.schema.text import printable

# Medium tones, which differ enough from white and from black.
COLOURS = ("#2f86c9", "#d4622a")
_WIDTH, _HEIGHT = 480, 64
# Finer than a screen shows at that width.
_POINTS = 240


@dataclass(frozen=True)
class Table:
    """A table, as text that is not escaped.

    Parameters
    ----------
    rows : tuple of tuple of str
        An empty cell is one whose value is unknown.
    headings : tuple of str
        None of them for a table of facts.
    are_numbers : tuple of bool
        Which columns are aligned to the right; none if left out.
    """

    rows: tuple[tuple[str, ...], ...]
    headings: tuple[str, ...] = ()
    are_numbers: tuple[bool, ...] = ()

    def is_number(self, column: int) -> bool:
        """Whether a column is aligned to the right."""
        return column < len(self.are_numbers) and self.are_numbers[column]


@dataclass(frozen=True)
class Curve:
    """A curve between 0 and 1, which only HTML shows.

    Parameters
    ----------
    name : str
    values : (point,) float64
        NaN in gaps.
    """

    name: str
    values: Sequence[float]


@dataclass(frozen=True)
class Notes:
    """Sentences of which HTML shows only the number until a reader opens them.

    Parameters
    ----------
    heading : str
    sentences : tuple of str
    """

    heading: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Display:
    """What is shown of a value.

    Parameters
    ----------
    title : str
    parts : tuple of str, Table, Notes or tuple of Curve
        In their order; a str is a paragraph, and empty ones are left out.
    """

    title: str
    parts: tuple[str | Table | Notes | tuple[Curve, ...], ...]


class Displayed:
    """A value that shows at a prompt and in a notebook what `_display` returns."""

    def _display(self) -> Display:
        raise NotImplementedError

    def __repr__(self) -> str:
        return as_text(self._display())

    def _repr_html_(self) -> str:
        return as_html(self._display())


def as_text(shown: Display) -> str:
    """Return lines of text, without a line break at the end."""
    lines = [printable(shown.title)]
    for part in shown.parts:
        if isinstance(part, Table):
            lines += _text_of_table(part)
        elif isinstance(part, Notes):
            lines += [f"{part.heading}: {printable(sentence)}" for sentence in part.sentences]
        elif isinstance(part, str) and part:
            lines.append(printable(part))
    return "\n".join(lines)


def _text_of_table(table: Table) -> list[str]:
    rows = [[printable(cell or UNKNOWN) if table.headings else printable(cell) for cell in row] for row in table.rows]
    lines = [list(table.headings), *rows] if table.headings else rows
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        fitted = (
            cell.rjust(width) if table.is_number(column) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(fitted).rstrip()

    return [line(cells) for cells in lines]


def as_html(shown: Display) -> str:
    """Return a fragment of HTML in which all text is text."""
    parts = [f'<div style="font-weight:bold">{escaped(shown.title)}</div>', *map(_html_of, shown.parts)]
    return f'<div style="max-width:60em;overflow-x:auto;line-height:1.4">{"".join(parts)}</div>'


def escaped(text: str) -> str:
    """Return a text that HTML shows letter by letter, in an attribute too."""
    return html.escape(printable(text))


def _html_of(part: str | Table | Notes | tuple[Curve, ...]) -> str:
    if isinstance(part, str):
        return f'<div style="margin:0.3em 0">{escaped(part)}</div>' if part else ""
    if isinstance(part, Table):
        return _html_of_table(part)
    return _html_of_notes(part) if isinstance(part, Notes) else _html_of_curves(part)


def _html_of_table(table: Table) -> str:
    def row(tag: str, cells: Sequence[str]) -> str:
        found = [
            f'<{tag} style="text-align:{"right" if table.is_number(column) else "left"};padding:0.1em 0.8em 0.1em 0">'
            f"{escaped(cell or (UNKNOWN if table.headings else ''))}</{tag}>"
            for column, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(found)}</tr>"

    head = f"<thead>{row('th', table.headings)}</thead>" if table.headings else ""
    body = "".join(row("td", cells) for cells in table.rows)
    return f'<table style="margin:0.3em 0;width:auto;font-size:inherit">{head}<tbody>{body}</tbody></table>'


def _html_of_notes(notes: Notes) -> str:
    if not notes.sentences:
        return ""
    items = "".join(f"<li>{escaped(sentence)}</li>" for sentence in notes.sentences)
    count = f"{escaped(notes.heading)} ({len(notes.sentences)})"
    return (
        f'<details style="margin:0.3em 0"><summary>{count}</summary><ul style="margin:0.3em 0">{items}</ul></details>'
    )


def _html_of_curves(curves: tuple[Curve, ...]) -> str:
    names = " and ".join(curve.name for curve in curves)
    lines, keys = [], []
    for curve, colour in zip(curves, COLOURS, strict=False):
        drawn = "".join(_stroke(points, colour) for points in _strokes(curve.values))
        lines.append(drawn)
        keys.append(f'<span style="color:{colour}">&#9632;</span> {escaped(curve.name)}')
    return (
        f'<svg role="img" aria-label="{escaped(names)}" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" style="display:block;max-width:100%"><line x1="0" y1="{_HEIGHT - 1}" x2="{_WIDTH}" '
        f'y2="{_HEIGHT - 1}" stroke="currentColor" stroke-opacity="0.4"/>{"".join(lines)}</svg>'
        f'<div style="font-size:85%">{"&emsp;".join(keys)}</div>'
    )


def _strokes(values: Sequence[float]) -> list[list[tuple[float, float]]]:
    """Return the points of each stretch of a curve between gaps, in pixels; of long curves the means of neighbours."""
    bins = np.array_split(np.asarray(values, np.float64), min(_POINTS, max(1, len(values))))
    means = [float(part[known].mean()) if (known := np.isfinite(part)).any() else math.nan for part in bins]
    strokes: list[list[tuple[float, float]]] = [[]]
    for place, mean in enumerate(means):
        if math.isnan(mean):
            strokes.append([])
            continue
        height = (_HEIGHT - 3) * min(max(mean, 0.0), 1.0)
        strokes[-1].append((_WIDTH * place / max(1, len(means) - 1), _HEIGHT - 1 - height))
    return [points for points in strokes if points]


def _stroke(points: Sequence[tuple[float, float]], colour: str) -> str:
    at = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-linecap="round"/>'
