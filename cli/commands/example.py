"""``regime example``: writes a synthetic trajectory."""

from pathlib import Path

import rich_click as click

from regime_proto.cli import options
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages
from regime_proto.cli.output import (
    refuse_existing,
    refuse_output,
    would_write,
    writing,
)


@command
@click.option("-o", "--output", required=True, type=options.PATH, help="Trajectory to write.")
@options.overwrite
@options.dry_run
@options.messages
def example(output: Path, overwrite: bool, dry_run: bool, quiet: bool, verbose: bool) -> None:
    """Write a small, valid, synthetic trajectory for trying out other tools.

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
