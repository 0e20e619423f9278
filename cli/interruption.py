"""Ctrl-C: says what was kept and which command resumes the work."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from click import get_current_context

# Key in a context's `meta` for the command line as typed.
TYPED = "regime_proto.typed"


class Interrupted(KeyboardInterrupt):
    """An interruption whose message says what was kept."""


@contextmanager
def leaving(remains: Callable[[], str]) -> Iterator[None]:
    """Say what was kept if the block is interrupted.

    Parameters
    ----------
    remains : callable
        Returns a description of what was kept; called when nothing more is written.
    """
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted(remains()) from None


@contextmanager
def leaving_observations(output: Path, count: int | None = None) -> Iterator[None]:
    """If interrupted, say how many observations were kept, where they are, and which command resumes the work.

    Parameters
    ----------
    output : Path
        The trajectory that is being written.
    count : int, optional
        Number of observations that it will hold, if known.
    """
    from regime_proto.checkpoints.hub.client import NotFetched
    from regime_proto.checkpoints.hub.downloads import downloads_folder
    from regime_proto.schema.files import segments_folder
    from regime_proto.schema.segments import kept_observations

    before = stamp(output)

    def remains() -> str:
        kept = kept_observations(output)
        if kept:
            # A followed run may have new checkpoints.
            of = "" if count is None else f" of {max(kept, count)}"
            nouns = f"observation{'s' * (kept != 1 or count is not None)} {'is' if kept == 1 else 'are'}"
            there = f"{kept}{of} {nouns} kept in {segments_folder(output)}"
            return f"{there}; resume with {same_command()}{downloads()}"
        if stamp(output) != before:
            return f"{output} is written"
        return f"nothing was written to {output}{downloads()}" if downloads() else ""

    def downloads() -> str:
        folder = downloads_folder(output)
        return f" (downloads are kept in {folder}; remove it if you do not resume)" if folder.is_dir() else ""

    try:
        with leaving(remains):
            yield
    except NotFetched as error:
        raise NotFetched("; ".join(part for part in (str(error), remains()) if part)) from None


def same_command() -> str:
    """Return the command line as typed, quoted for a shell."""
    typed = get_current_context().meta[TYPED]
    return f"`regime {shlex.join(typed)}`"


def stamp(output: Path) -> tuple[int, int] | None:
    """Return inode and time of change, which differ after a file is replaced; None if it does not exist."""
    try:
        found = output.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
