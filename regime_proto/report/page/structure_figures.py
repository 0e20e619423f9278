"""Figure of the share of the output change that is due to moving patterns."""

import itertools
from typing import Any

import numpy as np

from regime_proto.analyzer.structure import LEVEL, spread_of
from regime_proto.report.binning import bin_edges, bin_means
from regime_proto.report.figure import (
    FAINT,
    NEUTRAL,
    PATTERN,
    PATTERN_SOFT,
    WEIGHT,
    WEIGHT_SOFT,
    Figure,
    Table,
    numbers,
)
from regime_proto.report.page.drawing import TABLE_ROWS, line, span_text, thinned
from regime_proto.report.view import RunView
from regime_proto.schema.layout import QUANTITY_PREFIX
from regime_proto.schema.numbers import number
from regime_proto.schema.types import Array

_COLORS = {"last": (PATTERN, PATTERN_SOFT), "first": (WEIGHT, WEIGHT_SOFT)}
_WORDS = {"last": "to the last state", "first": "from the first state"}


def structure(view: RunView) -> list[Figure]:
    """Return the structural share relative to the last and the first state, with Δa; empty if it is unknown."""
    curves, kind = view.result.curves, view.result.step_kind
    known = [against for against in _WORDS if f"{QUANTITY_PREFIX}structural_share_{against}" in curves]
    if not known:
        return []
    traces, columns = [], []
    for against in known:
        shares = curves[f"{QUANTITY_PREFIX}structural_share_{against}"].to_numpy()
        traces += _drawn(view, against, shares)
        columns.append(shares)
    changes = curves["pattern_normalised"].to_numpy()
    traces.append(
        line(
            view.steps, changes, "Δa, normalised", NEUTRAL,
            dash="dot", yaxis="y2", hovertemplate="Δa %{y:.3f}<extra></extra>",
        )
    )  # fmt: skip
    edges = bin_edges(len(view.steps), TABLE_ROWS)
    spans = [span_text(view.steps[start], view.steps[stop - 1]) for start, stop in itertools.pairwise(edges)]
    means = np.stack([bin_means(values, edges) for values in (*columns, changes)], axis=1)
    found = view.result.structure
    ends = "" if found is None else f" {_in_words(found.below_from, kind)}"
    shown = " and ".join(_WORDS[against] for against in known)
    return [
        Figure(
            key="structure",
            title="Output change due to moving patterns, or to weights within them",
            caption=(
                f"The structural share, ‖s‖ / (‖s‖ + ‖q‖), of the change of the outputs {shown}. Moving patterns "
                "account for this share, and weights moving within patterns for the rest. Either can move first, and s "
                f"and q are means of the two orders{_orders(view)}. The line is the mean over the probe samples, the "
                "band their 10th to 90th percentile; the dotted line is Δa."
                f"{ends}{thinned(view)}"
            ),
            summary=f"Line chart of the structural share over {kind}s, {shown}.{ends}",
            traces=tuple(traces),
            layout={
                "xaxis": {"title": {"text": kind}},
                "yaxis": {"title": {"text": "structural share"}, "rangemode": "tozero"},
                "yaxis2": {
                    "title": {"text": "Δa, normalised"}, "overlaying": "y", "side": "right", "showgrid": False,
                    "range": [0, 1.05], "dtick": 0.5,
                },
                "shapes": [
                    {
                        "type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": LEVEL, "y1": LEVEL,
                        "line": {"color": FAINT, "width": 1, "dash": "dot"},
                    }
                ],
            },
            table=Table(
                (kind, *(f"structural share {_WORDS[against]}" for against in known), "Δa, normalised"),
                tuple((span, *numbers(row)) for span, row in zip(spans, means, strict=True)),
                "Means over parts of the run." if len(view.steps) > TABLE_ROWS else "",
            ),
            height=320,
        )
    ]  # fmt: skip


def _drawn(view: RunView, against: str, shares: Array) -> list[dict[str, Any]]:
    """Return a curve and the band around it, filled between two invisible lines; it starts where it is known."""
    low, high = spread_of(view.result.curves, against)
    steps, start = view.steps, view.result.structure
    if against == "last" and start is not None and start.step < steps[0]:
        steps, shares = np.array([start.step, *steps]), np.array([start.first, *shares])
        low, high = np.array([start.low, *low]), np.array([start.high, *high])
    color, soft = _COLORS[against]
    plain = {"showlegend": False, "hoverinfo": "skip"}
    fill = {"fill": "tonexty", "fillcolor": soft}
    hover = f"%{{y:.3f}}<extra>{_WORDS[against]}</extra>"
    return [
        line(steps, low, "", "rgba(0, 0, 0, 0)", **plain),
        line(steps, high, "", "rgba(0, 0, 0, 0)", **plain, **fill),
        line(steps, shares, _WORDS[against], color, hovertemplate=hover),
    ]


def _orders(view: RunView) -> str:
    """Return a clause on how much the two orders differ."""
    found = view.result.structure
    if found is None or found.order is None:
        return ""
    return (
        f"; depending on which moves first, the initial share relative to the last state is up to {found.order:.2f} "
        "more or less"
    )


def _in_words(step: int | None, kind: str) -> str:
    level = number(LEVEL, "g")
    if step is None:
        return f"The share relative to the last state does not stay below {level}."
    return f"The share relative to the last state stays below {level} (horizontal dotted line) from {kind} {step} on."
