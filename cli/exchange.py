"""The commands that exchange files: what a trajectory holds, for other tools."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import rich_click as click

from regime_proto.cli import options
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages, say, show_error, size
from regime_proto.cli.interruption import leaving_observations
from regime_proto.cli.output import (
    refuse_directory,
    refuse_existing,
    refuse_output,
    would,
    would_write,
    write_output,
    writing,
)
from regime_proto.schema import Problem
from regime_proto.schema import validate as problems_of
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.text import printable
from regime_proto.schema.validation.rules import ERROR, WARNING, errors
from regime_proto.schema.words import counted


@command
@click.argument("files", nargs=-1, required=True, type=options.PATH, metavar="FILE…")
@options.as_json
@options.messages
@click.pass_context
def validate(context: click.Context, files: tuple[Path, ...], as_json: bool, quiet: bool, verbose: bool) -> None:
    """Hold trajectory files against every rule of the format (schema/FORMAT.md).

    Exit code 0: all are valid; 1: one at least is not; 2: one at least could not be read.

    Example: regime validate run.h5
    """
    messages = Messages(quiet=quiet, verbose=verbose)
    found: list[tuple[Path, list[Problem] | str]] = []
    for path in files:
        try:
            found.append((path, problems_of(path)))
        except RegimeError as error:
            found.append((path, str(error)))
    if as_json:
        click.echo(json.dumps({"json_version": 1, "files": [_as_json(*entry) for entry in found]}))
    else:
        for entry in found:
            _report(*entry, messages)
    unread = any(isinstance(problems, str) for _, problems in found)
    invalid = any(errors(problems) for _, problems in found if not isinstance(problems, str))
    context.exit(2 if unread else int(invalid))


def _as_json(path: Path, problems: list[Problem] | str) -> dict[str, Any]:
    if isinstance(problems, str):
        return {"path": str(path), "valid": None, "error": problems, "problems": []}
    entries = [{**vars(problem), "severity": problem.severity} for problem in problems]
    return {"path": str(path), "valid": not errors(problems), "error": None, "problems": entries}


def _report(path: Path, problems: list[Problem] | str, messages: Messages) -> None:
    """Print what is wrong with one file, a line for each problem."""
    if isinstance(problems, str):
        show_error(problems)
        return
    count, warned = len(errors(problems)), len(problems) - len(errors(problems))
    verdict = click.style("invalid", fg="red", bold=True) if count else click.style("valid", fg="green")
    numbers = {ERROR: count, WARNING: warned}
    counts = [f"{counted(number, word)}" for word, number in numbers.items() if number]
    if not messages.quiet or count:
        click.echo(f"{printable(str(path))}: {', '.join([verdict, *counts])}")
    for problem in sorted(problems, key=lambda problem: problem.severity):
        colour = "red" if problem.severity == ERROR else "yellow"
        say(str(problem), lead=f"  {click.style(f'{problem.severity:7}', fg=colour)}  ")


@command
@click.argument("source", metavar="DIR", type=options.PATH)
@options.overwrite
@options.dry_run
@options.messages
def merge(source: Path, overwrite: bool, dry_run: bool, quiet: bool, verbose: bool) -> None:
    """Finish what an interrupted run left: join the segments in DIR (NAME.h5.segments) into NAME.h5.

    Doing it again changes nothing. `regime convert` does the same by itself when it goes on.

    Example: regime merge run.h5.segments
    """
    from regime_proto.schema.finish import finish, foresee

    messages = Messages(quiet=quiet, verbose=verbose)
    with messages.collecting():
        foreseen = foresee(source, overwrite=overwrite)
        if dry_run:
            if foreseen.joined:
                would_write(foreseen.path, f"{counted(foreseen.observations, 'observation')}")
            else:
                would(f"write nothing: {foreseen.path} holds all {counted(foreseen.observations, 'observation')}")
            return
        with leaving_observations(foreseen.path, foreseen.observations):
            done = finish(source, overwrite=overwrite)
    verb = "wrote" if done.joined else "nothing left to join;"
    messages.note(f"{verb} {done.path} ({counted(done.observations, 'observation')})")


@command
@click.argument("source", type=options.PATH)
@click.option("--masks", required=True, metavar="POLICY", help="Which observations keep their masks: every=N or none.")
@click.option("-o", "--output", required=True, type=options.PATH, help="Trajectory to write.")
@options.overwrite
@options.dry_run
@options.messages
def thin(source: Path, masks: str, output: Path, overwrite: bool, dry_run: bool, quiet: bool, verbose: bool) -> None:
    """Write a smaller copy of a trajectory, with the masks of fewer observations.

    Flips and deltas stay complete, and so does every number of `regime analyze`.

    Example: regime thin run.h5 --masks every=10 -o small.h5
    """
    from regime_proto.schema.assemble import require_thinnable
    from regime_proto.schema.assemble import thin as write_thinned
    from regime_proto.schema.policy import parse_policy

    messages = Messages(quiet=quiet, verbose=verbose)
    policy = parse_policy(masks)
    refuse_directory(source)
    refuse_output(output, source)
    refuse_existing(output, overwrite=overwrite)
    with messages.collecting():
        if dry_run:
            require_thinnable(source, policy)
            would_write(output, f"a copy of {source}, {size(source.stat().st_size)}, with masks: {policy}")
            return
        with writing(output):
            write_thinned(source, output, policy)
    before, after = (size(path.stat().st_size) for path in (source, output))
    messages.note(f"wrote {output} ({after}, from {before})")


@command
@click.option("-o", "--output", required=True, type=options.PATH, help="Trajectory to write.")
@options.overwrite
@options.dry_run
@options.messages
def example(output: Path, overwrite: bool, dry_run: bool, quiet: bool, verbose: bool) -> None:
    """Write a small valid trajectory, made up, to try other tools on.

    Example: regime example -o example.h5
    """
    import regime_proto

    messages = Messages(quiet=quiet, verbose=verbose)
    refuse_output(output)
    refuse_existing(output, overwrite=overwrite)
    if dry_run:
        would_write(output, "101 observations")
        return
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        regime_proto.synthetic.trajectory(
            steps=100, units=128, samples=4, observations_per_epoch=20, noise=0.05, path=output
        )
    messages.note(f"wrote {output}")


@command
@click.argument("source", type=options.PATH)
@click.option(
    "--to",
    "form",
    type=options.Choice(["csv", "netcdf", "json"]),
    required=True,
    help="csv: one tidy table of the curves; netcdf: curves and numbers for xarray and R; json: everything.",
)
@click.option("-o", "--output", type=options.PATH, help="File to write; default for csv and json: standard output.")
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
    """Write the curves of a trajectory, of the network and of every layer, for R, pandas or a spreadsheet.

    Without -o they go to standard output, but for netcdf.

    For example:
        regime export run.h5 --to csv -o curves.csv
        regime export run.h5 --to json --preset strict
    """
    if form == "netcdf" and output is None:
        raise RegimeError("--to netcdf: a binary file; say where to write it: -o FILE")
    refuse_directory(source)
    if output is not None:
        refuse_output(output, source)
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
