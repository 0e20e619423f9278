"""The style of figures for print, and their output as files, with the same bytes for the same figure."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure

# Properties of a line in matplotlib.
Look = dict[str, Any]

# Okabe and Ito's colours, which colour-blind readers can distinguish; dashes distinguish lines in grey.
WEIGHTS: Look = {"color": "#0072B2", "linestyle": "-"}
PATTERNS: Look = {"color": "#D55E00", "linestyle": (0, (3.5, 1.2))}
LOSSES: tuple[Look, ...] = ({"color": "#000000", "linestyle": "-"}, {"color": "#767676", "linestyle": (0, (3.5, 1.2))})
SCORES: tuple[Look, ...] = (
    {"color": "#009E73", "linestyle": (0, (5, 1, 1, 1))},
    {"color": "#CC79A7", "linestyle": (0, (1, 1))},
)
LAYERS = "cividis"

# Widths of one and of two columns, in inches; the height of a page.
WIDTHS = {1: 3.5, 2: 7.16}
PAGE = 9.5

_SETTINGS: dict[str, Any] = {
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8,
    "axes.titlepad": 4,
    "axes.labelsize": 8,
    "axes.labelpad": 2,
    # matplotlib includes this font, so that every machine has it.
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "legend.fontsize": 8,
    "lines.linewidth": 1.0,
    "mathtext.fontset": "dejavusans",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    # Embeds editable TrueType fonts instead of Type 3; text in SVG stays text.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    # Fixes the names of clip paths and other elements, which would be random otherwise.
    "svg.hashsalt": "regime",
}

# Pixels per inch on a screen, at which letters are as large as those of a page.
SCREEN = 150

# Metadata that would hold the date of a file.
_WITHOUT_DATES: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {},
}
FORMATS = tuple(_WITHOUT_DATES)


class Inline(Figure):
    """A figure that a notebook displays even if pyplot is not imported."""

    def _repr_png_(self) -> bytes:
        with for_print():
            return as_file(self, "png", dpi=SCREEN)


@contextmanager
def for_print() -> Iterator[None]:
    """Draw with these settings, without changing the user's own settings."""
    with style.context(["default", _SETTINGS]):
        yield


def as_file(figure: Any, form: str, *, dpi: int) -> bytes:
    """Return a figure as the content of a file."""
    content = io.BytesIO()
    figure.savefig(content, format=form, dpi=dpi, metadata=_WITHOUT_DATES[form])
    return content.getvalue()
