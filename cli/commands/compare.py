"""``regime compare``: compares several runs."""

import json
from pathlib import Path

import rich_click as click

from regime_proto.cli import options
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages
from regime_proto.cli.output import refuse_directory, refuse_output, write_output
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.kinds import TEXT


@command
@click.argument("sources", nargs=-1, type=options.PATH, metavar="[FILE]…")
@click.option(
    "--labels",
    type=options.PATH,
    metavar="FILE.csv",
    help="Table of labels that adds to those in the trajectories: a column `file`, and a column for each label (model, "
    "dataset, seed, …).",
)
@click.option("--by", metavar="LABEL", help="Also summarise ρ by this label. Default: family, if any run has it.")
@click.option("--reference", type=options.Choice(["paper"]), help="Add the 18 published runs of the paper's Table II.")
@click.option("--mixed", is_flag=True, help="Compare runs even if their strides or presets differ.")
@click.option(
    "--sort",
    type=options.Choice(["rho", "auc_w", "auc_p", "name"]),
    help="Order of the rows; numbers are sorted from the largest. Default: as given.",
)
@click.option(
    "--to",
    "form",
    type=options.Choice(["csv", "markdown", "latex"]),
    help="Format of the table for other tools; csv holds every digit.",
)
@click.option("-o", "--output", type=options.PATH, help="File to write, for --to. Default: standard output.")
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
    """Compare trajectories in a table with one row per run, and with means and spreads over the runs.

    Labels such as model, dataset, optimizer, family and seed come from the trajectories or from the table of --labels.

    Example: regime compare runs/*.h5 --reference paper
    """
    if output is not None and form is None:
        raise RegimeError(f"-o {output}: the format is missing; give --to csv, markdown or latex")
    if as_json and form is not None:
        raise RegimeError(f"--json and --to {form}: cannot be combined; give only one of them")
    for source in sources:
        refuse_directory(source, many=True)
    if output is not None:
        refuse_output(output, [*sources, labels], kind=TEXT)
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
        from regime_proto.cli import render, render_comparison

        console = render.console()
        render.show(console, render_comparison.comparison(found, console, everything=verbose))
    else:
        from regime_proto.report.tables import FORMATS

        text = FORMATS[form](found)
        if output is None:
            click.echo(text, nl=False)
        else:
            write_output(output, text.encode(), overwrite=overwrite, dry_run=dry_run, messages=messages)
