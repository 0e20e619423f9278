"""Messages: results go to stdout, everything else to stderr, one line each."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import rich_click as click
from regime_proto.schema.errors import RegimeWarning


def is_plain() -> bool:
    """Whether the user wants neither colours nor bars, or has a terminal that shows none: no-color.org, TERM=dumb."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def warn(text: str) -> None:
    """Print a warning."""
    click.echo(f"{click.style('warning:', fg='yellow')} {text}", err=True)


@dataclass
class Messages:
    """What is said beside the result.

    Parameters
    ----------
    quiet, verbose : bool
    warnings : list of str
        Every warning so far, for JSON.
    """

    quiet: bool = False
    verbose: bool = False
    warnings: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Say something that a user likes to know."""
        if not self.quiet:
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        """Say something that a user should know."""
        self.warnings.append(text)
        if not self.quiet:
            warn(text)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Show the library's warnings as lines, and hide those of other libraries."""

        def show(message: Warning | str, category: type[Warning], *_: object) -> None:
            if issubclass(category, RegimeWarning):
                self.warn(str(message))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", RegimeWarning)
            warnings.showwarning = show  # type: ignore[assignment]
            yield

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int], None] | None]:
        """Yield a callback that draws a bar on a terminal, or None where there is none."""
        if self.quiet or not sys.stderr.isatty() or is_plain():
            yield None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def show_error(text: str) -> None:
    """Print an error, in one line."""
    click.echo(f"{click.style('error:', fg='red', bold=True)} {one_line(text)}", err=True)


def one_line(text: str) -> str:
    """Return `text` without line breaks."""
    return " ".join(text.split())


def size(count: int) -> str:
    """Return a number of bytes for people."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
