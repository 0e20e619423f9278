"""One run in several processes: the requested part, and the commands of all parts."""

import os
import shlex
from collections.abc import Mapping

import click

from regime_proto.cli.console import Messages, say
from regime_proto.cli.interruption import TYPED
from regime_proto.schema.errors import RegimeError

VARIABLE = "REGIME_SHARD"
_OPTIONS = ("--shard", "--shards")
_SLURM = "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_STEP"


def command_without_part() -> list[str]:
    """Return the command line as typed, without its options for parts."""
    typed = list(click.get_current_context().meta[TYPED])
    kept, words = ["regime"], iter(typed)
    for word in words:
        name, _, value = word.partition("=")
        if name in _OPTIONS:
            if not value:
                next(words, None)
        elif word != "--print-commands":
            kept.append(word)
    return kept


def requested_part(shard: str | None, messages: Messages) -> str | None:
    """Return the part requested by an option or the environment; in a cluster's array of jobs, only print a hint."""
    shard = shard or os.environ.get(VARIABLE) or None
    if shard is None:
        found = _array_task(os.environ)
        if found is not None:
            messages.note(
                f"job {found} of a SLURM array: to measure one part of the run per job, pass --shard {found} here"
            )
    return shard


def _array_task(environment: Mapping[str, str]) -> str | None:
    """Return ``I/N`` for a job of a SLURM array; None outside an array."""
    try:
        number, first, last = (int(environment[name]) for name in _SLURM[:3])
        step = max(1, int(environment.get(_SLURM[3], "1")))
    except (KeyError, ValueError):
        return None
    return f"{(number - first) // step + 1}/{(last - first) // step + 1}"


def print_commands(shards: int | None, shard: str | None, *, is_asked: bool) -> None:
    """Print the command of every part, one per line.

    Raises
    ------
    RegimeError
        The number of parts is missing, or --print-commands is.
    """
    if not is_asked:
        raise RegimeError(
            f"--shards {shards}: needs --print-commands, which prints the command of every part; to measure one part, "
            f"use --shard 1/{shards}"
        )
    if shards is None or shard is not None:
        raise RegimeError("--print-commands: give the number of parts with --shards N, and leave out --shard")
    command = command_without_part()
    for number in range(1, shards + 1):
        say(shlex.join([*command, "--shard", f"{number}/{shards}"]))
