"""Figures of quantities: a curve, and a heat map if there is a value for every tensor, layer or sample."""

import itertools
import math

import numpy as np

from regime_proto.analyzer.derived import EACH, START
from regime_proto.analyzer.quantity_curves import QuantityResult, labels_of
from regime_proto.report.binning import bin_edges, bin_means
from regime_proto.report.figure import NEUTRAL, PATTERN, WEIGHT, Figure, Switch, Table, numbers
from regime_proto.report.names import distinct
from regime_proto.report.page.drawing import (
    LONGEST_LAYER,
    TABLE_ROWS,
    binned,
    column_centres,
    heat_map,
    line,
    map_height,
    span_text,
    thinned,
)
from regime_proto.report.view import RunView
from regime_proto.schema.layout import LAYER, QUANTITY_PREFIX, TENSOR
from regime_proto.schema.numbers import number
from regime_proto.schema.types import Array

_COLORS: dict[tuple[str, ...], str] = {(TENSOR,): WEIGHT, (LAYER,): PATTERN}


def quantities(view: RunView) -> list[Figure]:
    """Return the figures of all quantities of a run."""
    figures = []
    for quantity in view.result.quantities.values():
        figures.append(_curve(view, quantity))
        if f"{QUANTITY_PREFIX}{quantity.name}{EACH}" in view.result.curves:
            figures.append(_map(view, quantity))
    return figures


def title_of(quantity: QuantityResult) -> str:
    """Return the name of a quantity in words."""
    return quantity.name.replace("_", " ")


def _unit(quantity: QuantityResult) -> str:
    return "" if quantity.unit in ("", "1") else f", in {quantity.unit}"


def _curve(view: RunView, quantity: QuantityResult) -> Figure:
    curve = view.result.curves[f"{QUANTITY_PREFIX}{quantity.name}"]
    values, start = curve.to_numpy(), curve.attrs.get(START, math.nan)
    edges = bin_edges(len(values), TABLE_ROWS)
    spans = [span_text(view.steps[start], view.steps[stop - 1]) for start, stop in itertools.pairwise(edges)]
    span = _from(float(values[0]), quantity.last) + _at_start(start)
    title = title_of(quantity)
    return Figure(
        key=f"quantity-{quantity.name}",
        title=_sentence(quantity),
        caption=f"{quantity.name}{_unit(quantity)}: {quantity.definition}.{span}{thinned(view)}",
        summary=f"Line chart of {title} over {view.result.step_kind}s.{span}",
        traces=(
            line(
                view.steps, values, title, _COLORS.get(quantity.dims, NEUTRAL),
                hovertemplate=f"%{{y:.4g}}<extra>{title}</extra>",
            ),
        ),
        layout={
            "xaxis": {"title": {"text": view.result.step_kind}},
            "showlegend": False,
        },
        table=Table(
            (view.result.step_kind, title),
            tuple(zip(spans, numbers(bin_means(values, edges)), strict=True)),
            "Means over parts of the run." if len(values) > TABLE_ROWS else "",
        ),
        height=260,
        switches=(Switch("logarithmic", "log-axis", ("yaxis",)),),
    )  # fmt: skip


def _at_start(start: float) -> str:
    """Return a sentence on the value at the first observation, which no change ends at; empty if it is unknown."""
    known = math.isfinite(start)
    return f" At the first observation, before the curve begins: {number(start, '.3g')}." if known else ""


def _from(*ends: float) -> str:
    """Return a sentence on the first and the last value of a curve, as far as they are known."""
    first, last = (number(end, ".3g") if math.isfinite(end) else "" for end in ends)
    if first and last:
        return f" From {first} to {last}."
    return f" Initially {first}." if first else f" Finally {last}." if last else ""


def _sentence(quantity: QuantityResult) -> str:
    return quantity.meaning[:1].upper() + quantity.meaning[1:]


def _map(view: RunView, quantity: QuantityResult) -> Figure:
    each = view.result.curves[f"{QUANTITY_PREFIX}{quantity.name}{EACH}"]
    dimension = str(each.dims[1])
    values, names = each.to_numpy(), labels_of(view.result.curves, dimension)
    shown = np.flatnonzero(np.isfinite(values).any(axis=0))
    names, values = [names[index] for index in shown], values[:, shown]
    cells, quarters = bin_means(values, view.edges), bin_means(values, bin_edges(len(values), 4))
    title, labels = title_of(quantity), distinct(names, LONGEST_LAYER)
    words = _largest(labels, quarters)
    return Figure(
        key=f"quantity-{quantity.name}-map",
        title=f"{_sentence(quantity)}, by {dimension}",
        caption=f"{quantity.name}{_unit(quantity)}, with the first {dimension} on top. {words}{binned(view)}",
        summary=f"Heat map of {title}, {len(labels)} {dimension}s over the run. {words}",
        traces=(heat_map(column_centres(view), labels, cells.T, title, signed=bool((values < 0).any())),),
        layout={
            "xaxis": {"title": {"text": view.result.step_kind}},
            "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
        },
        table=Table(
            (dimension, *(f"{part} quarter" for part in ("1st", "2nd", "3rd", "4th")[: len(quarters)])),
            tuple((name, *numbers(column)) for name, column in zip(names, quarters.T, strict=True)),
            "Means over the quarters of the run.",
        ),
        height=map_height(min(len(labels), 60)),
        switches=(Switch("logarithmic colours", "log-color"),),
    )


def _largest(labels: list[str], quarters: Array) -> str:
    """Return a sentence on the entry with the largest values at the end."""
    last = quarters[-1]
    if not np.isfinite(last).any():
        return "No values are known in the last quarter."
    return f"In the last quarter of the run, {labels[int(np.nanargmax(last))]} has the largest mean."
