"""``regime merge``: the segments of an interrupted run to a trajectory."""

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
from regime_proto.schema.words import counted


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
