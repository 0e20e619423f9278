"""``regime report``: writes a page about one or several runs."""

from pathlib import Path

import rich_click as click

from regime_proto.cli import options
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages
from regime_proto.cli.output import refuse_directory, refuse_output, write_output
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.kinds import HTML


@command
@click.argument("sources", nargs=-1, required=True, type=options.PATH, metavar="FILE…")
@click.option("-o", "--output", required=True, type=options.PATH, help="HTML file to write.")
@click.option("--labels", type=options.PATH, metavar="FILE.csv", help="Table of labels, as for `regime compare`.")
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
    """Write a page about trajectories that opens in any browser, offline: curves, layers, samples and units.

    The page shows how certain each number is, and compares the runs with each other and with the published ones.

    Example: regime report run.h5 -o report.html
    """
    if output.suffix.lower() not in (".html", ".htm"):
        raise RegimeError(f"{output}: expected a file name that ends with .html")
    for source in sources:
        refuse_directory(source, many=True)
    refuse_output(output, [*sources, labels], kind=HTML)
    from regime_proto.report.page import report as page_of

    messages = Messages(quiet=quiet, verbose=verbose)
    with messages.collecting(), messages.progress("analyzing") as progress:
        page = page_of(
            sources, preset=preset, steps=steps, batches_per_epoch=batches_per_epoch, resamples=resamples,
            labels=labels, progress=progress, warn=messages.warn,
        )  # fmt: skip
    write_output(output, page.encode(), overwrite=overwrite, dry_run=dry_run, messages=messages)
