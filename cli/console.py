"""Messages: results go to stdout, everything else to stderr, one line each."""

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import rich_click as click

from regime_proto.runtime.progress import progress_bar
from regime_proto.schema.errors import RegimeWarning
from regime_proto.schema.text import printable

# Seconds that a task may take before a message says what is happening.
PATIENCE = 1.0


def say(text: str, *, lead: str = "", bold: bool = False, err: bool = False) -> None:
    """Print one line. Names from files are printed as plain text; only `lead` may be styled, or all is bold."""
    shown = printable(text)
    # While a bar is drawn, rich replaces sys.stderr with a stream that prints above the bar.
    click.echo(lead + (click.style(shown, bold=True) if bold else shown), file=sys.stderr if err else None)


def warn(text: str) -> None:
    """Print a warning."""
    say(text, lead=f"{click.style('warning:', fg='yellow')} ", err=True)


@dataclass
class Messages:
    """Messages in addition to the result.

    Parameters
    ----------
    quiet, verbose : bool
    as_json : bool
        A program reads the result, so no waiting messages are needed.
    warnings : list of str
        Every warning so far, for JSON.
    """

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False
    warnings: list[str] = field(default_factory=list)

    def note(self, text: str, *, bold: bool = False) -> None:
        """Print something that may interest the user."""
        if not self.quiet:
            say(text, bold=bold, err=True)

    def warn(self, text: str) -> None:
        """Print something that the user should know, and keep it for JSON."""
        self.warnings.append(text)
        if not self.quiet:
            warn(text)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Print this library's warnings as lines; hide warnings from other libraries."""

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
        """Say that a model is being exported, if the export is slow and a person waits at a terminal."""
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
        """Yield a callback that draws a progress bar, or None if there is no terminal."""
        if self.quiet:
            yield None
            return
        with progress_bar(label) as bar:
            yield bar


def show_error(text: str) -> None:
    """Print an error, in one line."""
    say(one_line(text), lead=f"{click.style('error:', fg='red', bold=True)} ", err=True)


def one_line(text: str) -> str:
    """Return `text` without line breaks."""
    return " ".join(text.split())


def size(count: int) -> str:
    """Return a number of bytes in readable form, such as ``1.5 MB``."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
