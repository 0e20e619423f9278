"""Figures from the stored masks of a run."""

import numpy as np

from regime_proto.analyzer.patterns import Patterns
from regime_proto.report.figure import FAINT, NEUTRAL, PATTERN, WEIGHT, Figure, Switch, Table, numbers
from regime_proto.report.page.drawing import TABLE_ROWS, bars, depth_axis, layer_labels
from regime_proto.report.view import RunView


def selection(found: Patterns) -> str:
    """Return a sentence on the masks that were read."""
    samples = "" if found.samples == found.all_samples else f" and {found.samples} of {found.all_samples} samples"
    return f" Based on {len(found.steps)} of {found.stored:,} observations{samples}, evenly spaced."


def strides(view: RunView, found: Patterns) -> Figure:
    """Return Δa against the distance between the observations."""
    by = found.strides
    kind = view.result.step_kind
    first, last = float(by.mean[0]), float(by.mean[-1])
    times = by.steps[-1] / by.steps[0]
    growth = f"{last / first:.1f} times" if first > 0 else "compared with 0 % of"
    words = (
        f"Observations {by.steps[-1]:g} {kind}s apart differ in {last:.2%} of the units, {growth} those at a distance "
        f"of {by.steps[0]:g}, which is {times:.0f} times smaller."
    )
    hover = "%{y:.3g} (from %{customdata[0]:.3g} to %{customdata[1]:.3g}, %{customdata[2]} pairs)<extra>%{x}</extra>"
    return Figure(
        key="strides",
        title="Δa against stride",
        caption=(
            "Δa between observations at increasing distances: mean over pairs spread over the run, with bars from the "
            "smallest to the largest. Checkpoints every k steps show the net change over k steps, not the sum, so the "
            f"flatter this line, the more changes are undone. {words}"
        ),
        summary=f"Line chart with bars, {len(by.distances)} distances. {words}",
        traces=(
            {
                "type": "scatter", "mode": "lines+markers", "x": by.steps, "y": by.mean, "name": "Δa",
                "line": {"color": PATTERN, "width": 2}, "marker": {"size": 8},
                "error_y": {
                    "type": "data", "symmetric": False, "array": by.high - by.mean, "arrayminus": by.mean - by.low,
                    "color": FAINT, "thickness": 1.5,
                },
                "customdata": np.stack([by.low, by.high, by.pairs], axis=1), "hovertemplate": hover,
            },
        ),
        layout={
            "xaxis": {"type": "log", "title": {"text": f"{kind}s apart"}, "tickvals": by.steps},
            "yaxis": {"title": {"text": "Δa"}, "rangemode": "tozero"},
            "showlegend": False,
        },
        table=Table(
            (f"{kind}s apart", "Δa, mean", "smallest", "largest", "pairs"),
            tuple(
                (f"{step:g}", *numbers(values), str(count))
                for step, values, count in zip(
                    by.steps, np.stack([by.mean, by.low, by.high], axis=1), by.pairs, strict=True
                )
            ),
        ),
        switches=(Switch("logarithmic Δa", "log-axis", ("yaxis",)),),
    )  # fmt: skip


def agreement(view: RunView, found: Patterns) -> Figure:
    """Return the agreement between any two observations."""
    kind = view.result.step_kind
    to_last = found.agreement[-1]
    half = int(np.argmax(to_last >= (1 + to_last[0]) / 2))
    words = (
        f"The first observation agrees with the last in {to_last[0]:.1%} of the units; half of the difference has "
        f"disappeared by {kind} {found.steps[half]}."
    )
    return Figure(
        key="agreement",
        title="Which observations have the same patterns",
        caption=(
            "Share of units in the same state at two observations, mean over the layers. A bright square along the "
            f"diagonal is a time in which patterns stay the same; at the edges between squares, they change. {words}"
            f"{selection(found)}"
        ),
        summary=f"Square heat map of the agreement between {len(found.steps)} observations. {words}",
        traces=(
            {
                "type": "heatmap", "x": found.steps, "y": found.steps, "z": found.agreement, "colorscale": "Cividis",
                "colorbar": {"title": {"text": "same"}, "thickness": 12},
                "hovertemplate": f"{kind} %{{x}} and %{{y}}: %{{z:.3f}}<extra></extra>",
            },
        ),
        layout={
            "xaxis": {"title": {"text": kind}, "constrain": "domain"},
            "yaxis": {"title": {"text": kind}, "autorange": "reversed", "scaleanchor": "x", "constrain": "domain"},
        },
        table=Table(
            (kind, "agrees with the last", "agrees with the first", "agrees with the previous"),
            tuple(
                (str(step), *numbers((found.agreement[at, -1], found.agreement[at, 0], found.agreement[at, at - 1])))
                for at, step in list(enumerate(found.steps))[1 :: max(1, len(found.steps) // TABLE_ROWS)]
            ),
        ),
        height=460,
    )  # fmt: skip


def units(view: RunView, found: Patterns) -> Figure:
    """Return the shares of dead, always-on and restless units of each layer."""
    by = found.units
    names = layer_labels(view)
    dead, always_on = by.dead[-1] / by.stored, by.always_on[-1] / by.stored
    restless = by.restless / by.stored
    worst = int(np.argmax(dead))
    where = f" (most in {names[worst]}, {dead[worst]:.1%})" if dead[worst] else ""
    total = by.stored.sum()
    words = (
        f"At the end, {by.dead[-1].sum() / total:.1%} of all units are dead{where}, "
        f"{by.always_on[-1].sum() / total:.1%} always on, and {by.restless.sum() / total:.1%} restless."
    )
    shares = ((dead, "dead", NEUTRAL), (always_on, "always on", WEIGHT), (restless, "restless", PATTERN))
    padded = " Padding units count as off." if view.facts["padded"] else ""
    return Figure(
        key="units",
        title="Dead, always-on and restless units",
        caption=(
            "At the end of the run, dead units are below their threshold for every probe sample, and always-on units "
            "are above it for every sample. Restless units changed, for at least one sample, over more than half of "
            f"the {by.late_picks - 1} selected intervals in the last quarter of the run. {words}{padded}"
            f"{selection(found)}"
        ),
        summary=f"Bar chart, {len(names)} layers by depth. {words}",
        traces=tuple(bars(names, values, name, color, ".1%") for values, name, color in shares),
        layout={
            "barmode": "group",
            "xaxis": depth_axis(names),
            "yaxis": {"title": {"text": "share of units"}, "tickformat": ".0%", "rangemode": "tozero"},
        },
        table=Table(
            ("layer", "units", "dead at first", "dead at the end", "always on", "restless"),
            tuple(
                (layer.layer, f"{stored:,}", *(f"{share:.1%}" for share in parts))
                for layer, stored, parts in zip(
                    view.result.layers,
                    by.stored,
                    np.stack([by.dead[0] / by.stored, dead, always_on, restless], axis=1),
                    strict=True,
                )
            ),
        ),
    )  # fmt: skip
