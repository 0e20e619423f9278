"""``regime convert``: converts checkpoints into a trajectory."""

import os
from pathlib import Path
from typing import Any

import rich_click as click

from regime_proto.cli import options, sharding
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages
from regime_proto.cli.converting import converted, foresee, settings_of
from regime_proto.cli.converting_many import convert_all, refuse_one
from regime_proto.cli.interruption import leaving
from regime_proto.schema.errors import RegimeError

_VARIABLE = "DASK_SCHEDULER_ADDRESS"


@command
@click.argument("sources", metavar="SOURCE…", nargs=-1, required=True, type=options.PLACE)
@options.conversion
@click.option("-o", "--output", type=options.PATH, help="Trajectory to write, for a single run.")
@click.option(
    "--output-dir",
    type=options.PATH,
    metavar="DIR",
    help="Folder for the trajectories of several runs; each is NAME.h5, named after the directory of its run.",
)
@click.option(
    "--shard",
    metavar="I/N",
    help="Measure only the I-th of N parts of the run, while other processes on the same file system measure the "
    "others; `regime merge OUTPUT.segments` joins them. Default: the variable REGIME_SHARD.",
)
@click.option("--shards", type=click.IntRange(1), metavar="N", help="Number of parts for --print-commands.")
@click.option("--print-commands", is_flag=True, help="Only print the command of every part, one per line.")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Measure on the workers of a Dask cluster: the address of its scheduler, the scheduler's file, or local:N for "
    "N processes on this machine. Default: the variable DASK_SCHEDULER_ADDRESS.",
)
@options.messages
def convert(
    sources: tuple[Path, ...],
    output: Path | None,
    output_dir: Path | None,
    shard: str | None,
    shards: int | None,
    print_commands: bool,
    scheduler: str | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    **conversion: Any,
) -> None:
    """Convert a directory of checkpoints into a trajectory file, or several runs into a folder of trajectories.

    The same command resumes an interrupted conversion. If one of several runs fails, the others are still converted.

    For example:
        regime convert checkpoints/ -o run.h5 --dry-run
        regime convert checkpoints/ -o run.h5 --masks every=10
        regime convert checkpoints/ -o run.h5 --shard 2/8
        regime convert runs/*/ --output-dir trajectories/
    """
    messages = Messages(quiet=quiet, verbose=verbose)
    with messages.collecting():
        if output_dir is not None:
            refuse_one("-o", output)
            refuse_one("--shard", shard)
            refuse_one(f"the variable {sharding.VARIABLE}", os.environ.get(sharding.VARIABLE))
            refuse_one("--shards", shards)
            refuse_one("--print-commands", print_commands)
            settings = settings_of(conversion | {"scheduler": scheduler or os.environ.get(_VARIABLE) or None})
            convert_all(sources, output_dir, messages, settings, dry_run=dry_run)
            return
        source, output = _one(sources, output)
        if print_commands or shards is not None:
            sharding.print_commands(shards, shard, is_asked=print_commands)
            return
        shard = sharding.requested_part(shard, messages)
        # A requested part is measured by this process, even if a cluster is set in the environment.
        scheduler = scheduler or (None if shard else os.environ.get(_VARIABLE) or None)
        parts = {"shard": shard, "command": sharding.command_without_part(), "scheduler": scheduler}
        settings = settings_of(conversion | parts)
        if dry_run:
            foresee(source, output, messages, settings)
            return
        from regime_proto.conversion.run import warn_of_doubts

        done = converted(source, output, messages, settings)
        if done.shard is None:
            with leaving(lambda: f"{done.path} is complete"):
                warn_of_doubts(done.path)


def _one(sources: tuple[Path, ...], output: Path | None) -> tuple[Path, Path]:
    """Return the run to convert and its trajectory; several runs need --output-dir."""
    if len(sources) > 1:
        given = "" if output is None else f", but -o {output} is for a single run"
        raise RegimeError(f"{len(sources)} runs{given}; give a folder for their trajectories: --output-dir DIR")
    if output is None:
        context = click.get_current_context()
        raise click.UsageError("Missing option '-o' / '--output', or '--output-dir' for several runs", context)
    return sources[0], output
