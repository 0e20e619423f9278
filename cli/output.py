"""Files that a command writes: what may not be replaced is refused in one line, before any work."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from regime_proto.cli.console import Messages, say, size
from regime_proto.cli.interruption import leaving, stamp
from regime_proto.schema.errors import RegimeError


def refuse_directory(source: Path) -> None:
    """Raise an error for checkpoints, where a trajectory is meant."""
    if source.is_dir():
        raise RegimeError(
            f"{source}: a directory; expected a trajectory file: make one with `regime convert {source} -o run.h5`"
        )


def refuse_output(output: Path, inputs: Iterable[Path | None] = (), *, kind: str | None = None) -> None:
    """Raise an error, before any work, for an output that cannot be written, or that --overwrite must not replace.

    Parameters
    ----------
    output : Path
    inputs : iterable of Path
        What the command reads: files, and directories, in which nothing is written over. None is left out.
    kind : str, optional
        What the command writes, in the words of `schema.kinds.kind_of`; not given for a trajectory, which
        `refuse_existing` looks at.

    Raises
    ------
    RegimeError
        It is no file, an input, a file of another kind, or in a place that cannot be written to.
    """
    from regime_proto.schema.files import require_writable
    from regime_proto.schema.kinds import require_kind

    if output.exists() and not output.is_file():
        raise RegimeError(f"{output}: not a file; choose another output")
    for source in inputs:
        if source is not None and source.exists() and output.exists():
            _refuse_input(output, source)
    if kind is not None:
        require_kind(output, kind)
        require_writable(output)


def _refuse_input(output: Path, source: Path) -> None:
    if output.samefile(source):
        raise RegimeError(f"{output}: an input of this command; choose another output")
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise RegimeError(f"{output}: lies in {source}, an input of this command; choose another output")


def refuse_existing(output: Path, *, overwrite: bool) -> None:
    """Raise an error for an output that is there; only a trajectory is replaced, and only if that was asked for."""
    from regime_proto.schema.reader import existing_header

    if existing_header(output) is not None and not overwrite:
        raise RegimeError(f"{output}: exists; replace it with --overwrite")


def write_output(output: Path, content: bytes, *, overwrite: bool, dry_run: bool, messages: Messages) -> None:
    """Write a file whole, and say so; see `write_files`."""
    write_files(output, {output: content}, overwrite=overwrite, dry_run=dry_run, messages=messages)


def write_files(
    output: Path, contents: Mapping[Path, bytes], *, overwrite: bool, dry_run: bool, messages: Messages
) -> None:
    """Write files, each whole, and say so; what holds something else is replaced only with `overwrite`.

    Parameters
    ----------
    output : Path
        Where they go, as the user named it.
    contents : dict of Path to bytes
    overwrite : bool
    dry_run : bool
        Say what would be written, and write nothing.
    messages : Messages

    Raises
    ------
    RegimeError
        Something else is in the way, or a file cannot be written.
    """
    from regime_proto.schema.files import files_to_place, place_files

    changed = files_to_place(contents, overwrite=overwrite)
    if dry_run and not changed:
        would(f"write nothing: {output} holds it already")
    elif dry_run:
        for path in changed:
            would_write(path, size(len(contents[path])))
    elif changed:
        with writing(*changed):
            place_files(contents, overwrite=overwrite)
        for path in changed:
            messages.note(f"wrote {path}")
    else:
        messages.note(f"nothing changed since; {output} holds it already")


def would(what: str) -> None:
    """Say what a command would do; this is the result of a dry run, so that --quiet does not silence it."""
    say(f"dry run: would {what}", err=True)


def would_write(output: Path, what: str) -> None:
    """Say, in a dry run, which file would be written.

    Parameters
    ----------
    output : Path
    what : str
        What it would hold, or how large it would be.

    Raises
    ------
    RegimeError
        It could not be written.
    """
    from regime_proto.schema.files import require_writable

    require_writable(output)
    would(f"{'replace' if output.exists() else 'write'} {output} ({what})")


@contextmanager
def writing(*outputs: Path) -> Iterator[None]:
    """Turn an error of the system into one that says what to do; an interruption says which outputs were written."""
    before = [stamp(output) for output in outputs]

    def written() -> str:
        changed = [str(output) for output, found in zip(outputs, before, strict=True) if stamp(output) != found]
        return f"{', '.join(changed)} {'is' if len(changed) == 1 else 'are'} written" if changed else ""

    try:
        with leaving(written):
            yield
    except OSError as error:
        raise RegimeError(f"{outputs[0]}: cannot be written ({error.strerror}); choose another output") from None
