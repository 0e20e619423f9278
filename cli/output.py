"""Writes a command's files; refuses, before any work, to replace a file that must be kept."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from regime_proto.cli.console import Messages, say, size
from regime_proto.cli.interruption import leaving, stamp
from regime_proto.schema.errors import RegimeError

# Number of files in a directory that are opened to recognise trajectories.
_LOOKED_AT = 3


def refuse_directory(source: Path, *, many: bool = False) -> None:
    """Raise an error if a directory is given instead of a trajectory; `many` commands accept several files."""
    if source.is_dir():
        if any(map(_is_trajectory, itertools.islice(source.glob("*.h5"), _LOOKED_AT))):
            files = source / "*.h5"
            what = f"expected files: give {files}" if many else f"expected one file: give one of {files}"
            raise RegimeError(f"{source}: a directory of trajectories; {what}")
        raise RegimeError(
            f"{source}: a directory; expected a trajectory file: create one with `regime convert {source} -o run.h5`"
        )


def _is_trajectory(path: Path) -> bool:
    from regime_proto.schema.reader import existing_header

    try:
        return existing_header(path) is not None
    except RegimeError:
        return False


def refuse_output(output: Path, inputs: Iterable[Path | None] = (), *, kind: str | None = None) -> None:
    """Raise an error, before any work, if an output cannot be written or must not be replaced by --overwrite.

    Parameters
    ----------
    output : Path
    inputs : iterable of Path
        Files that the command reads, and directories in which nothing is overwritten. None is ignored.
    kind : str, optional
        Kind of file that the command writes, one of `schema.kinds.kind_of`; omitted for a trajectory, which
        `refuse_existing` checks.

    Raises
    ------
    RegimeError
        The output is not a file, is an input, is of a different kind, or cannot be written.
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
        raise RegimeError(f"{output}: is inside {source}, an input of this command; choose another output")


def refuse_existing(output: Path, *, overwrite: bool) -> None:
    """Raise an error if an output exists; only a trajectory is replaced, and only with --overwrite."""
    from regime_proto.schema.reader import existing_header

    if existing_header(output) is not None and not overwrite:
        raise RegimeError(f"{output}: exists; replace it with --overwrite")


def write_output(output: Path, content: bytes, *, overwrite: bool, dry_run: bool, messages: Messages) -> None:
    """Write one complete file, and say so; see `write_files`."""
    write_files(output, {output: content}, overwrite=overwrite, dry_run=dry_run, messages=messages)


def write_files(
    output: Path, contents: Mapping[Path, bytes], *, overwrite: bool, dry_run: bool, messages: Messages
) -> None:
    """Write complete files, and say so; files with different contents are replaced only with `overwrite`.

    Parameters
    ----------
    output : Path
        Destination, as given by the user.
    contents : dict of Path to bytes
    overwrite : bool
    dry_run : bool
        Only say what would be written.
    messages : Messages

    Raises
    ------
    RegimeError
        A file with different contents exists, or a file cannot be written.
    """
    from regime_proto.schema.files import files_to_place, place_files

    changed = files_to_place(contents, overwrite=overwrite)
    if dry_run and not changed:
        would(f"write nothing: {output} is up to date")
    elif dry_run:
        for path in changed:
            would_write(path, size(len(contents[path])))
    elif changed:
        with writing(*changed):
            place_files(contents, overwrite=overwrite)
        for path in changed:
            messages.note(f"wrote {path}")
    else:
        messages.note(f"nothing changed; {output} is up to date")


def would(what: str) -> None:
    """Say what a command would do. This is the result of a dry run, so --quiet does not silence it."""
    say(f"dry run: would {what}", err=True)


def would_write(output: Path, what: str) -> None:
    """Say in a dry run which file would be written.

    Parameters
    ----------
    output : Path
    what : str
        Its contents or size.

    Raises
    ------
    RegimeError
        The file could not be written.
    """
    from regime_proto.schema.files import require_writable

    require_writable(output)
    would(f"{'replace' if output.exists() else 'write'} {output} ({what})")


@contextmanager
def writing(*outputs: Path) -> Iterator[None]:
    """Turn an `OSError` into an error that says what to do; an interruption says which outputs were written."""
    before = [stamp(output) for output in outputs]

    def written() -> str:
        changed = [str(output) for output, found in zip(outputs, before, strict=True) if stamp(output) != found]
        return f"{', '.join(changed)} {'is' if len(changed) == 1 else 'are'} written" if changed else ""

    try:
        with leaving(written):
            yield
    except OSError as error:
        raise RegimeError(f"{outputs[0]}: cannot be written ({error.strerror}); choose another output") from None
