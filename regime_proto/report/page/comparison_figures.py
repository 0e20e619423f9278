"""Figures that compare runs with each other and with the published ones."""

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

# Okabe and Ito's colours, as page.css defines them for the light and the dark theme; further runs use other strokes.
COLORS = tuple(f"var(--run{index})" for index in range(1, 8))
STROKES = ("solid", "dash", "dot", "dashdot")

OWN = "this page"


def published(found: Comparison) -> Figure:
    """Return ρ of the runs of a page, together with the paper's Table II."""
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
        title="Comparison with the published runs",
        caption=(
            f"ρ of the paper's Table II: mean {centre.mean:.2f}, upper and lower semi-deviation +{centre.upper:.2f} "
            f"and −{centre.lower:.2f}, median {centre.median:.2f}. The families of networks are our own "
            f"classification.{_rank(own, paper)} A bar spans the 95 % intervals of a run. Batch size, learning rate "
            "and the length of a run affect ρ as much as the network does, so read this as context."
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
    """Return the family of a published run, as shown on the axis."""
    return f"published: {row.labels[FAMILY]}"


def _rank(own: Sequence[Row], paper: Sequence[Row]) -> str:
    """Return a sentence on how many published runs have a smaller ρ than this run; empty for several runs."""
    known = [row.rho for row in own if math.isfinite(row.rho)]
    if len(known) != 1:
        return ""
    return f" The ρ of this run is above that of {sum(row.rho < known[0] for row in paper)} of these {len(paper)} runs."


def _own(row: Row, name: str) -> dict[str, Any]:
    """Return the mark of a run, with a bar that spans its intervals."""
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
    """Return the normalised curves of several runs, over the fraction of each run that has passed."""
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
        caption="Normalised weight change (top) and pattern change (bottom), over the fraction of each run.",
        summary=f"Two line charts, one above the other, with {len(views)} runs each: weights (top) and patterns.",
        traces=tuple(traces),
        layout={
            "xaxis": {"title": {"text": "fraction of the run"}, "tickformat": ".0%", "anchor": "y2"},
            "yaxis": {"title": {"text": "weights"}, "domain": [0.54, 1]},
            "yaxis2": {"title": {"text": "patterns"}, "domain": [0, 0.46]},
        },
        table=Table(
            ("run", *(f"below {threshold.tau:g}: weights, patterns" for threshold in views[0].result.thresholds)),
            tuple(
                (view.name, *(f"{_step(one.step_w)}, {_step(one.step_p)}" for one in view.result.thresholds))
                for view in views
            ),
            "First step from which a curve stays below a threshold.",
        ),
        height=520,
    )


def _step(step: int | None) -> str:
    return "never" if step is None else str(step)
