"""A figure of a page: what is drawn, what it says in words, and the table behind it."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime_proto.schema.numbers import number
from regime_proto.schema.text import printable

# Enough for a screen, and half the bytes of all digits.
DIGITS = 5

# Roles of colours; page.css gives them their values, for light and dark.
WEIGHT = "var(--weight)"
PATTERN = "var(--pattern)"
NEUTRAL = "var(--neutral)"
FAINT = "var(--faint)"
WEIGHT_SOFT = "var(--weight-soft)"
PATTERN_SOFT = "var(--pattern-soft)"


@dataclass(frozen=True)
class Table:
    """The table behind a figure.

    Parameters
    ----------
    header : tuple of str
    rows : tuple of tuple of str
    note : str
        What the rows are, where they are not everything.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Switch:
    """A choice of the reader.

    Parameters
    ----------
    label : str
    kind : {"log-axis", "log-color"}
    targets : tuple of str
        Axes of the layout, for ``log-axis``.
    """

    label: str
    kind: str
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A figure.

    Parameters
    ----------
    key : str
        Its own within a run.
    title : str
    caption : str
        What it shows and how to read it.
    summary : str
        What can be seen in it, in a sentence: its accessible name.
    traces : tuple of dict
        Of plotly.
    layout : dict
        Of plotly, beside what all figures share (page.js).
    table : Table
    height : int
        Pixels.
    switches : tuple of Switch
    """

    key: str
    title: str
    caption: str
    summary: str
    traces: tuple[dict[str, Any], ...]
    layout: dict[str, Any]
    table: Table
    height: int = 320
    switches: tuple[Switch, ...] = ()

    def plot(self) -> str:
        """Return what page.js draws, as JSON that can stand in a page."""
        content = {
            "traces": self.traces,
            "layout": {**self.layout, "height": self.height},
        }
        return in_page(content)


def in_page(value: object) -> str:
    """Return JSON that no text in it can end early."""
    return json.dumps(plain(value), allow_nan=False, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def plain(value: Any) -> Any:
    """Return plain lists and numbers, rounded, and printable text; None for what is not finite."""
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, str):
        return printable(value)
    return int(value) if isinstance(value, np.integer) else value


def numbers(values: Sequence[float] | NDArray[Any], form: str = ".3g") -> tuple[str, ...]:
    """Return numbers, with a dash for each that is undefined."""
    return tuple(number(float(value), form) for value in values)
