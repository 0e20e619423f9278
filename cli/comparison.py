"""Draws a comparison for a terminal."""

import math
from collections.abc import Sequence

from regime_proto.cli.render import plain_table
from regime_proto.schema.words import counted
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from regime_proto.analyzer.comparison import Comparison, Repeat, Summary, few, spacing
from regime_proto.analyzer.labels import label_names
from regime_proto.analyzer.rows import PAPER, Row
from regime_proto.analyzer.spread import Spread
from regime_proto.report.figure import number
from regime_proto.report.tables import UNKNOWN, columns
from regime_proto.text import printable


def comparison(found: Comparison, target: Console, *, everything: bool) -> Group:
    """Return the table of the runs, then what they come to, by label too, and how far repeated runs lie apart."""
    names = label_names(row.labels for row in found.rows)
    shown = len(names) if everything else _labels_that_fit(found, target, len(names))
    parts: list[RenderableType] = [_title(found.rows), "", _runs(found, shown)]
    if shown < len(names):
        parts.append(Text(f"… {printable(', '.join(names[shown:]))}: too wide, -v shows all", style="dim"))
    overall = [summary for summary in found.summaries if summary.by is None]
    parts += ["", _summaries("ρ", overall)]
    by_label = [summary for summary in found.summaries if summary.by is not None]
    if by_label:
        parts += ["", _summaries(str(by_label[0].by), by_label)]
    if found.repeats:
        parts += ["", _repeats(found.repeats)]
    return Group(*parts)


def _title(rows: Sequence[Row]) -> Text:
    own = [row for row in rows if row.source != PAPER]
    published = len(rows) - len(own)
    counts = [f"{counted(len(own), 'run')}"] if own else []
    counts += [f"{published} published runs (the paper's Table II)"] if published else []
    kinds = dict.fromkeys([*map(spacing, rows), *(f"preset {row.preset}" for row in rows)])
    return Text(" and ".join(counts), style="bold").append("\n" + ", ".join(kinds), style="not bold")


def _labels_that_fit(found: Comparison, target: Console, most: int) -> int:
    """Return how many labels a table may have, one at least, to be no wider than the terminal."""
    unlimited = target.options.update(max_width=10_000)
    for count in range(most, 1, -1):
        if Measurement.get(target, unlimited, _runs(found, count)).maximum <= target.width:
            return count
    return min(most, 1)


def _runs(found: Comparison, labels: int) -> Table:
    shown = columns(found, labels=labels)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in shown:
        table.add_column(column.heading, justify="right" if column.is_number else "left", overflow="fold")
    for row in found.rows:
        style = "dim" if row.source == PAPER and len(found.summaries) > 1 else ""
        table.add_row(*(Text(printable(column.text(row)) or UNKNOWN, style=style) for column in shown))
    return table


def _summaries(first: str, summaries: Sequence[Summary]) -> Table:
    """Return mean and median of ρ, a line for each group of runs."""
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
