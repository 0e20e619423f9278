"""Draws a comparison for a terminal."""

import math
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from regime_proto.cli.render import plain_table
from regime_proto.comparison.columns import Column, columns, describe_first, describe_rows
from regime_proto.comparison.compare import Comparison, Repeat, Summary
from regime_proto.comparison.labels import label_names
from regime_proto.comparison.rows import PAPER, Row, spacing
from regime_proto.comparison.spread import Spread
from regime_proto.report.names import distinct
from regime_proto.schema.numbers import UNKNOWN, number
from regime_proto.schema.text import printable
from regime_proto.schema.words import few

_LONGEST_NAME, _SHORTEST_NAME = 60, 12


def comparison(found: Comparison, target: Console, *, everything: bool) -> Group:
    """Return the table of runs, the summaries of ρ (overall and by label), and the spread of repeated runs."""
    names = label_names(row.labels for row in found.rows)
    shown = len(names) if everything else _labels_that_fit(found, target, len(names))
    longest = None if everything else _letters_that_fit(found, target, shown)
    parts: list[RenderableType] = [_title(found.rows), "", _runs(found, shown, longest)]
    if longest is not None:
        parts.append(Text("…: names are shortened to fit, -v shows all", style="dim"))
    if shown < len(names):
        parts.append(Text(f"… {printable(', '.join(names[shown:]))}: do not fit, -v shows all", style="dim"))
    overall = [summary for summary in found.summaries if summary.by is None]
    parts += ["", _summaries("ρ", overall)]
    first = describe_first(found.rows)
    parts += [Text(first)] if first else []
    by_label = [summary for summary in found.summaries if summary.by is not None]
    if by_label:
        parts += ["", _summaries(str(by_label[0].by), by_label)]
    if found.repeats:
        parts += ["", _repeats(found.repeats)]
    return Group(*parts)


def _title(rows: Sequence[Row]) -> Text:
    kinds = dict.fromkeys([*map(spacing, rows), *(f"preset {row.preset}" for row in rows)])
    return Text(describe_rows(rows), style="bold").append("\n" + ", ".join(kinds), style="not bold")


def _labels_that_fit(found: Comparison, target: Console, most: int) -> int:
    """Return the number of labels for which the table fits the terminal.

    It is at least one, unless there are published runs, whose names are their labels.
    """
    least = 0 if any(row.source == PAPER for row in found.rows) else min(most, 1)
    counts = range(most, least, -1)
    return next((count for count in counts if _fits(target, _runs(found, count))), least)


def _letters_that_fit(found: Comparison, target: Console, labels: int) -> int | None:
    """Return the length of names for which the table fits the terminal; None if they fit unchanged."""
    if _fits(target, _runs(found, labels)):
        return None
    lengths = range(_LONGEST_NAME, _SHORTEST_NAME, -1)
    return next((length for length in lengths if _fits(target, _runs(found, labels, length))), _SHORTEST_NAME)


def _fits(target: Console, table: Table) -> bool:
    unlimited = target.options.update(max_width=10_000)
    return Measurement.get(target, unlimited, table).maximum <= target.width


def _runs(found: Comparison, labels: int, longest: int | None = None) -> Table:
    """Return the table with `labels` labels and names of at most `longest` letters, which stay unique."""
    shown = columns(found, labels=labels)
    if longest is not None:
        shown = tuple(column if column.is_number else _shortened(column, found.rows, longest) for column in shown)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in shown:
        table.add_column(column.heading, justify="right" if column.is_number else "left", overflow="fold")
    for row in found.rows:
        style = "dim" if row.source == PAPER and len(found.summaries) > 1 else ""
        table.add_row(*(Text(printable(column.text(row)) or UNKNOWN, style=style) for column in shown))
    return table


def _shortened(column: Column, rows: Sequence[Row], longest: int) -> Column:
    texts = list(dict.fromkeys(map(column.text, rows)))
    short = dict(zip(texts, distinct(texts, longest), strict=True))
    return replace(column, text=lambda row: short[column.text(row)])


def _summaries(first: str, summaries: Sequence[Summary]) -> Table:
    """Return mean and median of ρ, one line per group of runs."""
    table = plain_table(first, ("runs", "right"), ("mean ρ", "right"), ("above", "right"), ("below", "right"),
                        ("median", "right"))  # fmt: skip
    for summary in summaries:
        rho = summary.rho
        whose = "published" if summary.source == PAPER else "these runs"
        name = summary.value if summary.value is not None else whose
        table.add_row(
            Text(printable(name)),
            str(rho.runs),
            Text(number(rho.mean, ".2f"), style="bold"),
            _signed("+", rho.upper),
            _signed("−", rho.lower),
            number(rho.median, ".2f"),
            whose if summary.value is not None else "",
        )
    return table


def _signed(sign: str, value: float) -> str:
    return f"{sign}{value:.2f}" if math.isfinite(value) else UNKNOWN


def _repeats(repeats: Sequence[Repeat]) -> RenderableType:
    """Return mean, standard deviation and extremes of each group of repeated runs."""
    table = plain_table("repeated runs", ("n", "right"), ("", "left"), ("mean", "right"), ("std", "right"),
                        ("from – to", "right"))  # fmt: skip
    for repeat in repeats:
        name = ", ".join(dict.fromkeys(repeat.labels.values())) or few(repeat.runs)
        lines: list[tuple[str, Spread]] = [("ρ", repeat.rho), ("AUC_W", repeat.auc_w), ("AUC_P", repeat.auc_p)]
        for position, (quantity, values) in enumerate(lines):
            head = (Text(printable(name)), str(len(repeat.runs))) if position == 0 else ("", "")
            extremes = f"{number(values.lowest, '.2f')} – {number(values.highest, '.2f')}" if values.runs else UNKNOWN
            table.add_row(*head, quantity, number(values.mean, ".2f"), number(values.deviation, ".3f"), extremes)
    return table
