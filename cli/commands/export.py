"""``regime export``: exports curves for other tools."""

import io
import sys
from pathlib import Path

import rich_click as click

from regime_proto.cli import options
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages
from regime_proto.cli.output import (
    refuse_directory,
    refuse_output,
    would,
    write_output,
)
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.kinds import CURVES, TEXT


@command
@click.argument("source", type=options.PATH)
@click.option(
    "--to",
    "form",
    type=options.Choice(["csv", "netcdf", "json"]),
    required=True,
    help="Format: csv, a tidy table of the curves; netcdf, curves and numbers for xarray and R; json, everything.",
)
@click.option("-o", "--output", type=options.PATH, help="File to write. Default for csv and json: standard output.")
@options.preset
@options.steps
@options.batches_per_epoch
@options.overwrite
@options.dry_run
@options.messages
def export(
    source: Path,
    form: str,
    output: Path | None,
    preset: str,
    steps: str | None,
    batches_per_epoch: float | None,
    overwrite: bool,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Export the curves of a trajectory, for the network and for every layer, to R, pandas or a spreadsheet.

    Without -o, csv and json are written to standard output; netcdf needs -o.

    For example:
        regime export run.h5 --to csv -o curves.csv
        regime export run.h5 --to json --preset strict
    """
    if form == "netcdf" and output is None:
        raise RegimeError("--to netcdf: a binary format needs an output file; give -o FILE")
    refuse_directory(source)
    if output is not None:
        refuse_output(output, [source], kind=CURVES if form == "netcdf" else TEXT)
    import regime_proto
    from regime_proto.report.export import FORMATS

    messages = Messages(quiet=quiet, verbose=verbose)
    with messages.collecting():
        result = regime_proto.analyze(source, preset=preset, steps=steps, batches_per_epoch=batches_per_epoch)
        for warning in result.warnings:
            messages.warn(warning)
    if output is None:
        if dry_run:
            would(f"print {form}, and write no file")
            return
        FORMATS[form](result, sys.stdout.buffer)
        return
    content = io.BytesIO()
    FORMATS[form](result, content)
    write_output(output, content.getvalue(), overwrite=overwrite, dry_run=dry_run, messages=messages)
