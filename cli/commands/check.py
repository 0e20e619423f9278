"""``regime check``: checks that checkpoints are what they claim to be."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from regime_proto.cli import options
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages, one_line, show_error, size
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.nearest import cannot_open
from regime_proto.schema.text import printable
from regime_proto.schema.words import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from regime_proto.integrity.check import Report


@command
@click.argument("source", metavar="DIR", type=options.PLACE)
@click.option(
    "--frozen",
    multiple=True,
    metavar="GLOB",
    help="Names of tensors that are meant to stay unchanged. May be repeated.",
)
@click.option(
    "--against",
    metavar="DIR",
    type=options.PLACE,
    help="Second run: report states that hold its weights. The whole run is read, with the same options.",
)
@options.steps
@click.option("--every", type=int, metavar="K", help="Check only every K-th checkpoint.")
@options.source_settings
@options.as_json
@options.messages
@click.pass_context
def check(
    context: click.Context,
    /,
    source: Path,
    frozen: tuple[str, ...],
    against: Path | None,
    steps: str | None,
    every: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **source_settings: str | None,
) -> None:
    """Check whether a directory of checkpoints is what it claims to be; no model is needed.

    Reports damaged files, identical states, final weights under early steps, mixed shards, missing steps, NaN and Inf,
    sudden jumps, an order that contradicts the weights, and states of another run. Also reports tensors that never
    change, are missing or have a different shape.

    Exit code 0: nothing is wrong; 1: problems were found; 2: nothing could be checked.

    For example:
        regime check checkpoints/ --frozen 'embed.*'
        regime check checkpoints/ --against other-run/
    """
    from regime_proto.integrity.check import check as report_on

    messages = Messages(quiet=quiet, verbose=verbose)
    try:
        with messages.collecting(), messages.progress("checking") as progress:
            report = report_on(
                source, frozen=frozen, against=against, steps=steps, every=every, progress=progress, **source_settings
            )
    except (RegimeError, OSError) as error:
        message = cannot_open(Path(error.filename or source), error) if isinstance(error, OSError) else str(error)
        if as_json:
            click.echo(json.dumps({"json_version": 1, "path": str(source), "ok": None, "error": one_line(message)}))
        else:
            show_error(message)
        context.exit(2)
    if as_json:
        click.echo(json.dumps({**report.to_json(), "warnings": messages.warnings}, allow_nan=False))
    elif report.findings or not quiet:
        from regime_proto.cli import render

        render.show(render.console(), _drawn(report, quiet=quiet, everything=verbose))
    context.exit(int(not report.ok))


def _drawn(report: "Report", *, quiet: bool, everything: bool) -> "RenderableType":
    """Return the checked directory, the findings, and the advice."""
    from rich.console import Group
    from rich.text import Text

    from regime_proto.cli.render import facts_grid, plain_table

    parts: list[RenderableType] = [] if quiet else [_checked(report), ""]
    if report.findings:
        table = plain_table("found", (report.step_kind, "left"), ("what", "left"))
        for finding in report.findings:
            style = "red" if finding.severity == "error" else "yellow"
            table.add_row(
                Text(finding.rule, style=style), _steps(finding.steps, everything=everything), finding.message
            )
            if everything:
                for name in finding.tensors:
                    table.add_row("", "", Text(f"  {printable(name)}", style="dim"))
        advice = facts_grid()
        for rule, what in dict.fromkeys((finding.rule, finding.advice) for finding in report.findings):
            advice.add_row(Text(rule, style="dim"), what)
        parts += [table, "", Text("what to do", style="dim"), advice]
    if report.ok:
        parts += [*([""] if report.findings else []), Text("nothing wrong found", style="green")]
    return Group(*parts)


def _checked(report: "Report") -> "RenderableType":
    from rich.text import Text

    from regime_proto.cli.render import facts_grid

    facts = facts_grid()
    facts.add_row("directory", Text(printable(report.root), overflow="fold"))
    facts.add_row("adapter", f"{report.adapter} ({report.recognised})")
    facts.add_row("checkpoints", report.extent)
    facts.add_row(
        "each",
        f"{counted(report.tensors, 'tensor')}, {counted(report.parameters, 'parameter', ',')}; "
        f"{size(report.size)} in total",
    )
    if report.against is not None:
        facts.add_row("against", Text(report.against, overflow="fold"))
    if report.skipped:
        one = len(report.skipped) == 1
        other = "1 other file or folder" if one else f"{len(report.skipped)} other files or folders"
        facts.add_row(
            "left out",
            f"{other}; regime inspect lists {'it' if one else 'them'}",
        )
    return facts


def _steps(steps: tuple[int, ...], *, everything: bool) -> str:
    from regime_proto.integrity.findings import spell_steps

    if not steps:
        return "–"
    return ", ".join(map(str, steps)) if everything else spell_steps(steps)
