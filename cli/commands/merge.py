"""``regime merge``: joins the segments of an interrupted run into a trajectory."""

import warnings
from pathlib import Path

import rich_click as click

from regime_proto.cli import options
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages
from regime_proto.cli.interruption import leaving_observations
from regime_proto.cli.output import (
    would,
    would_write,
)
from regime_proto.schema.errors import RegimeWarning
from regime_proto.schema.words import counted


@command
@click.argument("source", metavar="DIR", type=options.PATH)
@options.overwrite
@options.dry_run
@options.messages
def merge(source: Path, overwrite: bool, dry_run: bool, quiet: bool, verbose: bool) -> None:
    """Join the segments that an interrupted run left in DIR (NAME.h5.segments) into NAME.h5.

    Repeating the command changes nothing. `regime convert` also joins the segments when it resumes.

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
                would(
                    f"write nothing: {foreseen.path} already holds all {counted(foreseen.observations, 'observation')}"
                )
            return
        with leaving_observations(foreseen.path, foreseen.observations):
            done = finish(source, overwrite=overwrite)
        if done.planned is not None and done.observations < done.planned:
            warnings.warn(
                f"{done.path}: holds {done.observations} of {counted(done.planned, 'planned observation')}; to measure "
                "the rest, run the same regime convert again",
                RegimeWarning,
                stacklevel=2,
            )
    verb = "wrote" if done.joined else "nothing left to join;"
    messages.note(f"{verb} {done.path} ({counted(done.observations, 'observation')})")
