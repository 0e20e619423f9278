"""A page in one file that shows the results of a run, their uncertainty, and how the run compares with others."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from regime_proto.analyzer.settings import RESAMPLES, AnalysisSettings
from regime_proto.analyzer.verdict import verdict
from regime_proto.comparison.columns import columns
from regime_proto.comparison.compare import Comparison, compare
from regime_proto.comparison.rows import PAPER, Row
from regime_proto.report.figure import Figure
from regime_proto.report.page import (
    curve_figures,
    layer_figures,
    mask_figures,
    quantity_figures,
    reading_figures,
    statistics_figures,
    structure_figures,
    words,
)
from regime_proto.report.page.comparison_figures import overlay, published
from regime_proto.report.page.filling import fill, require_libraries
from regime_proto.report.view import RunView, read_view
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.numbers import number


@dataclass(frozen=True)
class Chapter:
    """The part of a page that is about one run.

    Parameters
    ----------
    view : RunView
    figures : tuple of Figure
    quantities : tuple of Figure
        Figures of quantities other than Δw and Δa, in a collapsed section.
    missing : tuple of str
        Sentences on what cannot be shown, and why.
    """

    view: RunView
    figures: tuple[Figure, ...]
    quantities: tuple[Figure, ...]
    missing: tuple[str, ...]


def report(
    runs: Sequence[str | os.PathLike[str]],
    *,
    preset: str = "paper",
    steps: str | None = None,
    batches_per_epoch: float | None = None,
    resamples: int = RESAMPLES,
    labels: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> str:
    """Return a page about one or several runs.

    Parameters
    ----------
    runs : sequence of path
        Trajectory files.
    preset, steps, batches_per_epoch, resamples
        As in `regime_proto.analyze`.
    labels : path, optional
        As in `regime_proto.compare`.
    progress : callable, optional
        Called with the number of runs done and the number of all runs.
    warn : callable, optional
        Called with each warning on the page.

    Returns
    -------
    str
        Self-contained HTML, which needs no network and no other file.

    Raises
    ------
    RegimeError
        A run cannot be read, or the extra `report` is not installed.
    """
    require_libraries()
    if not runs:
        raise RegimeError("no run given; a report needs at least one trajectory file")
    settings = AnalysisSettings(preset, steps, batches_per_epoch, resamples)
    views = []
    for path in runs:
        views.append(read_view(path, settings))
        if progress is not None:
            progress(len(views), len(runs))
    # Differences in kind are stated on the page, next to the numbers.
    found = compare([view.result for view in views], labels=labels, reference=PAPER, mixed=True)
    if len({view.name for view in views}) < len(views):
        views = [replace(view, name=row.run) for view, row in zip(views, found.rows, strict=False)]
    if warn is not None:
        for text in found.warnings:
            warn(text)
    return fill(
        "page.html.j2",
        title=views[0].name if len(views) == 1 else f"{len(views)} runs",
        chapters=[chapter(view) for view in views],
        comparison=_compared(views, found),
        words=words,
        verdict=verdict,
        number=number,
    )


def chapter(view: RunView) -> Chapter:
    """Return the figures of a run."""
    figures = [
        curve_figures.normalised(view),
        curve_figures.raw(view),
        reading_figures.readings(view),
        layer_figures.layer_map(view),
        layer_figures.layer_areas(view),
    ]
    missing = []
    if view.patterns is not None:
        figures += [mask_figures.strides(view, view.patterns), mask_figures.agreement(view, view.patterns)]
    figures.append(layer_figures.sample_map(view))
    if view.patterns is not None:
        figures.append(mask_figures.units(view, view.patterns))
        figures += [] if view.statistics is None else [statistics_figures.statistics(view, view.statistics)]
    else:
        missing.append(
            "Fewer than two masks are stored, so Δa against stride, agreement and single units cannot be shown. To "
            "show them, convert with --masks all or every=N."
        )
    figures += structure_figures.structure(view)
    if not view.metrics:
        missing.append("The trajectory holds no loss or score to draw below the curves.")
    return Chapter(view, tuple(figures), tuple(quantity_figures.quantities(view)), tuple(missing))


@dataclass(frozen=True)
class _Compared:
    figures: tuple[Figure, ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[str, ...]
    warnings: tuple[str, ...]


def _compared(views: Sequence[RunView], found: Comparison) -> _Compared:
    own = [row for row in found.rows if row.source != PAPER]
    # Columns that only published rows fill are left out.
    shown = [column for column in columns(found) if any(map(column.text, own))]
    several = len(views) > 1
    return _Compared(
        figures=(*((overlay(views),) if several else ()), published(found)),
        header=tuple(column.heading for column in shown),
        rows=tuple(tuple(column.text(row) or "–" for column in shown) for row in own),
        lines=tuple(_lines(found)) if several else (),
        warnings=_between(found, own),
    )


def _lines(found: Comparison) -> list[str]:
    """Return sentences on means over the runs and on the spread of repeated runs."""
    lines = []
    for summary in found.summaries:
        if summary.source == PAPER:
            continue
        whose = "All runs" if summary.value is None else f"{summary.by} {summary.value}"
        rho = summary.rho
        lines.append(
            f"{whose}: mean ρ {number(rho.mean, '.2f')} over {rho.runs}, upper semi-deviation "
            f"{number(rho.upper, '.2f')}, lower {number(rho.lower, '.2f')}, median {number(rho.median, '.2f')}."
        )
    for repeat in found.repeats:
        lines.append(
            f"{len(repeat.runs)} runs of one program with the same labels ({', '.join(repeat.runs[:4])}"
            f"{', …' * (len(repeat.runs) > 4)}). If only the seed differs, the spread due to the seed is: ρ "
            f"{number(repeat.rho.mean, '.2f')} ± {number(repeat.rho.deviation, '.2f')} (standard deviation), from "
            f"{number(repeat.rho.lowest, '.2f')} to {number(repeat.rho.highest, '.2f')}."
        )
    return lines


def _between(found: Comparison, own: Sequence[Row]) -> tuple[str, ...]:
    """Return the warnings about the runs together; warnings about one run are in its own section."""
    of_one = {warning for row in own for warning in row.warnings}
    return tuple(text for text in found.warnings if not any(text.endswith(warning) for warning in of_one))
