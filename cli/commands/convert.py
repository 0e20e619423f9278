"""``regime convert``: checkpoints to a trajectory."""

from pathlib import Path
from typing import Any

import rich_click as click

from regime_proto.cli import options
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages
from regime_proto.cli.converting import converted, foresee, settings_of
from regime_proto.cli.interruption import leaving


@command
@click.argument("source", type=options.PLACE)
@options.conversion
@click.option("-o", "--output", type=options.PATH, required=True, help="Trajectory to write.")
@options.messages
def convert(source: Path, output: Path, dry_run: bool, quiet: bool, verbose: bool, **conversion: Any) -> None:
    """Convert a directory of checkpoints into a trajectory file.

    An interrupted conversion goes on where it stopped.

    For example:
        regime convert checkpoints/ -o run.h5 --dry-run
        regime convert checkpoints/ -o run.h5 --masks every=10
    """
    from regime_proto.conversion.run import warn_of_doubts

    messages = Messages(quiet=quiet, verbose=verbose)
    with messages.collecting():
        settings = settings_of(conversion)
        if dry_run:
            foresee(source, output, messages, settings)
            return
        trajectory = converted(source, output, messages, settings)
        with leaving(lambda: f"{trajectory} is complete"):
            warn_of_doubts(trajectory)
