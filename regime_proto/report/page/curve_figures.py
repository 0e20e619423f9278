"""The curves of a run: normalised, and as measured."""

import itertools
from typing import Any

import numpy as np

from regime_proto.analyzer.stages import CHAOTIC, FLAT, PERCENTILES, STABLE, TRANSITION, Labels
from regime_proto.report.binning import bin_edges, bin_means
from regime_proto.report.figure import FAINT, NEUTRAL, PATTERN, WEIGHT, Figure, Switch, Table, numbers
from regime_proto.report.names import distinct, in_plotly
from regime_proto.report.page.drawing import LONGEST_METRIC, TABLE_ROWS, line, span_text, thinned
from regime_proto.report.view import RunView
from regime_proto.schema.numbers import number

_LEVELS = (CHAOTIC, TRANSITION, STABLE)
ROLES = (("weight", "weights", "Δw", WEIGHT, "solid"), ("pattern", "patterns", "Δa", PATTERN, "dash"))


def curve_table(view: RunView) -> Table:
    """Return both curves; for a long run, as means over parts of the run."""
    found, steps = view.result.curves, view.steps
    edges = bin_edges(len(steps), TABLE_ROWS)
    names = ("weight_change", "weight_normalised", "pattern_change", "pattern_normalised")
    columns = [bin_means(found[name].to_numpy(), edges) for name in names]
    spans = [span_text(steps[start], steps[stop - 1]) for start, stop in itertools.pairwise(edges)]
    rows = tuple((span, *numbers(values)) for span, values in zip(spans, np.stack(columns, axis=1), strict=True))
    kind = view.result.step_kind
    note = f"Means over parts of the run; regime export writes every {kind}." if len(steps) > TABLE_ROWS else ""
    return Table((kind, "Δw", "weights, normalised", "Δa", "patterns, normalised"), rows, note)


def normalised(view: RunView) -> Figure:
    """Return the smoothed and normalised curves, with marks where they settle (the paper's Fig. 1)."""
    result, steps = view.result, view.steps
    traces, areas = [], {"weight": result.auc_w, "pattern": result.auc_p}
    for series, name, symbol, color, dash in ROLES:
        values = result.curves[f"{series}_normalised"].to_numpy()
        area = f"{name} (AUC {number(areas[series])})"
        hover = f"{symbol}, normalised %{{y:.3f}}<extra>{name}</extra>"
        traces.append(line(steps, values, area, color, dash=dash, hovertemplate=hover))
    for threshold in result.thresholds:
        for step, (_, name, _, color, _) in zip((threshold.step_w, threshold.step_p), ROLES, strict=True):
            if step is not None:
                traces.append(
                    {
                        "type": "scatter", "mode": "markers", "x": [step], "y": [threshold.tau],
                        "marker": {
                            "color": color, "size": 10, "symbol": "circle" if name == "weights" else "diamond",
                            "line": {"color": "var(--page)", "width": 1.5},
                        },
                        "showlegend": False,
                        "hovertemplate": f"{name} below {threshold.tau:g} from %{{x}} on<extra></extra>",
                    }
                )  # fmt: skip
    rows = [
        {
            "type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": threshold.tau, "y1": threshold.tau,
            "line": {"color": FAINT, "width": 1, "dash": "dot"},
        }
        for threshold in result.thresholds
    ]  # fmt: skip
    below = "; ".join(
        f"{threshold.tau:g}: weights {_from(threshold.step_w)}, patterns {_from(threshold.step_p)}"
        for threshold in result.thresholds
    )
    ends = "whole windows only" if result.preset == "strict" else "zeros beyond the ends"
    smoothed = f"smoothed over {result.window} observations ({ends})" if result.window > 1 else "not smoothed"
    return Figure(
        key="curves",
        title="When weights and patterns settled",
        caption=(
            f"Δw and Δa, {smoothed}, scaled by their 0.5th and 99.5th percentiles. A marker shows the step from which "
            "a curve stays below a dotted line: "
            f"{below}.{thinned(view)}"
        ),
        summary=(
            f"Line chart. The area under the normalised weight change is {number(result.auc_w)}, under the pattern "
            f"change {number(result.auc_p)}; their ratio ρ is {number(result.rho, '.2f')}."
        ),
        traces=tuple(traces),
        layout={
            "xaxis": {"title": {"text": result.step_kind}},
            "yaxis": {"title": {"text": "normalised change"}, "rangemode": "tozero"},
            "shapes": rows,
            "hovermode": "x unified",
        },
        table=curve_table(view),
        height=360,
    )


def _from(step: int | None) -> str:
    return "never" if step is None else f"from {step}"


def raw(view: RunView) -> Figure:
    """Return panels with Δw and Δa in their own units, the distance from the start, and the metrics."""
    result, steps = view.result, view.steps
    panels: list[tuple[str, list[dict[str, Any]]]] = []
    for series, name, symbol, color, dash in ROLES:
        lines = []
        for stage, shown in (("change", FAINT), ("smoothed", color)):
            if stage == "change" and result.window == 1:
                continue
            text = name if stage == "smoothed" else f"{name}, as measured"
            lines.append(
                line(
                    steps, result.curves[f"{series}_{stage}"].to_numpy(), text, shown,
                    dash=dash if stage == "smoothed" else "solid",
                    hovertemplate=f"{symbol} %{{y:.3g}}<extra>{text}</extra>",
                )
            )  # fmt: skip
        panels.append((symbol, lines))
    if "weight_distance" in result.curves:
        values = result.curves["weight_distance"].to_numpy()
        hover = "%{y:.3g}<extra>distance from the start</extra>"
        panels.append(("‖w − w₀‖", [line(steps, values, "distance from the start", WEIGHT, hovertemplate=hover)]))
    metrics = distinct([metric.name for metric in view.metrics], LONGEST_METRIC)
    for metric, name in zip(view.metrics, map(in_plotly, metrics), strict=True):
        hover = f"%{{y:.4g}}<extra>{name}</extra>"
        panels.append((name, [line(metric.steps, metric.values, name, NEUTRAL, hovertemplate=hover)]))
    labels = result.labels
    if labels is not None:
        panels.append(("label", [_label_marks(view, labels)]))
    traces, layout = _stacked(panels, result.step_kind)
    if labels is not None:
        # The names of the levels replace a title.
        layout[_axis(len(panels) - 1, "yaxis")] |= {
            "title": None, "range": [-0.5, 2.5], "tickvals": [0, 1, 2], "ticktext": [*map(str.lower, _LEVELS)],
        }  # fmt: skip
    beside = ["the distance of the weights from their start"] if "weight_distance" in result.curves else []
    beside += metrics
    beside += [] if labels is None else ["labels of the observations"]
    also = f" Below them {', '.join(beside)}." if beside else ""
    return Figure(
        key="raw",
        title="As measured",
        caption=(
            "Δw is the mean |change| of a trainable parameter between observations, Δa the share of units that "
            f"switched, mean over the layers.{also}{_stages(view)}{_labelled(labels)}{thinned(view)}"
        ),
        summary=(
            f"Line charts over {result.step_kind}s, one above the other: {', '.join(['Δw', 'Δa', *beside])}. "
            f"Late in the run Δa is {result.late_pattern_change:.1e}."
        ),
        traces=tuple(traces),
        layout=layout,
        table=_metric_table(view),
        height=120 + 130 * len(panels),
        switches=(Switch("logarithmic Δw and Δa", "log-axis", ("yaxis", "yaxis2")),),
    )


def _stages(view: RunView) -> str:
    """Return sentences on the stages of the losses."""
    kind = view.result.step_kind
    said = [
        f" Stages of {name}: {', '.join(f'{stage.kind} to {kind} {stage.last}' for stage in stages)}."
        for name, stages in view.stages.items()
    ]
    return "".join(said) + (
        f" (Our definition: the slope of a plateau is below {FLAT:g} of the steepest descent.)" if said else ""
    )


def _label_marks(view: RunView, labels: Labels) -> dict[str, Any]:
    """Return a mark for every labelled observation, at the height of its label."""
    places = [index for index, label in enumerate(labels.labels) if label]
    levels = np.array([_LEVELS.index(labels.labels[index]) for index in places], float)
    marks = line(
        view.steps[places], levels, "label", NEUTRAL, mode="markers", hovertemplate="%{text}<extra>label</extra>"
    )
    return {**marks, "marker": {"color": NEUTRAL, "size": 5}, "text": [_LEVELS[int(level)] for level in marks["y"]]}


def _labelled(labels: Labels | None) -> str:
    """Return a sentence on the share of each label and the thresholds."""
    if labels is None:
        return ""
    low, high = (f"{percentile:.0f}th" for percentile in PERCENTILES)
    shares = ", ".join(f"{labels.share(label):.0%} {label}" for label in reversed(_LEVELS))
    return (
        f" Labels by the cosine between consecutive fingerprints: {shares}. {STABLE} is at least 1 − "
        f"{1 - labels.stable:.2g}, {CHAOTIC} at most 1 − {1 - labels.chaotic:.2g}: the {high} and the {low} "
        "percentile of this run, which fix these shares by construction."
    )


def _stacked(
    panels: list[tuple[str, list[dict[str, Any]]]], step_kind: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return traces and layout of vertically stacked panels that share their steps."""
    gap, count = 0.05, len(panels)
    height = (1 - gap * (count - 1)) / count
    layout: dict[str, Any] = {"hovermode": "x unified", "showlegend": False}
    traces = []
    for index, (title, lines) in enumerate(panels):
        top = 1 - index * (height + gap)
        layout[_axis(index, "yaxis")] = {"title": {"text": title}, "domain": [max(0.0, top - height), top]}
        traces += [{**one, "yaxis": _axis(index, "y")} for one in lines]
    layout["xaxis"] = {"title": {"text": step_kind}, "anchor": f"y{count}" if count > 1 else "y"}
    return traces, layout


def _axis(index: int, name: str) -> str:
    """Return the name of an axis in Plotly's numbering."""
    return name if index == 0 else f"{name}{index + 1}"


def _metric_table(view: RunView) -> Table:
    steps = view.steps
    names = ["weight_smoothed", "pattern_smoothed"]
    header = [view.result.step_kind, "Δw, smoothed", "Δa, smoothed"]
    if "weight_distance" in view.result.curves:
        names.append("weight_distance")
        header.append("‖w − w₀‖")
    edges = bin_edges(len(steps), TABLE_ROWS)
    columns = [bin_means(view.result.curves[name].to_numpy(), edges) for name in names]
    for metric in view.metrics:
        at = np.full(len(steps), np.nan)
        inside = np.isin(metric.steps, steps)
        at[np.searchsorted(steps, metric.steps[inside])] = metric.values[inside]
        columns.append(bin_means(at, edges))
        header.append(metric.name)
    spans = [span_text(steps[start], steps[stop - 1]) for start, stop in itertools.pairwise(edges)]
    rows = tuple((span, *numbers(values)) for span, values in zip(spans, np.stack(columns, axis=1), strict=True))
    return Table(tuple(header), rows, "Means over parts of the run." if len(steps) > TABLE_ROWS else "")
