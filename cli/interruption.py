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
def leaving_observations(output: Path, count: int | None = None) -> Iterator[None]:
    """Say how many observations an interruption leaves, where, and the command that goes on.

    Parameters
    ----------
    output : Path
        The trajectory that is being written.
    count : int, optional
        The observations that it is to hold, once they are known.
    """
    from regime_proto.checkpoints.hub.client import NotFetched
    from regime_proto.checkpoints.hub.downloads import downloads_folder
    from regime_proto.schema.files import segments_folder
    from regime_proto.schema.segments import kept_observations

    before = stamp(output)

    def remains() -> str:
        kept = kept_observations(output)
        if kept:
            # A run that is followed may have grown.
            of = "" if count is None else f" of {max(kept, count)}"
            nouns = f"observation{'s' * (kept != 1 or count is not None)} {'is' if kept == 1 else 'are'}"
            there = f"{kept}{of} {nouns} kept in {segments_folder(output)}"
            return f"{there}; go on with {same_command()}{downloads()}"
        if stamp(output) != before:
            return f"{output} is written"
        return f"nothing was written to {output}{downloads()}" if downloads() else ""

    def downloads() -> str:
        folder = downloads_folder(output)
        return f" (downloads are kept in {folder}; remove it if you do not)" if folder.is_dir() else ""

    try:
        with leaving(remains):
            yield
    except NotFetched as error:
        raise NotFetched("; ".join(part for part in (str(error), remains()) if part)) from None


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
