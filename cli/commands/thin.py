"""``regime thin``: writes a trajectory with fewer masks."""

from pathlib import Path

import rich_click as click

from regime_proto.cli import options
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages, size
from regime_proto.cli.output import (
    refuse_directory,
    refuse_existing,
    refuse_output,
    would_write,
    writing,
)


@command
@click.argument("source", type=options.PATH)
@click.option("--masks", required=True, metavar="POLICY", help="Observations whose masks are kept: every=N or none.")
@click.option("-o", "--output", required=True, type=options.PATH, help="Trajectory to write.")
@options.overwrite
@options.dry_run
@options.messages
def thin(source: Path, masks: str, output: Path, overwrite: bool, dry_run: bool, quiet: bool, verbose: bool) -> None:
    """Write a smaller copy of a trajectory that keeps the masks of fewer observations.

    Flips and deltas stay complete, so every number of `regime analyze` stays the same.

    Example: regime thin run.h5 --masks every=10 -o small.h5
    """
    from regime_proto.schema.assemble import require_thinnable
    from regime_proto.schema.assemble import thin as write_thinned
    from regime_proto.schema.policy import parse_policy

    messages = Messages(quiet=quiet, verbose=verbose)
    policy = parse_policy(masks)
    refuse_directory(source)
    refuse_output(output, [source])
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
