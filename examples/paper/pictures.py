"""The figure of the study: ρ against the batch size for each row, with the published value."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from regime_proto.examples.paper.rows import Row
from regime_proto.examples.paper.table import Line
from regime_proto.schema.errors import RegimeError

SUFFIXES = (".png", ".svg", ".pdf")
_COLOURS = ("#0072b2", "#d55e00")


def draw_study(found: Sequence[Line], path: Path) -> None:
    """Draw a panel for each row: mean and range over the seeds, and a line at the published value.

    Trainings in which settings other than batch size and momentum were chosen are left out.

    Parameters
    ----------
    found : sequence of Line
        In the order of the paper's table.
    path : Path
        The figure; its suffix determines the format.

    Raises
    ------
    RegimeError
        There is nothing to draw, or the format is unknown.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    if path.suffix not in SUFFIXES:
        raise RegimeError(f"{path}: expected a file name that ends with {', '.join(SUFFIXES)}")
    panels = [
        (row, list(group))
        for row, group in groupby(filter(lambda line: line.is_plain, found), key=lambda line: line.row)
    ]
    if not panels:
        raise RegimeError(
            "--figure: found no training without options other than batch size, momentum and seed (such as --steps); "
            "leave out --figure"
        )
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(3.2 * columns, 2.5 * rows), layout="constrained", squeeze=False, sharex=True
    )
    for axes, (row, group) in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, row, group)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel("batch size", fontsize=9)
    figure.supylabel("ρ", fontsize=9)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _draw_panel(axes: Any, row: Row, group: Sequence[Line]) -> None:
    for momentum, colour in zip((0.0, 0.9), _COLOURS, strict=True):
        chosen = [line for line in group if line.outcomes[0].settings.momentum == momentum]
        if not chosen:
            continue
        sizes = [line.outcomes[0].settings.batch_size for line in chosen]
        spreads = [line.spread("rho") for line in chosen]
        label = f"momentum {momentum:g}" if row.optimizer == "SGD" else row.optimizer
        axes.plot(sizes, [one.mean for one in spreads], "o-", color=colour, label=label, markersize=4)
        edges = [one.lowest for one in spreads], [one.highest for one in spreads]
        axes.fill_between(sizes, *edges, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(row.published.rho, color="0.35", linestyle="--", label="published")
    axes.set_xscale("log", base=2)
    axes.tick_params(labelbottom=True)
    every = sorted({line.outcomes[0].settings.batch_size for line in group})
    axes.set_xticks(every, [str(size) for size in every])
    stands_for = group[0].outcomes[0].stands_for
    axes.set_title(f"{row.name}{'' if stands_for is None else ' (stand-in)'}", fontsize=9)
    axes.legend(frameon=False, fontsize=7)
