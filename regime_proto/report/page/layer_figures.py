"""Figures that show in which layers, and for which probe samples, patterns keep changing."""

import numpy as np

from regime_proto.report.binning import bin_edges, bin_means
from regime_proto.report.figure import NEUTRAL, PATTERN, Figure, Switch, Table, numbers
from regime_proto.report.page.drawing import (
    TABLE_ROWS,
    bars,
    binned,
    column_centres,
    depth_axis,
    heat_map,
    layer_labels,
    map_height,
)
from regime_proto.report.view import RunView
from regime_proto.schema.numbers import number
from regime_proto.schema.types import Array


def layer_map(view: RunView) -> Figure:
    """Return Δa of every layer over the run."""
    result, steps = view.result, view.steps
    values = bin_means(result.curves["layer_pattern_change"].to_numpy(), view.edges)
    names = layer_labels(view)
    quarters = bin_means(values, bin_edges(len(values), 4))
    most = int(np.argmax(np.nan_to_num(quarters[-1])))
    rows = tuple(
        (layer.layer, layer.path, *numbers(column)) for layer, column in zip(result.layers, quarters.T, strict=True)
    )
    return Figure(
        key="layers",
        title="Layer by layer",
        caption=(
            "Δa of each layer, with the first layer on top: the share of its units, over all probe samples, that "
            f"switched. Late in the run, {names[most]} changes most.{binned(view)}"
        ),
        summary=(
            f"Heat map of Δa, {len(names)} layers over {result.step_kind}s {steps[0]} to {steps[-1]}. In the last "
            f"quarter, the largest mean is {number(float(quarters[-1, most]), '.2g')}, in {names[most]}."
        ),
        traces=(heat_map(column_centres(view), names, values.T, "Δa"),),
        layout={
            "xaxis": {"title": {"text": result.step_kind}},
            "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
        },
        table=Table(
            ("layer", "module", *(f"{part} quarter" for part in ("1st", "2nd", "3rd", "4th")[: quarters.shape[0]])),
            rows,
            "Mean Δa over each quarter of the run.",
        ),
        height=map_height(len(names)),
        switches=(Switch("logarithmic colours", "log-color"),),
    )


def layer_areas(view: RunView) -> Figure:
    """Return AUC_P of every layer, by depth."""
    layers = view.result.layers
    names = layer_labels(view)
    areas = np.array([layer.auc_p for layer in layers])
    words = _first_and_last(names, areas)
    return Figure(
        key="areas",
        title="Which layers stay active",
        caption=(
            "AUC_P of each layer by depth. Each layer is scaled by its own smallest and largest changes: a small AUC_P "
            "means that its changes were high in a small part of the run only, whatever their size. The line is AUC_P "
            f"of the network. {words}"
        ),
        summary=f"Bar chart of AUC_P for {len(layers)} layers. {words}",
        traces=(bars(names, areas, "AUC_P", PATTERN, ".3f"),),
        layout={
            "xaxis": depth_axis(names),
            "yaxis": {"title": {"text": "AUC_P"}, "rangemode": "tozero"},
            "showlegend": False,
            "shapes": []
            if not np.isfinite(view.result.auc_p)
            else [
                {
                    "type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": view.result.auc_p,
                    "y1": view.result.auc_p, "line": {"color": NEUTRAL, "width": 1.5, "dash": "dot"},
                }
            ],
        },
        table=Table(
            ("layer", "module", "operator", "units", "AUC_P"),
            tuple((one.layer, one.path, one.op, f"{one.units:,}", number(one.auc_p)) for one in layers),
        ),
    )  # fmt: skip


def _first_and_last(names: list[str], areas: Array) -> str:
    """Return a sentence on the layers with the smallest and the largest area."""
    known = np.flatnonzero(np.isfinite(areas))
    if not len(known):
        return "The changes of no layer have a scale."
    first, last = known[np.argmin(areas[known])], known[np.argmax(areas[known])]
    if areas[first] == areas[last]:
        return "All layers have the same area."
    return f"{names[first]} has the smallest area ({areas[first]:.3f}), {names[last]} the largest ({areas[last]:.3f})."


def sample_map(view: RunView) -> Figure:
    """Return Δa of every probe sample, which shows the samples that keep changing."""
    changes, late = view.samples.changes, view.samples.late
    order = np.argsort(-np.nan_to_num(late, nan=-1.0))
    names = [f"sample {index}" for index in order]
    total = float(np.nansum(late))
    top = max(1, round(0.1 * len(late)))
    share = float(np.nansum(late[order[:top]])) / total if total > 0 else float("nan")
    words = (
        f"In the last quarter of the run, the {top} most restless of {len(late)} samples "
        f"account{'s' * (top == 1)} for {share:.0%} of all changes."
        if np.isfinite(share)
        else "No sample changes late in the run."
    )
    first = changes[: max(1, len(changes) // 4)].mean(axis=0)
    return Figure(
        key="samples",
        title="Which probe samples keep flipping",
        caption=(
            "Δa of each probe sample, with those that change most late in the run on top (numbered from 0 in the order "
            f"of the probe). {words}{binned(view)}"
        ),
        summary=f"Heat map of Δa, {len(late)} probe samples over the run. {words}",
        traces=(heat_map(column_centres(view), names, changes[:, order].T, "Δa"),),
        layout={
            "xaxis": {"title": {"text": view.result.step_kind}},
            "yaxis": {"autorange": "reversed", "automargin": True, "type": "category", "nticks": len(late)},
        },
        table=Table(
            ("sample", "Δa, first quarter", "Δa, last quarter"),
            tuple((str(index), *numbers((first[index], late[index]))) for index in order[:TABLE_ROWS]),
            f"The {TABLE_ROWS} samples that change most late in the run." if len(order) > TABLE_ROWS else "",
        ),
        height=map_height(min(len(late), 30)),
        switches=(Switch("logarithmic colours", "log-color"),),
    )
