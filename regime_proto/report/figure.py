"""A figure of a page: its drawing, its description in words, and its table of data."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime_proto.schema.numbers import number
from regime_proto.schema.text import printable

# Significant digits: enough for a screen, and half the bytes of full precision.
DIGITS = 5

# Roles of colours; page.css defines their values for the light and the dark theme.
WEIGHT = "var(--weight)"
PATTERN = "var(--pattern)"
NEUTRAL = "var(--neutral)"
FAINT = "var(--faint)"
WEIGHT_SOFT = "var(--weight-soft)"
PATTERN_SOFT = "var(--pattern-soft)"


@dataclass(frozen=True)
class Table:
    """The table of data of a figure.

    Parameters
    ----------
    header : tuple of str
    rows : tuple of tuple of str
    note : str
        What the rows hold, if they are a selection or means.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Switch:
    """An option that the reader can switch on or off.

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
        Unique within a run.
    title : str
    caption : str
        What the figure shows and how to read it.
    summary : str
        What can be seen in the figure, in one sentence; its accessible name.
    traces : tuple of dict
        Traces of plotly.
    layout : dict
        Layout of plotly, in addition to the shared layout in page.js.
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
        """Return the data that page.js draws, as JSON that can be embedded in a page."""
        content = {
            "traces": self.traces,
            "layout": {**self.layout, "height": self.height},
        }
        return in_page(content)


def in_page(value: object) -> str:
    """Return JSON in which no text can close the script element."""
    return json.dumps(plain(value), allow_nan=False, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def plain(value: Any) -> Any:
    """Return plain lists, rounded numbers and printable text; None for values that are not finite."""
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
    """Return numbers as text, with a dash for undefined ones."""
    return tuple(number(float(value), form) for value in values)
