"""Draws results for a terminal."""

import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from regime_proto.analyzer.display import describe_intervals, describe_range, describe_run
from regime_proto.analyzer.result import LayerResult, Result
from regime_proto.analyzer.stages import CHAOTIC, PERCENTILES, STABLE, TRANSITION, Labels
from regime_proto.analyzer.structure import LEVEL, Structure
from regime_proto.analyzer.verdict import verdict
from regime_proto.runtime.progress import is_plain
from regime_proto.schema.numbers import number
from regime_proto.schema.text import printable

SPARK_WIDTH = 60
SHOWN_LAYERS = 3
_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "_.-:=+*#"
_ASCII = {"ρ": "rho", "–": "-", "−": "-", "τ": "tau", "×": "x", "·": "-", "…": "...", "Δ": "d", "‖": "|", "₀": "0"}


class _Console(Console):
    """A console that prints names from files as plain text: no markup, no terminal control sequences."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, soft_wrap=True, markup=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return the text of a cell, before its width is measured."""
        return super().render_str(printable(text), **settings)

    def render(self, *arguments: Any, **settings: Any) -> Iterator[Segment]:
        """Yield the printed segments; only the layout breaks lines."""
        for segment in super().render(*arguments, **settings):
            yield segment if segment.is_control else segment._replace(text=printable(segment.text, keep="\n"))


def console() -> Console:
    """Return the console for results."""
    return _Console(color_system=None if is_plain() else "auto")


def show(target: Console, renderable: Any) -> None:
    """Print a renderable, in ASCII if the terminal's encoding supports nothing else."""
    if _can_print(_BLOCKS + "ρ"):
        target.print(renderable)
        return
    plain = _Console(width=target.width, color_system=None)
    with plain.capture() as capture:
        plain.print(renderable)
    text = capture.get()
    for letter, plain_letter in {**_ASCII, **dict(zip(_BLOCKS, _ASCII_BLOCKS, strict=True))}.items():
        text = text.replace(letter, plain_letter)
    sys.stdout.write(text.encode("ascii", "replace").decode())


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def sparkline(values: Sequence[float] | NDArray[Any], width: int = SPARK_WIDTH) -> str:
    """Return a curve in [0, 1] as one line of blocks. Each block is the mean of its values; NaN is a space."""
    array = np.asarray(values, np.float64)
    bins = np.array_split(array, min(width, len(array)))
    means = [float(np.nanmean(part)) if np.isfinite(part).any() else math.nan for part in bins]
    return "".join(
        " " if math.isnan(mean) else _BLOCKS[min(len(_BLOCKS) - 1, int(max(mean, 0.0) * len(_BLOCKS)))]
        for mean in means
    )


def analysis(result: Result, *, all_layers: bool) -> Group:
    """Return the report of one analysis."""
    quantities: list[RenderableType] = ["", _quantities(result)] if result.quantities else []
    return Group(
        _title(result), "", _numbers(result), Text(verdict(result)), "", _curves(result), "",
        _thresholds(result), "", _layers(result, all_layers=all_layers), *quantities,
    )  # fmt: skip


def _title(result: Result) -> Text:
    text = Text(printable(result.trajectory or "trajectory"), style="bold")
    return text.append(f"\n{describe_run(result)}", style="not bold")


def _numbers(result: Result) -> Table:
    table = facts_grid()
    table.add_row(Text("ρ", style="bold"), Text(number(result.rho, ".2f"), style="bold"), describe_range(result))
    for line in describe_intervals(result):
        table.add_row("", "", line)
    table.add_row("AUC_W", number(result.auc_w), "area under the weight curve")
    table.add_row("AUC_P", number(result.auc_p), "area under the pattern curve")
    if result.distance is not None:
        half = f"final ‖w − w₀‖; half of it is reached by {result.step_kind} {result.distance.half_at}"
        table.add_row("distance", number(result.distance.last, ".3g"), half)
    if result.structure is not None:
        kind, found = result.step_kind, result.structure
        to = f"structural share relative to the last state ({kind} {found.last_step}), at {kind} {found.step}"
        table.add_row("structure", number(found.first, ".2f"), to)
        if found.order is not None:
            table.add_row(
                "",
                "",
                f"up to {number(found.order, '.2f')} more or less, depending on whether patterns or weights move first",
            )
        table.add_row("", "", _structure(result, found))
    labels = result.labels
    if labels is not None:
        table.add_row("labels", *_labels(labels))
    if result.noise_floor is not None:
        late = f"late in the run, Δa is {result.late_pattern_change:.1e}"
        floor = f"{result.noise_floor:.0e}" if result.noise_floor else "0"
        table.add_row("noise", floor, f"Δa from rounding alone; {late}")
    if result.pattern_error is not None:
        table.add_row(
            "error", f"{result.pattern_error:.0e}", "largest standard error of Δa: only some units were measured"
        )
    return table


def _structure(result: Result, found: Structure) -> str:
    what = "structural share relative to the last state"
    if found.below_from is None:
        return f"{what} does not stay below {LEVEL}"
    return f"{what} falls below {LEVEL} at {result.step_kind} {found.below_from}"


def _labels(labels: Labels) -> tuple[str, str]:
    """Return the share of stable observations and a description; omit shares if limits are the run's percentiles."""
    if labels.own:
        low, high = (f"{percentile:.0f}th" for percentile in PERCENTILES)
        stable = f"{STABLE} from {labels.stable:.6g} ({high} percentile of this run)"
        return "", f"cosine of fingerprints: {stable}, {CHAOTIC} up to {labels.chaotic:.6g} ({low} percentile)"
    shares = f"{STABLE} (cosine of fingerprints from {labels.stable:g}), {labels.share(TRANSITION):.0%} {TRANSITION}"
    return f"{labels.share(STABLE):.0%}", f"{shares}, {labels.share(CHAOTIC):.0%} {CHAOTIC} (up to {labels.chaotic:g})"


def _curves(result: Result) -> Table:
    table = facts_grid()
    steps = result.curves["step"].to_numpy()
    for label, style in (("weight", "cyan"), ("pattern", "magenta")):
        line = sparkline(result.curves[f"{label}_normalised"].to_numpy())
        table.add_row(f"{label}s", Text(line or " ", style=style))
    width = min(SPARK_WIDTH, len(steps))
    first, last = str(steps[0]), str(steps[-1])
    table.add_row(
        Text(result.step_kind, style="dim"),
        Text(first + last.rjust(max(len(last) + 1, width - len(first))), style="dim"),
    )
    return table


def _thresholds(result: Result) -> Table:
    table = plain_table("curve below", ("weights from", "right"), ("patterns from", "right"), ("ratio", "right"))
    for threshold in result.thresholds:
        table.add_row(
            f"{threshold.tau:g}",
            _step(threshold.step_w, result.step_kind),
            _step(threshold.step_p, result.step_kind),
            number(threshold.ratio, ".2f"),
        )
    return table


def _step(step: int | None, kind: str) -> str:
    return "never" if step is None else f"{kind} {step}"


def _layers(result: Result, *, all_layers: bool) -> Table:
    layers = result.layers
    table = plain_table("layer", ("module", "left"), ("units", "right"), ("AUC_P", "right"))
    if all_layers or len(layers) <= 2 * SHOWN_LAYERS:
        _add_layers(table, layers)
        return table
    known = sorted((layer for layer in layers if math.isfinite(layer.auc_p)), key=lambda layer: -layer.auc_p)
    _add_layers(table, known[:SHOWN_LAYERS], "largest")
    table.add_row(Text(f"… {len(layers) - 2 * SHOWN_LAYERS} more, -v shows all", style="dim"))
    _add_layers(table, known[-SHOWN_LAYERS:], "smallest")
    return table


def _quantities(result: Result) -> Table:
    table = plain_table("quantity", ("first", "right"), ("last", "right"), ("unit", "left"))
    for name, quantity in result.quantities.items():
        unit = "" if quantity.unit == "1" else quantity.unit
        table.add_row(name, number(quantity.first, ".3g"), number(quantity.last, ".3g"), unit)
    return table


def _add_layers(table: Table, layers: Sequence[LayerResult], remark: str = "") -> None:
    for layer in layers:
        table.add_row(layer.layer, layer.path, str(layer.units), number(layer.auc_p), remark)


def facts_grid() -> Table:
    """Return a table of facts, each a name and a value."""
    return Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))


def plain_table(first: str, *columns: tuple[str, Any]) -> Table:
    """Return a table without lines; a column is given by its name and justification."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first, overflow="fold")
    for name, justify in columns:
        table.add_column(name, justify=justify, overflow="fold")
    table.add_column("")
    return table
