"""The commands that exchange files: what a trajectory holds, for other tools."""

import io
import sys
from pathlib import Path

import rich_click as click
from regime_proto.cli import options
from regime_proto.cli.console import Messages
from regime_proto.schema.errors import RegimeError


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "form",
    type=click.Choice(["csv", "netcdf", "json"]),
    required=True,
    help="csv: one tidy table of the curves; netcdf: curves and numbers for xarray and R; json: everything.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File to write; default for csv and json: standard output."
)
@options.preset
@options.steps
@options.batches_per_epoch
@options.overwrite
@options.messages
def export(
    source: Path,
    form: str,
    output: Path | None,
    preset: str,
    steps: str | None,
    batches_per_epoch: float | None,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Write the curves of a trajectory, of the network and of every layer, for R, pandas or a spreadsheet.

    Example: regime export run.h5 --to csv -o curves.csv
    """
    if form == "netcdf" and output is None:
        raise RegimeError("--to netcdf: a binary file; say where to write it: -o FILE")
    _refuse_directory(source)
    if output is not None:
        _refuse_output(output, source)
    import regime_proto
    from regime_proto.export import FORMATS

    messages = Messages(quiet=quiet, verbose=verbose)
    with messages.collecting():
        result = regime_proto.analyze(source, preset=preset, steps=steps, batches_per_epoch=batches_per_epoch)
        for warning in result.warnings:
            messages.warn(warning)
    if output is None:
        FORMATS[form](result, sys.stdout.buffer)
        return
    content = io.BytesIO()
    FORMATS[form](result, content)
    write_output(output, content.getvalue(), overwrite=overwrite, messages=messages)


def _refuse_directory(source: Path) -> None:
    """Raise an error for checkpoints, where a trajectory is meant."""
    if source.is_dir():
        raise RegimeError(
            f"{source}: a directory; expected a trajectory file: make one with `regime convert {source} -o run.h5`"
        )


def _refuse_output(output: Path, source: Path) -> None:
    """Raise an error for an output that --overwrite must not replace either."""
    if not output.exists():
        return
    if not output.is_file():
        raise RegimeError(f"{output}: not a file; choose another output")
    if source.exists() and output.samefile(source):
        raise RegimeError(f"{output}: the trajectory itself; choose another output")


def write_output(output: Path, content: bytes, *, overwrite: bool, messages: Messages) -> None:
    """Write a file whole, and say so; one that holds something else is replaced only with `overwrite`.

    Raises
    ------
    RegimeError
        Something else is in the way, or the file cannot be written.
    """
    from regime_proto.schema.files import replace_file

    try:
        if output.exists() and output.read_bytes() == content:
            messages.note(f"nothing changed since; {output} holds it already")
            return
        if output.exists() and not overwrite:
            raise RegimeError(f"{output}: exists and differs; replace it with --overwrite")
        output.parent.mkdir(parents=True, exist_ok=True)
        replace_file(output, content)
    except OSError as error:
        raise RegimeError(f"{output}: cannot be written ({error.strerror}); choose another output") from None
    messages.note(f"wrote {output}")
