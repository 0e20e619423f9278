"""``regime plot``: draws figures for print."""

from pathlib import Path

import rich_click as click

from regime_proto.cli import options
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages
from regime_proto.cli.output import refuse_directory, refuse_output, write_output
from regime_proto.schema.kinds import FIGURES


@command
@click.argument("sources", nargs=-1, required=True, type=options.PATH, metavar="FILE…")
@click.option("-o", "--output", required=True, type=options.PATH, help="Figure to write: .pdf, .svg or .png.")
@click.option(
    "--columns",
    type=options.Choice(["1", "2"]),
    default="1",
    show_default=True,
    help="Width of the figure in journal columns: 1 is 3.5 inches, 2 is 7.16 inches.",
)
@click.option(
    "--layers",
    type=options.Choice(["curves", "map"]),
    help="Also draw the pattern change of every layer, as curves or as a colour map, which suits many layers.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="Metric to draw below the curves. May be repeated. Default: loss and score, if the files have them.",
)
@click.option(
    "--dpi",
    type=click.IntRange(50, 2400),
    default=600,
    show_default=True,
    help="Pixels per inch of a .png.",
)
@options.preset
@options.steps
@options.batches_per_epoch
@options.overwrite
@options.dry_run
@options.messages
def plot(
    sources: tuple[Path, ...],
    output: Path,
    columns: str,
    layers: str | None,
    metrics: tuple[str, ...],
    dpi: int,
    preset: str,
    steps: str | None,
    batches_per_epoch: float | None,
    overwrite: bool,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Draw the curves of trajectories for print; several runs are drawn side by side with the same axes.

    A small circle (weights) or square (patterns) marks where a curve falls below 0.5, 0.25, 0.1 or 0.05 for good. The
    same runs always produce the same bytes.

    Example: regime plot run.h5 -o figure.pdf
    """
    from regime_proto.analyzer.settings import AnalysisSettings
    from regime_proto.report.print import figure as print_figure
    from regime_proto.report.print.drawn import read_run

    form = print_figure.form_of(output)
    settings = AnalysisSettings(preset, steps, batches_per_epoch, resamples=0)
    for source in sources:
        refuse_directory(source, many=True)
    refuse_output(output, sources, kind=FIGURES[form])
    messages = Messages(quiet=quiet, verbose=verbose)
    runs = []
    with messages.collecting(), messages.progress("analyzing") as progress:
        for source in sources:
            runs.append(read_run(source, settings))
            if progress is not None:
                progress(len(runs), len(sources))
        content = print_figure.image(runs, form, columns=int(columns), layers=layers, metrics=metrics, dpi=dpi)
    strides = {run.result.stride for run in runs}
    if len(strides) > 1:
        messages.warn("the runs have different strides: their curves are different measurements")
    for run in runs:
        for warning in run.result.warnings:
            messages.warn(f"{run.name}: {warning}")
    write_output(output, content, overwrite=overwrite, dry_run=dry_run, messages=messages)
