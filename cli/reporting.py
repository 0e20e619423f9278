"""The commands that set runs beside each other, and draw them."""

import json
from pathlib import Path

import rich_click as click

from regime_proto.cli import options
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages
from regime_proto.cli.output import refuse_directory, refuse_output, write_output
from regime_proto.schema.errors import RegimeError


@command
@click.argument("sources", nargs=-1, type=options.PATH, metavar="[FILE]…")
@click.option(
    "--labels",
    type=options.PATH,
    metavar="FILE.csv",
    help="Labels beside those in the trajectories: a column `file`, and one for each label (model, dataset, seed, …).",
)
@click.option("--by", metavar="LABEL", help="Summarise ρ by this label too; default: family, where any run has it.")
@click.option("--reference", type=options.Choice(["paper"]), help="Add the 18 published runs of the paper's Table II.")
@click.option("--mixed", is_flag=True, help="Compare runs of different stride or preset nevertheless.")
@click.option(
    "--sort",
    type=options.Choice(["rho", "auc_w", "auc_p", "name"]),
    help="Order of the rows, numbers from the largest; default: as given.",
)
@click.option(
    "--to",
    "form",
    type=options.Choice(["csv", "markdown", "latex"]),
    help="Write the table for other tools; csv holds every digit.",
)
@click.option("-o", "--output", type=options.PATH, help="With --to: file to write; default: standard output.")
@options.preset
@options.resamples
@options.steps
@options.batches_per_epoch
@options.overwrite
@options.dry_run
@options.as_json
@options.messages
def compare(
    sources: tuple[Path, ...],
    labels: Path | None,
    by: str | None,
    reference: str | None,
    mixed: bool,
    sort: str | None,
    form: str | None,
    output: Path | None,
    preset: str,
    resamples: int,
    steps: str | None,
    batches_per_epoch: float | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Set trajectories beside each other: a row for each run, means and spreads over them.

    Labels such as model, dataset, optimizer, family and seed stand in the trajectories, or in a table of --labels.

    Example: regime compare runs/*.h5 --reference paper
    """
    if output is not None and form is None:
        raise RegimeError(f"-o {output}: say what to write there: --to csv, markdown or latex")
    if as_json and form is not None:
        raise RegimeError(f"--json and --to {form}: give one of them")
    for source in sources:
        refuse_directory(source)
        if output is not None:
            refuse_output(output, source)
    if output is not None:
        refuse_output(output, labels)
    from regime_proto.comparison.compare import compare as compared

    messages = Messages(quiet=quiet, verbose=verbose)
    with messages.collecting(), messages.progress("analyzing") as progress:
        found = compared(
            sources, labels=labels, by=by, reference=reference, mixed=mixed, sort=sort, preset=preset, steps=steps,
            batches_per_epoch=batches_per_epoch, resamples=resamples, progress=progress,
        )  # fmt: skip
    for warning in found.warnings:
        messages.warn(warning)
    if as_json:
        click.echo(json.dumps({**found.to_json(), "warnings": messages.warnings}, allow_nan=False))
    elif form is None:
        from regime_proto.cli import comparison, render

        console = render.console()
        render.show(console, comparison.comparison(found, console, everything=verbose))
    else:
        from regime_proto.report.tables import FORMATS

        text = FORMATS[form](found)
        if output is None:
            click.echo(text, nl=False)
        else:
            write_output(output, text.encode(), overwrite=overwrite, dry_run=dry_run, messages=messages)


@command
@click.argument("sources", nargs=-1, required=True, type=options.PATH, metavar="FILE…")
@click.option("-o", "--output", required=True, type=options.PATH, help="Figure to write: .pdf, .svg or .png.")
@click.option(
    "--columns",
    type=options.Choice(["1", "2"]),
    default="1",
    show_default=True,
    help="Columns of a journal that the figure is wide: 3.5 or 7.16 inches.",
)
@click.option(
    "--layers",
    type=options.Choice(["curves", "map"]),
    help="Draw the pattern change of every layer too: as curves, or as colours, which shows many.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="Metric to draw below; may be repeated. Default: loss and score, where the files have them.",
)
@click.option(
    "--dpi",
    type=click.IntRange(50, 2400),
    default=600,
    show_default=True,
    help="Pixels per inch, of a .png.",
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
    """Draw the curves of trajectories for print, several beside each other with the same axes.

    A small circle (weights) or square (patterns) marks where a curve falls below 0.5, 0.25, 0.1 or 0.05 for good. The
    same runs give the same bytes.

    Example: regime plot run.h5 -o figure.pdf
    """
    from regime_proto.report.print import figure as print_figure
    from regime_proto.report.print.drawn import read_run

    form = print_figure.form_of(output)
    for source in sources:
        refuse_directory(source)
        refuse_output(output, source)
    messages = Messages(quiet=quiet, verbose=verbose)
    runs = []
    with messages.collecting(), messages.progress("analyzing") as progress:
        for source in sources:
            runs.append(read_run(source, preset=preset, steps=steps, batches_per_epoch=batches_per_epoch))
            if progress is not None:
                progress(len(runs), len(sources))
        content = print_figure.image(runs, form, columns=int(columns), layers=layers, metrics=metrics, dpi=dpi)
    strides = {run.result.stride for run in runs}
    if len(strides) > 1:
        messages.warn("runs of different stride: these are different measurements")
    for run in runs:
        for warning in run.result.warnings:
            messages.warn(f"{run.name}: {warning}")
    write_output(output, content, overwrite=overwrite, dry_run=dry_run, messages=messages)


@command
@click.argument("sources", nargs=-1, required=True, type=options.PATH, metavar="FILE…")
@click.option("-o", "--output", required=True, type=options.PATH, help="Page to write, one HTML file.")
@click.option("--labels", type=options.PATH, metavar="FILE.csv", help="Labels of the runs, as for `regime compare`.")
@options.preset
@options.resamples
@options.steps
@options.batches_per_epoch
@options.overwrite
@options.dry_run
@options.messages
def report(
    sources: tuple[Path, ...],
    output: Path,
    labels: Path | None,
    preset: str,
    resamples: int,
    steps: str | None,
    batches_per_epoch: float | None,
    overwrite: bool,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Make a page of trajectories that opens in any browser, without a network: curves, layers, samples, units.

    It shows how sure every number is, and how the runs compare with each other and with the published ones.

    Example: regime report run.h5 -o report.html
    """
    if output.suffix.lower() not in (".html", ".htm"):
        raise RegimeError(f"{output}: expected a name that ends with .html")
    for source in sources:
        refuse_directory(source)
        refuse_output(output, source)
    refuse_output(output, labels)
    from regime_proto.report.page.page import report as page_of

    messages = Messages(quiet=quiet, verbose=verbose)
    with messages.collecting(), messages.progress("analyzing") as progress:
        page = page_of(
            sources, preset=preset, steps=steps, batches_per_epoch=batches_per_epoch, resamples=resamples,
            labels=labels, progress=progress, warn=messages.warn,
        )  # fmt: skip
    write_output(output, page.encode(), overwrite=overwrite, dry_run=dry_run, messages=messages)
