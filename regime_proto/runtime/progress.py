"""A bar that shows how far a long call has come: in a notebook, or on a terminal."""

import html
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from regime_proto.schema.text import printable

# Seconds between two updates of a notebook, each of which is a message to the browser.
_PAUSE = 0.1

Progress = Callable[[int, int], None]


@contextmanager
def progress_bar(label: str = "") -> Iterator[Progress | None]:
    """Show a progress bar while a call runs: pass what it yields as `progress`.

    In a notebook the bar is part of the output. On a terminal it is drawn on the standard error, and removed at the
    end. Anywhere else there is no bar.

    Parameters
    ----------
    label : str
        What stands before the bar.

    Yields
    ------
    callable or None
        Accepts the number done and the total; None where no bar can be shown.

    Examples
    --------
    >>> with progress_bar("converting") as progress:  # doctest: +SKIP
    ...     regime_proto.convert("checkpoints/", "run.h5", progress=progress)
    """
    if _is_notebook():
        bar = _NotebookBar(label)
        try:
            yield bar.update
        finally:
            bar.finish()
    elif sys.stderr.isatty() and not is_plain():
        with _terminal_bar(label) as update:
            yield update
    else:
        yield None


def is_plain() -> bool:
    """Whether to print neither colours nor bars: the user asked for that (no-color.org), or TERM=dumb."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def _is_notebook() -> bool:
    """Whether this runs in a kernel of Jupyter; IPython on a terminal has no kernel."""
    shells = sys.modules.get("IPython.core.getipython")
    return getattr(shells and shells.get_ipython(), "kernel", None) is not None


@contextmanager
def _terminal_bar(label: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(label, markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _NotebookBar:
    """One output of a cell, which is replaced as the work proceeds.

    rich and tqdm need ipywidgets for that, and a saved notebook then shows an empty widget.
    """

    def __init__(self, label: str) -> None:
        self._label = printable(label)
        self._handle: Any = None
        self._shown = 0.0
        self._at: tuple[int, int] | None = None

    def update(self, done: int, total: int) -> None:
        """Show how many are done, unless that was shown a moment ago."""
        self._at = (done, total)
        if time.monotonic() - self._shown >= _PAUSE:
            self._show()

    def finish(self) -> None:
        """Show the last count."""
        if self._at is not None:
            self._show()

    def _show(self) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display(self, display_id=True)
        else:
            self._handle.update(self)
        self._shown = time.monotonic()

    def __repr__(self) -> str:
        done, total = self._at or (0, 0)
        return f"{self._label} {done} of {total}".lstrip()

    def _repr_html_(self) -> str:
        done, total = self._at or (0, 0)
        bar = f'<progress value="{done}" max="{max(total, 1)}" aria-label="{html.escape(self._label)}"></progress>'
        return f"<div>{html.escape(self._label)} {bar} {done} of {total}</div>"
