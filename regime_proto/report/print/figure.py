"""Figures for print: normalised curves of weights and patterns, as in the paper's Fig. 1, for one or several runs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regime_proto.analyzer.settings import AnalysisSettings
from regime_proto.report.print.drawn import Drawn, read_runs
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.files import place_files

try:
    from regime_proto.report.print import panels, style
except ModuleNotFoundError as error:
    missing = (error.name or "").partition(".")[0]
    raise RegimeError(f'figures need {missing}: pip install "regime-proto[report]"') from None

DPI = 600


def plot(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    columns: int = 1,
    layers: str | None = None,
    metrics: Sequence[str] = (),
    dpi: int = DPI,
    preset: str = "paper",
    steps: str | None = None,
    batches_per_epoch: float | None = None,
    overwrite: bool = False,
) -> Path:
    """Draw runs into a file; the same runs always produce the same bytes.

    Parameters
    ----------
    paths : path or sequence of paths
        Trajectory files; several become small multiples with the same axes.
    output : path
        Ends with .pdf, .svg or .png.
    columns : {1, 2}
        Width of the figure in journal columns: 3.5 or 7.16 inches.
    layers : {"curves", "map"}, optional
        Also draw the pattern change of every layer, as curves or as a colour map.
    metrics : sequence of str
        Metrics to draw. Default: loss and score, if the file has them.
    dpi : int
        Pixels per inch of a .png.
    preset, steps, batches_per_epoch : optional
        As in `analyze`.
    overwrite : bool
        Replace an existing figure with different contents.

    Returns
    -------
    Path
        The output.

    Raises
    ------
    RegimeError
        A run cannot be analyzed, the kind of file is unknown, or the output exists and must not be replaced.
    """
    output = Path(output)
    form = form_of(output)
    runs = read_runs(paths, AnalysisSettings(preset, steps, batches_per_epoch, resamples=0))
    content = image(runs, form, columns=columns, layers=layers, metrics=metrics, dpi=dpi)
    place_files({output: content}, overwrite=overwrite)
    return output


def form_of(output: Path) -> str:
    """Return the kind of file that the suffix of a name specifies.

    Raises
    ------
    RegimeError
        This kind of file cannot be written.
    """
    form = output.suffix.lower().removeprefix(".")
    if form not in style.FORMATS:
        known = ", ".join(f".{name}" for name in style.FORMATS)
        raise RegimeError(f"{output}: expected a file name that ends with one of {known}")
    return form


def image(
    runs: Sequence[Drawn],
    form: str,
    *,
    columns: int = 1,
    layers: str | None = None,
    metrics: Sequence[str] = (),
    dpi: int = DPI,
) -> bytes:
    """Return a figure of runs as the content of a file of the kind `form`.

    Raises
    ------
    RegimeError
        There is nothing to draw, the figure does not fit on a page, or a metric does not exist.
    """
    with style.for_print():
        return style.as_file(_figure(runs, columns, layers, metrics), form, dpi=dpi)


def figure(runs: Sequence[Drawn], *, columns: int = 1, layers: str | None = None, metrics: Sequence[str] = ()) -> Any:
    """Return a matplotlib.figure.Figure of runs, for further use."""
    with style.for_print():
        return _figure(runs, columns, layers, metrics)


def _figure(runs: Sequence[Drawn], columns: int, layers: str | None, metrics: Sequence[str]) -> Any:
    if not runs:
        raise RegimeError("nothing to draw: give trajectory files")
    for option, value, choices in (("columns", columns, style.WIDTHS), ("layers", layers, (None, *panels.LAYERS))):
        if value not in choices:
            known = ", ".join(str(choice) for choice in choices if choice is not None)
            raise RegimeError(f"{option} {value!r}: expected one of {known}")
    return panels.draw(runs, columns=columns, layers=layers, metrics=metrics)
