"""The columns of a comparison in tables for readers, and its means in words."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from regime_proto.comparison.labels import label_names
from regime_proto.comparison.rows import PAPER, Row, spacing
from regime_proto.schema.numbers import UNKNOWN
from regime_proto.schema.words import counted

if TYPE_CHECKING:
    from regime_proto.comparison.compare import Comparison, Summary


@dataclass(frozen=True)
class Column:
    """One column of a table for readers.

    Parameters
    ----------
    heading : str
    text : callable
        Returns the cell of a row; empty if the value is unknown.
    is_number : bool
    """

    heading: str
    text: Callable[[Row], str]
    is_number: bool = True


def _span(span: tuple[float, float] | None) -> str:
    return "" if span is None else "{:.2f}–{:.2f}".format(*span)


# Two decimals, as in the paper's Table II.
RESULTS = (
    Column("epochs", lambda row: "" if row.epochs is None else f"{row.epochs:.1f}".removesuffix(".0")),
    Column("AUC_W", lambda row: decimals(row.auc_w)),
    Column("AUC_P", lambda row: decimals(row.auc_p)),
    Column("ρ", lambda row: decimals(row.rho)),
    # Range of ρ over its 95 % intervals; range of ρ over all readings.
    Column("intervals", lambda row: _span(row.rho_span)),
    Column("range", lambda row: _span(row.rho_range)),
)
SETTLED = Column("settled", lambda row: "" if row.settled is None else settled_word(row) or UNKNOWN, is_number=False)
KINDS = (
    Column("stride", spacing, is_number=False),
    Column("preset", lambda row: row.preset, is_number=False),
)
RUN = Column("run", lambda row: name_of(row), is_number=False)


def name_of(row: Row) -> str:
    """Return the displayed name of a row: for a published run, which has no file, model and data set."""
    return row.run if row.source != PAPER else f"{row.labels['model']} on {row.labels['dataset']} ({PAPER})"


def decimals(value: float) -> str:
    """Return a number with two decimals; empty if it is undefined."""
    return f"{value:.2f}" if math.isfinite(value) else ""


def label_column(name: str) -> Column:
    """Return the column of a label."""
    return Column(name.replace("_", " "), lambda row: row.labels.get(name, ""), is_number=False)


def columns(comparison: "Comparison", *, labels: int | None = None, with_settled: bool = False) -> tuple[Column, ...]:
    """Return the columns of a table for readers.

    Parameters
    ----------
    comparison : Comparison
    labels : int, optional
        Number of labels to show. Default: all.
    with_settled : bool
        Also show whether both curves of each run have settled.
    """
    names = label_names(row.labels for row in comparison.rows)[:labels]
    results = [column for column in (*RESULTS, *[SETTLED] * with_settled) if any(map(column.text, comparison.rows))]
    kinds = KINDS if comparison.is_mixed else ()
    first = () if _labels_tell(comparison, names) else (RUN,)
    return (*first, *map(label_column, names), *kinds, *results)


def _labels_tell(comparison: "Comparison", names: Sequence[str]) -> bool:
    """Whether labels alone distinguish every row from the others and from published ones."""
    told = {tuple(row.labels.get(name, "") for name in names) for row in comparison.rows}
    one_source = len({row.source for row in comparison.rows}) == 1
    return one_source and len(told) == len(comparison.rows) and all(row.labels for row in comparison.rows)


def settled_word(row: Row) -> str:
    """Return ``yes`` if both curves of a run have settled, ``no`` if one has not, empty if that is unknown."""
    if row.settled is None:
        return ""
    states = (row.settled.weights, row.settled.patterns)
    return "no" if False in states else "" if None in states else "yes"


def describe_first(rows: Sequence[Row]) -> str:
    """Return in how many runs patterns, or weights, settled first beyond doubt; empty if there are no runs."""
    own = [row.settled_first for row in rows if row.source != PAPER]
    if not own:
        return ""
    found = [(name, own.count(name)) for name in ("patterns", "weights") if name in own]
    whole = f"{len(own)} {'run' if len(own) == 1 else 'runs'}"
    if not found:
        return f"in none of {whole} it is beyond doubt which settled first, patterns or weights"
    (name, count), *others = found
    more = "".join(f", {other} in {number}" for other, number in others)
    return f"{name} settled first in {count} of {whole}{more}, beyond doubt"


def describe_rows(rows: Sequence[Row]) -> str:
    """Return how many runs there are, and how many of them are published ones."""
    own = [row for row in rows if row.source != PAPER]
    published = len(rows) - len(own)
    counts = [counted(len(own), "run")] if own else []
    counts += [f"{published} published runs (the paper's Table II)"] if published else []
    return " and ".join(counts)


def describe(summary: "Summary") -> str:
    """Return mean, semi-deviations and median of ρ in words."""
    whose = " of Table II" if summary.source == PAPER else ""
    what = f"{summary.value}, " if summary.value is not None else ""
    rho = summary.rho
    deviations = ", ".join(
        f"{sign}{value:.2f}" for sign, value in (("+", rho.upper), ("−", rho.lower)) if math.isfinite(value)
    )
    spread = f" ({deviations})" if deviations else ""
    return (
        f"{what}{counted(rho.runs, 'run')}{whose}: mean ρ {decimals(rho.mean) or UNKNOWN}{spread}, "
        f"median {decimals(rho.median) or UNKNOWN}"
    )
