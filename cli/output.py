"""Files that a command writes: what may not be replaced is refused in one line, before any work."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from regime_proto.cli.console import Messages
from regime_proto.schema.errors import RegimeError


def refuse_directory(source: Path) -> None:
    """Raise an error for checkpoints, where a trajectory is meant."""
    if source.is_dir():
        raise RegimeError(
            f"{source}: a directory; expected a trajectory file: make one with `regime convert {source} -o run.h5`"
        )


def refuse_output(output: Path, source: Path | None = None) -> None:
    """Raise an error for an output that --overwrite must not replace either."""
    if not output.exists():
        return
    if not output.is_file():
        raise RegimeError(f"{output}: not a file; choose another output")
    if source is not None and source.exists() and output.samefile(source):
        raise RegimeError(f"{output}: the trajectory itself; choose another output")


def refuse_existing(output: Path, *, overwrite: bool) -> None:
    """Raise an error for an output that is there; only a trajectory is replaced, and only if that was asked for."""
    from regime_proto.schema.reader import existing_header

    if existing_header(output) is not None and not overwrite:
        raise RegimeError(f"{output}: exists; replace it with --overwrite")


def write_output(output: Path, content: bytes, *, overwrite: bool, messages: Messages) -> None:
    """Write a file whole, and say so; one that holds something else is replaced only with `overwrite`.

    Raises
    ------
    RegimeError
        Something else is in the way, or the file cannot be written.
    """
    from regime_proto.schema.files import place_files

    with writing(output):
        if place_files({output: content}, overwrite=overwrite):
            messages.note(f"wrote {output}")
        else:
            messages.note(f"nothing changed since; {output} holds it already")


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Turn an error of the system into one that says what to do."""
    try:
        yield
    except OSError as error:
        raise RegimeError(f"{output}: cannot be written ({error.strerror}); choose another output") from None
