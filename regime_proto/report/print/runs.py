"""Returns a figure of runs, to display or to modify."""

from collections.abc import Iterable, Sequence
from typing import Any

from regime_proto.analyzer.settings import AnalysisSettings
from regime_proto.report.print.drawn import Run, read_runs


def figure(
    runs: Run | Iterable[Run],
    *,
    columns: int = 1,
    layers: str | None = None,
    metrics: Sequence[str] = (),
    preset: str = "paper",
    steps: str | None = None,
    batches_per_epoch: float | None = None,
) -> Any:
    """Return a matplotlib figure of the normalised curves of runs; a notebook shows it.

    Parameters
    ----------
    runs : path, Result, or iterable of these
        Trajectory files, or results of `analyze`; several become small multiples with the same axes.
    columns : {1, 2}
        Width of the figure in journal columns: 3.5 or 7.16 inches.
    layers : {"curves", "map"}, optional
        Also draw the pattern change of every layer, as curves or as a colour map.
    metrics : sequence of str
        Metrics to draw. Default: loss and score, if the file has them.
    preset, steps : optional
        As in `analyze`; a `Result` keeps its own.
    batches_per_epoch : float, optional
        As in `analyze`; for a `Result`, it affects only the axis.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    RegimeError
        matplotlib is not installed, a run cannot be analyzed, or the file of a result now holds a different run.
    """
    # matplotlib is optional; without it, this import raises an error that says what to install.
    from regime_proto.report.print.figure import figure as draw

    drawn = read_runs(runs, AnalysisSettings(preset, steps, batches_per_epoch, resamples=0))
    return draw(drawn, columns=columns, layers=layers, metrics=metrics)
