"""Elements that the figures of a page share."""

from typing import Any

import numpy as np

from regime_proto.report.figure import FAINT
from regime_proto.report.names import distinct, in_plotly
from regime_proto.report.thinning import extremes
from regime_proto.report.view import RunView
from regime_proto.schema.types import Array

# Most points of a curve that are drawn.
POINTS = 2000
# Most layers that can be named below a bar chart.
MOST_NAMES = 16
# Most letters of a name in a figure.
LONGEST_LAYER, LONGEST_RUN, LONGEST_METRIC = 34, 30, 24
# Most rows of the table of a figure.
TABLE_ROWS = 40


def line(steps: Array, values: Array, name: str, color: str, **more: Any) -> dict[str, Any]:
    """Return a curve, thinned for drawing."""
    x, y = extremes(steps, values, POINTS // 2)
    dash = more.pop("dash", "solid")
    return {
        "type": "scatter", "mode": "lines", "x": x, "y": y, "name": name,
        "line": {"color": color, "width": 2, "dash": dash}, **more,
    }  # fmt: skip


def thinned(view: RunView) -> str:
    """Return a sentence on how curves are thinned; empty if they are not."""
    count = len(view.steps)
    return (
        f" The curves show the smallest and the largest of every {count / (POINTS / 2):.0f} values; all numbers use "
        f"all {count:,} values."
        if count > POINTS
        else ""
    )


def binned(view: RunView) -> str:
    """Return a sentence on the columns of a heat map; empty if each is a single change."""
    count, columns = len(view.steps), len(view.edges) - 1
    return f" A column is the mean over {count / columns:.1f} changes." if count > columns else ""


def span_text(first: int, last: int) -> str:
    """Return a range of steps."""
    return str(first) if first == last else f"{first} – {last}"


def layer_labels(view: RunView) -> list[str]:
    """Return a unique name for each layer, from node and module."""
    layers = view.result.layers
    return distinct([f"{layer.layer} · {layer.path}" if layer.path else layer.layer for layer in layers], LONGEST_LAYER)


def at_one() -> dict[str, Any]:
    """Return a line at ρ = 1."""
    return {
        "type": "line", "x0": 1, "x1": 1, "y0": 0, "y1": 1, "yref": "paper",
        "line": {"color": FAINT, "width": 1.5, "dash": "dot"},
    }  # fmt: skip


def bars(names: list[str], values: Array, title: str, color: str, form: str) -> dict[str, Any]:
    """Return a bar for each layer; if there are too many to name on the axis, they are numbered."""
    shown = [*map(in_plotly, names)]
    places = list(range(1, len(names) + 1)) if len(names) > MOST_NAMES else shown
    return {
        "type": "bar", "x": places, "y": values, "name": title, "marker": {"color": color},
        "text": shown, "textposition": "none", "hovertemplate": f"{title} %{{y:{form}}}<extra>%{{text}}</extra>",
    }  # fmt: skip


def depth_axis(names: list[str]) -> dict[str, Any]:
    """Return the horizontal axis of these bars."""
    title = {"title": {"text": "layer, by depth"}}
    return title if len(names) > MOST_NAMES else {**title, "type": "category"}


def column_centres(view: RunView) -> Array:
    """Return the steps at the centres of the columns of heat maps."""
    middle = (view.edges[:-1] + view.edges[1:] - 1) // 2
    return np.asarray(view.steps[middle])


def heat_map(x: Array, y: list[str], z: Array, title: str, *, signed: bool = False) -> dict[str, Any]:
    """Return a heat map; page.js can show its logarithm. For signed values, 0 is the middle of the colour scale."""
    colors = {"colorscale": "RdBu", "zmid": 0} if signed else {"colorscale": "Cividis"}
    return {
        "type": "heatmap", "x": x, "y": [*map(in_plotly, y)], "z": z, **colors,
        "colorbar": {"title": {"text": title, "side": "right"}, "thickness": 12},
        "hovertemplate": f"%{{y}}<br>%{{x}}<br>{title} %{{customdata:.3g}}<extra></extra>", "customdata": z,
    }  # fmt: skip


def map_height(rows: int) -> int:
    """Return the height of a heat map, in pixels."""
    return 150 + min(700, max(120, 22 * rows))
