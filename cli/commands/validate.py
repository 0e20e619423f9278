"""``regime validate``: checks trajectories against the rules of the format."""

import json
from pathlib import Path
from typing import Any

import rich_click as click

from regime_proto.cli import options
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages, say, show_error
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
    """Check trajectory files against every rule of the trajectory format.

    Exit code 0: all files are valid; 1: at least one is invalid; 2: at least one could not be read.

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
    """Print the problems of one file, one line each."""
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
