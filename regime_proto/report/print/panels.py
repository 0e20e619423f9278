"""The panels of a figure: curves, layers and metrics from top to bottom, runs side by side."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from regime_proto.report.names import distinct
from regime_proto.report.print import style
from regime_proto.report.print.drawn import Drawn
from regime_proto.report.print.metrics import choose
from regime_proto.report.thinning import extremes
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.numbers import number
from regime_proto.schema.text import printable
from regime_proto.schema.types import Array

LAYERS = ("curves", "map")

# More points than print can resolve.
BINS = 600
COLUMNS_OF_A_MAP = 300

# Inches.
_HEIGHTS = {"curves": 1.45, "layers": 1.2, "loss": 0.75, "score": 0.75}
_SMALL = 0.8
_LINE, _AXIS, _SIDE, _LETTER = 0.16, 0.36, 0.5, 0.066

_ACROSS = {1: 2, 2: 4}
_LEGEND_COLUMNS = {1: 3, 2: 6}
_LEGEND_LETTERS = 24
_FEW_POINTS = 30
# Letters that both areas take on one line.
_AREAS_LETTERS = 22
# Margins on the left and right of the curves, as a fraction of their length.
_MARGIN = 0.02
# The end of the colour map is too light for a line on white.
_DARK = 0.8


@dataclass(frozen=True)
class Plan:
    """The contents of a figure.

    Parameters
    ----------
    columns, across, down : int
        Journal columns; number of runs side by side, and on top of each other.
    layers : str or None
    losses, scores : tuple of str
        Metrics to draw.
    axis : str
        Unit of the horizontal axes.
    """

    columns: int
    across: int
    down: int
    layers: str | None
    losses: tuple[str, ...]
    scores: tuple[str, ...]
    axis: str

    @property
    def panels(self) -> tuple[str, ...]:
        """The panels of each run, from top to bottom."""
        there = {"curves": True, "layers": self.layers is not None, "loss": self.losses, "score": self.scores}
        return tuple(name for name, is_there in there.items() if is_there)

    def shares(self, panel: str) -> bool:
        """Whether all runs share the vertical axis of a panel; they may have different numbers of layers."""
        return panel != "layers" or self.layers == "curves"

    @property
    def letters(self) -> int:
        """Number of letters that fit above a panel."""
        sides = _SIDE * (2 if self.layers == "map" else 1)
        return int((style.WIDTHS[self.columns] - sides) / self.across / _LETTER)


def draw(runs: Sequence[Drawn], *, columns: int, layers: str | None, metrics: Sequence[str]) -> Any:
    """Return the figure of the given runs.

    Raises
    ------
    RegimeError
        It is too high for a page, the runs have no common axis, or a metric does not exist.
    """
    losses, scores = choose(metrics, (name for run in runs for name in run.metrics))
    across = min(len(runs), _ACROSS[columns])
    plan = Plan(columns, across, math.ceil(len(runs) / across), layers, losses, scores, axis=_axis(runs))
    titles = _titles(runs, plan)
    handles = _handles(plan)
    figure, axes = _axes(plan, title_lines=max(title.count("\n") + 1 for title in titles), entries=len(handles))
    # (run, panel)
    blocks = axes.reshape(plan.down, len(plan.panels), across).swapaxes(1, 2).reshape(-1, len(plan.panels))
    for run, title, block in zip(runs, titles, blocks, strict=False):
        _draw_run(run, dict(zip(plan.panels, block, strict=True)), _places(run, plan), plan)
        block[0].set_title(title, linespacing=1.25)
    # A map would set the limits to its own ends.
    ends = [_places(run, plan)[[0, -1]] for run in runs]
    low, high = np.min(ends), np.max(ends)
    axes[0, 0].set_xlim(low - _MARGIN * (high - low), high + _MARGIN * (high - low))
    for axes_left_over in blocks[len(runs) :].flat:
        axes_left_over.set_axis_off()
    _label(blocks[: len(runs)], plan)
    if layers == "map":
        _colorbar(figure, blocks[: len(runs), plan.panels.index("layers")])
    figure.legend(
        handles=handles, loc="outside upper left", ncols=_LEGEND_COLUMNS[columns], frameon=False, borderpad=0,
        handlelength=2.2, columnspacing=1.2, handletextpad=0.5,
    )  # fmt: skip
    return figure


def _axis(runs: Sequence[Drawn]) -> str:
    """Return the unit of the horizontal axes of all runs: epochs, if they are known for all."""
    if all(run.epochs is not None for run in runs):
        return "epoch"
    kinds = dict.fromkeys(run.result.step_kind for run in runs)
    if len(kinds) > 1:
        counted = " and ".join(f"{kind}s" for kind in kinds)
        raise RegimeError(f"the runs count in {counted}, which have no common axis; draw them separately")
    return "checkpoint" if "ordinal" in kinds else next(iter(kinds))


def _axes(plan: Plan, *, title_lines: int, entries: int) -> tuple[Any, Array]:
    heights = [_HEIGHTS[panel] * (1.0 if plan.across == 1 else _SMALL) for panel in plan.panels] * plan.down
    lines = math.ceil(entries / _LEGEND_COLUMNS[plan.columns]) + title_lines * plan.down
    height = sum(heights) + _LINE * lines + _AXIS * plan.down + 0.1
    if height > style.PAGE:
        wider = ", or draw it two columns wide" if plan.columns == 1 else ""
        raise RegimeError(
            f"the figure would be {height:.1f} inches high, a page is {style.PAGE}: give fewer runs{wider}"
        )
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.04, wspace=0.02, hspace=0.0)
    figure = style.Inline(figsize=(style.WIDTHS[plan.columns], height), layout=layout)
    axes = figure.subplots(
        len(heights), plan.across, sharex="all", squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for index, panel in enumerate(plan.panels):
        first, *others = axes[index :: len(plan.panels)].flat
        for other in others if plan.shares(panel) else ():
            other.sharey(first)
    return figure, axes


def _places(run: Drawn, plan: Plan) -> Array:
    """Return the positions of the observations of a run on the horizontal axis."""
    return run.epochs if plan.axis == "epoch" and run.epochs is not None else run.steps


def _draw_run(run: Drawn, panels: Mapping[str, Any], at: Array, plan: Plan) -> None:
    _draw_curves(panels["curves"], run, at)
    if plan.layers is not None:
        {"curves": _draw_layers, "map": _draw_map}[plan.layers](panels["layers"], run, at)
    for panel, names, looks in (("loss", plan.losses, style.LOSSES), ("score", plan.scores, style.SCORES)):
        if names:
            _draw_metrics(panels[panel], run, at, dict(zip(names, looks, strict=False)))


def _draw_curves(axes: Any, run: Drawn, at: Array) -> None:
    for values, look in ((run.weights, style.WEIGHTS), (run.patterns, style.PATTERNS)):
        where, heights = extremes(at[1:], values, BINS)
        axes.plot(where, heights, **look)
        axes.fill_between(where, 0, heights, color=look["color"], alpha=0.13, linewidth=0)
    for threshold in run.result.thresholds:
        for step, look, marker in ((threshold.step_w, style.WEIGHTS, "o"), (threshold.step_p, style.PATTERNS, "s")):
            if step is not None:
                axes.plot(np.interp(step, run.steps, at), threshold.tau, **_mark(look, marker))
    axes.set_ylim(0, 1.03)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])


def _mark(look: style.Look, marker: str) -> style.Look:
    return {
        "color": look["color"], "marker": marker, "markersize": 3.2, "markerfacecolor": "white", "markeredgewidth": 0.8,
        "linestyle": "none", "zorder": 3, "clip_on": False,
    }  # fmt: skip


def _draw_layers(axes: Any, run: Drawn, at: Array) -> None:
    for values, colour in zip(run.layers.T, _layer_colours(run.layers.shape[1]), strict=True):
        where, heights = extremes(at[1:], values, BINS)
        axes.plot(where, heights, color=colour, linewidth=0.8)
    axes.set_ylim(0, 1.03)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])


def _layer_colours(count: int) -> Array:
    """Return a colour for each layer, from the first to the last: (layer, 4) float64."""
    colours: Array = ScalarMappable(Normalize(0, 1), style.LAYERS).to_rgba(np.linspace(0, _DARK, count))
    return colours


def _draw_map(axes: Any, run: Drawn, at: Array) -> None:
    count = run.layers.shape[1]
    edges = np.linspace(at[0], at[-1], min(COLUMNS_OF_A_MAP, len(at) - 1) + 1)
    means = np.stack([mean_between(edges, at, values) for values in run.layers.T])
    axes.imshow(
        means, cmap=style.LAYERS, vmin=0, vmax=1, aspect="auto", interpolation="nearest",
        extent=(at[0], at[-1], count + 0.5, 0.5),
    )  # fmt: skip
    axes.set_yticks([1, count] if count > 1 else [1])


def mean_between(edges: Array, at: Array, values: Array) -> Array:
    """Return the mean of a curve between consecutive edges, with each value weighted by the length of its interval.

    Parameters
    ----------
    edges : (bin + 1,) float64
    at : (observation,) number
    values : (interval,) float64
        Values between consecutive observations; NaN is ignored.

    Returns
    -------
    (bin,) float64
        NaN if no value is known.
    """
    known = np.isfinite(values)
    lengths = np.diff(at)

    def integrated(heights: Array) -> Array:
        return np.diff(np.interp(edges, at, np.concatenate([[0.0], np.cumsum(heights * lengths)])))

    covered = integrated(known.astype(np.float64))
    # Smaller lengths are rounding errors of the sums.
    some = covered > 1e-9 * np.diff(edges)
    return np.where(some, integrated(np.where(known, values, 0.0)) / np.where(some, covered, 1.0), np.nan)


def _draw_metrics(axes: Any, run: Drawn, at: Array, looks: Mapping[str, style.Look]) -> None:
    for name, look in looks.items():
        values = run.metrics.get(name, np.full(len(at), np.nan))
        logged = np.isfinite(values)
        where, heights = extremes(at[logged], values[logged], BINS)
        marked = {"marker": ".", "markersize": 3} if len(where) <= _FEW_POINTS else {}
        axes.plot(where, heights, linewidth=0.9, **look, **marked)
    if not looks.keys() & run.metrics.keys():
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color="#767676")


def _titles(runs: Sequence[Drawn], plan: Plan) -> list[str]:
    """Return the title of each run: ρ and the areas, and the name of the run if there are several."""
    if len(runs) == 1:
        return [", ".join(_numbers(runs[0]))]
    titles = []
    for run, lines in zip(runs, _names(runs, plan), strict=True):
        rho, auc_w, auc_p = _numbers(run)
        areas = f"{auc_w}, {auc_p}" if plan.letters >= _AREAS_LETTERS else f"{auc_w}\n{auc_p}"
        titles.append("\n".join([*map(_plain, lines), rho, areas]))
    return titles


def _names(runs: Sequence[Drawn], plan: Plan) -> list[list[str]]:
    """Return a unique name of each run, in at most two lines, with the stride if strides differ."""
    names, strides = [printable(run.name) for run in runs], [""] * len(runs)
    if len({(run.result.step_kind, run.result.stride) for run in runs}) > 1:
        found = [run.result.stride for run in runs]
        strides = ["uneven strides" if stride is None else f"stride {stride}" for stride in found]
    whole = [", ".join(filter(None, parts)) for parts in zip(names, strides, strict=True)]
    lines = [textwrap.wrap(name, plan.letters, max_lines=2, placeholder="…") for name in whole]
    if len(set(map(tuple, lines))) == len(lines):
        return lines
    return [list(filter(None, pair)) for pair in zip(distinct(names, plan.letters), strides, strict=True)]


def _numbers(run: Drawn) -> tuple[str, str, str]:
    result = run.result
    return (
        rf"$\rho$ = {number(result.rho, '.2f')}",
        rf"AUC$_W$ {number(result.auc_w, '.2f')}",
        rf"AUC$_P$ {number(result.auc_p, '.2f')}",
    )


def _plain(text: str) -> str:
    """Return text in which nothing is hidden or treated as a formula."""
    return printable(text).replace("$", r"\$")


def _label(blocks: Array, plan: Plan) -> None:
    """Name the axes on the left and below."""
    names = {
        "curves": "normalised change",
        "layers": "layer" if plan.layers == "map" else "by layer",
        "loss": "loss",
        "score": "score",
    }
    for index, block in enumerate(blocks):
        is_lowest = index + plan.across >= len(blocks)
        for panel, axes in zip(plan.panels, block, strict=True):
            is_left = index % plan.across == 0
            axes.set_ylabel(names[panel] if is_left else "")
            axes.tick_params(
                labelleft=is_left or not plan.shares(panel), labelbottom=is_lowest and panel == plan.panels[-1]
            )
        block[-1].set_xlabel(plan.axis if is_lowest else "")


def _colorbar(figure: Any, axes: Array) -> None:
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), style.LAYERS), ax=list(axes), aspect=14, pad=0.02)
    bar.outline.set_linewidth(0.6)
    bar.set_ticks([0, 1])
    bar.set_label("normalised change")


def _handles(plan: Plan) -> list[Any]:
    curves: dict[str, style.Look] = {
        "weights": {**_mark(style.WEIGHTS, "o"), **style.WEIGHTS},
        "patterns": {**_mark(style.PATTERNS, "s"), **style.PATTERNS},
    }
    if plan.layers == "curves":
        first, last = _layer_colours(2)
        curves |= {"first layer": {"color": first}, "last layer": {"color": last}}
    looks = [*style.LOSSES[: len(plan.losses)], *style.SCORES[: len(plan.scores)]]
    names = distinct([*curves, *plan.losses, *plan.scores], _LEGEND_LETTERS)
    return [
        Line2D([], [], label=_plain(name), **look) for name, look in zip(names, [*curves.values(), *looks], strict=True)
    ]
