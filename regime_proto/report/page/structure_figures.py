"""How much of the change of the outputs came by moving patterns, over a run."""

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
    """Return the structural share against the last and the first state beside Δa; nothing where it is not known."""
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
            title="By moving patterns, or by weights within them",
            caption=(
                f"The structural share, ‖s‖ / (‖s‖ + ‖q‖), of the change of the outputs {shown}: the part that moving "
                "patterns accounts for; moving weights within patterns accounts for the rest. Either can move first, "
                f"and s and q are means of the two orders{_orders(view)}. Shown are the mean over the probe samples "
                "and around it their tenth to ninetieth percentile; dotted, Δa."
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
    """Return a curve, above two invisible lines and what is filled between them; it begins where it is known."""
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
    """Say how far the orders lie apart."""
    found = view.result.structure
    if found is None or found.order is None:
        return ""
    return f": by which moves first, the share to the last state at the begin is up to {found.order:.2f} more or less"


def _in_words(step: int | None, kind: str) -> str:
    level = number(LEVEL, "g")
    if step is None:
        return f"The share to the last state does not stay below {level}."
    return f"The share to the last state stays below {level} (the dotted line) from {kind} {step} on."
