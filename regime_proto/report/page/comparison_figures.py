"""Runs beside each other, and beside the published ones."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from regime_proto.comparison.columns import name_of
from regime_proto.comparison.compare import Comparison
from regime_proto.comparison.labels import FAMILY
from regime_proto.comparison.rows import PAPER, Row
from regime_proto.report.figure import NEUTRAL, PATTERN, Figure, Table
from regime_proto.report.names import distinct, in_plotly
from regime_proto.report.page.drawing import LONGEST_RUN, at_one, line
from regime_proto.report.view import RunView
from regime_proto.schema.numbers import number

# Okabe and Ito's colours, as page.css gives them for light and dark; further runs take other strokes.
COLORS = tuple(f"var(--run{index})" for index in range(1, 8))
STROKES = ("solid", "dash", "dot", "dashdot")

OWN = "this page"


def published(found: Comparison) -> Figure:
    """Return ρ of the runs of a page, among those of the paper's Table II."""
    paper = [row for row in found.rows if row.source == PAPER]
    own = [row for row in found.rows if row.source != PAPER]
    families = list(dict.fromkeys(map(_family, paper)))
    names = distinct([*families, *(row.run for row in own)], LONGEST_RUN)[len(families) :]
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "markers", "x": [row.rho for row in paper],
            "y": [*map(_family, paper)], "name": "published",
            "marker": {"color": NEUTRAL, "size": 9, "opacity": 0.8},
            "text": [*map(name_of, paper)], "hovertemplate": "%{text}: ρ %{x:.2f}<extra></extra>",
        },
        *map(_own, own, map(in_plotly, names)),
    ]  # fmt: skip
    centre = next(summary.rho for summary in found.summaries if summary.source == PAPER and summary.by is None)
    return Figure(
        key="published",
        title="Beside the published runs",
        caption=(
            f"ρ of the paper's Table II: mean {centre.mean:.2f}, upper and lower semi-deviation +{centre.upper:.2f} "
            f"and −{centre.lower:.2f}, median {centre.median:.2f}; into which family a network falls is our own "
            f"classification.{_rank(own, paper)} A bar goes from where to where the 95 % intervals of a run reach "
            "together. The batch size, the learning rate and where a run stops move ρ as much as the network does: "
            "read this as context."
        ),
        summary=(
            f"Dot plot of ρ on a logarithmic axis: {len(paper)} published runs in {len(families)} families, and "
            + ", ".join(f"{name} at {number(row.rho, '.2f')}" for name, row in zip(names[:8], own, strict=False))
            + "."
        ),
        traces=tuple(traces),
        layout={
            "xaxis": {"type": "log", "title": {"text": "ρ"}, "dtick": "D2"},
            "yaxis": {"automargin": True, "type": "category"},
            "showlegend": False,
            "shapes": [at_one()],
        },
        table=Table(
            ("run", "AUC_W", "AUC_P", "ρ"),
            tuple(
                (name_of(row), number(row.auc_w, ".2f"), number(row.auc_p, ".2f"),
                 number(row.rho, ".2f"))
                for row in (*own, *paper)
            ),
        ),
        height=160 + 28 * (len(families) + len(own)),
    )  # fmt: skip


def _family(row: Row) -> str:
    """Return the family of a published run, as the axis names it."""
    return f"published: {row.labels[FAMILY]}"


def _rank(own: Sequence[Row], paper: Sequence[Row]) -> str:
    """Say above how many of the published runs the one with a ρ lies; nothing of several."""
    known = [row.rho for row in own if math.isfinite(row.rho)]
    if len(known) != 1:
        return ""
    return f" This run lies above {sum(row.rho < known[0] for row in paper)} of these {len(paper)}."


def _own(row: Row, name: str) -> dict[str, Any]:
    """Return a run under its name, with where its intervals reach together."""
    low, high = row.rho_span or (row.rho, row.rho)
    return {
        "type": "scatter", "mode": "markers", "x": [row.rho], "y": [name], "name": OWN,
        "marker": {"color": PATTERN, "size": 13, "symbol": "diamond"},
        "error_x": {
            "type": "data", "symmetric": False, "array": [high - row.rho], "arrayminus": [row.rho - low],
            "color": PATTERN, "thickness": 2,
        },
        "hovertemplate": f"ρ %{{x:.2f}} ({low:.2f} – {high:.2f})<extra>{name}</extra>",
    }  # fmt: skip


def overlay(views: Sequence[RunView]) -> Figure:
    """Return the normalised curves of several runs, over the part of each that is done."""
    traces = []
    names = [*map(in_plotly, distinct([view.name for view in views], LONGEST_RUN))]
    for index, (view, name) in enumerate(zip(views, names, strict=True)):
        color, dash = COLORS[index % len(COLORS)], STROKES[index // len(COLORS) % len(STROKES)]
        steps = view.steps.astype(np.float64)
        part = (steps - steps[0]) / max(1.0, steps[-1] - steps[0])
        for axis, series in (("y", "weight"), ("y2", "pattern")):
            values = view.result.curves[f"{series}_normalised"].to_numpy()
            more = {"legendgroup": str(index), "showlegend": axis == "y", "yaxis": axis}
            hover = f"%{{y:.3f}}<extra>{name}</extra>"
            traces.append(line(part, values, name, color, dash=dash, hovertemplate=hover, **more))
    return Figure(
        key="overlay",
        title="Curves of all runs",
        caption="Normalised weight change above, pattern change below, over the part of each run that is done.",
        summary=f"Two line charts, one above the other, with {len(views)} runs each: weights, then patterns.",
        traces=tuple(traces),
        layout={
            "xaxis": {"title": {"text": "part of the run"}, "tickformat": ".0%", "anchor": "y2"},
            "yaxis": {"title": {"text": "weights"}, "domain": [0.54, 1]},
            "yaxis2": {"title": {"text": "patterns"}, "domain": [0, 0.46]},
        },
        table=Table(
            ("run", *(f"below {threshold.tau:g}: weights, patterns" for threshold in views[0].result.thresholds)),
            tuple(
                (view.name, *(f"{_step(one.step_w)}, {_step(one.step_p)}" for one in view.result.thresholds))
                for view in views
            ),
            "The first step from which a curve stays below a threshold.",
        ),
        height=520,
    )


def _step(step: int | None) -> str:
    return "never" if step is None else str(step)
