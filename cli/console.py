"""Messages: results go to stdout, everything else to stderr, one line each."""

import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import rich_click as click

from regime_proto.schema.errors import RegimeWarning
from regime_proto.schema.text import printable

# Seconds that something may take before it is said what goes on.
PATIENCE = 1.0


def is_plain() -> bool:
    """Whether the user wants neither colours nor bars, or has a terminal that shows none: no-color.org, TERM=dumb."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def say(text: str, *, lead: str = "", bold: bool = False, err: bool = False) -> None:
    """Print a line in which names from files are text; what is styled stands in `lead`, or all of it is bold."""
    shown = printable(text)
    # What stands in the place of the standard error while a bar is drawn begins lines of their own.
    click.echo(lead + (click.style(shown, bold=True) if bold else shown), file=sys.stderr if err else None)


def warn(text: str) -> None:
    """Print a warning."""
    say(text, lead=f"{click.style('warning:', fg='yellow')} ", err=True)


@dataclass
class Messages:
    """What is said beside the result.

    Parameters
    ----------
    quiet, verbose : bool
    as_json : bool
        A program reads the result: nobody waits.
    warnings : list of str
        Every warning so far, for JSON.
    """

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False
    warnings: list[str] = field(default_factory=list)

    def note(self, text: str, *, bold: bool = False) -> None:
        """Say something that a user likes to know."""
        if not self.quiet:
            say(text, bold=bold, err=True)

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
    def exporting(self) -> Iterator[None]:
        """Say that a model is being exported, if that takes long and a person waits at a terminal."""
        if self.quiet or self.as_json or not sys.stderr.isatty():
            yield
            return
        timer = threading.Timer(PATIENCE, self.note, ["exporting the model …"])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int], None] | None]:
        """Yield a callback that draws a bar on a terminal, or None where there is none."""
        if self.quiet or not sys.stderr.isatty() or is_plain():
            yield None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn(label, markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def show_error(text: str) -> None:
    """Print an error, in one line."""
    say(one_line(text), lead=f"{click.style('error:', fg='red', bold=True)} ", err=True)


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
