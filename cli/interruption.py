"""Ctrl-C: what was kept, and the command that goes on."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from click import get_current_context

# Under this name a context knows the command line.
TYPED = "regime_proto.typed"


class Interrupted(KeyboardInterrupt):
    """An interruption that says in words what it leaves."""


@contextmanager
def leaving(remains: Callable[[], str]) -> Iterator[None]:
    """Say what an interruption leaves.

    Parameters
    ----------
    remains : callable
        Looks at what is there, once nothing more is written, and returns it in words.
    """
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted(remains()) from None


@contextmanager
def leaving_observations(output: Path, count: int) -> Iterator[None]:
    """Say how many observations an interruption leaves, where, and the command that goes on.

    Parameters
    ----------
    output : Path
        The trajectory that is being written.
    count : int
        The observations that it is to hold.
    """
    from regime_proto.schema.files import segments_folder
    from regime_proto.schema.segments import kept_observations

    before = stamp(output)

    def remains() -> str:
        kept = kept_observations(output)
        if kept:
            # A run that is followed may have grown.
            there = f"{kept} of {max(kept, count)} observations are kept in {segments_folder(output)}"
            return f"{there}; go on with {same_command()}"
        return f"{output} is written" if stamp(output) != before else ""

    with leaving(remains):
        yield


def same_command() -> str:
    """Return the command line as it was typed, for a shell."""
    typed = get_current_context().meta[TYPED]
    return f"`regime {shlex.join(typed)}`"


def stamp(output: Path) -> tuple[int, int] | None:
    """Return what changes whenever a file is replaced; None where there is none."""
    try:
        found = output.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
