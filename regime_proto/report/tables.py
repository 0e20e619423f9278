"""Writes a comparison as a table for spreadsheets, papers and pages."""

import csv
import io
from collections.abc import Callable

from regime_proto.comparison.columns import columns, describe, settled_word
from regime_proto.comparison.compare import Comparison
from regime_proto.comparison.labels import label_names
from regime_proto.report import typeset
from regime_proto.schema.text import csv_cell


def to_csv(comparison: Comparison) -> str:
    """Return one row per run with all known values, in full precision; unknown values are empty."""
    names = label_names(row.labels for row in comparison.rows)
    own = (
        "epochs", "auc_w", "auc_p", "rho", "rho_low", "rho_high", "rho_span_low", "rho_span_high", "observations",
        "stride", "step_kind", "window", "preset", "settled", "trajectory",
    )  # fmt: skip
    taken = {"run", "source", *own}
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    heading = ["run", "source", *(f"label_{name}" if name in taken else name for name in names), *own]
    writer.writerow(map(csv_cell, heading))
    for row in comparison.rows:
        low, high = row.rho_range or (None, None)
        span_low, span_high = row.rho_span or (None, None)
        values = {
            **row.to_json(), "rho_low": low, "rho_high": high, "rho_span_low": span_low, "rho_span_high": span_high,
            "settled": settled_word(row),
        }  # fmt: skip
        cells = [row.run, row.source, *(row.labels.get(name) for name in names), *map(values.get, own)]
        writer.writerow(map(csv_cell, cells))
    return target.getvalue()


def to_markdown(comparison: Comparison) -> str:
    """Return a table in GitHub's Markdown, with the means below it."""
    return typeset.markdown(_typed(comparison))


def to_latex(comparison: Comparison) -> str:
    """Return a LaTeX tabular for the package booktabs, with the means below a rule."""
    return typeset.latex(_typed(comparison))


def _typed(comparison: Comparison) -> typeset.Typed:
    shown = columns(comparison, with_settled=True)
    return typeset.Typed(
        headings=tuple(column.heading for column in shown),
        are_numbers=tuple(column.is_number for column in shown),
        rows=tuple(tuple(column.text(row) for column in shown) for row in comparison.rows),
        below=tuple(map(describe, comparison.summaries)),
    )


FORMATS: dict[str, Callable[[Comparison], str]] = {"csv": to_csv, "markdown": to_markdown, "latex": to_latex}
