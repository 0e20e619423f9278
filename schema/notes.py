"""Notes on a run: what people say about it, as attributes of the group that the format leaves to its users."""

import json
import numbers
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from regime_proto.schema import layout
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.header import is_unicode
from regime_proto.schema.reader import open_checked

Note = str | int | float

ORDER_DOUBT = "order_doubt"
"""The evidence of the weights against the order of the checkpoints."""

# What a recorder or a conversion keeps in the same group.
OWN = frozenset(
    {
        "probe_seed",
        "probe_drawn",
        "resumed_from_steps",
        "settled_at_step",
        "settling_threshold",
        "settling_scale",
        "settling_window",
        "every_requested",
        "every_strides",
        "every_share",
        ORDER_DOUBT,
    }
)

# The format allows fewer than 1,000 attributes, including our own.
MAX_NOTES = 500
MAX_LETTERS = 64_000


def as_notes(given: Mapping[str, object]) -> dict[str, Note]:
    """Return notes in a form that a trajectory can hold.

    Parameters
    ----------
    given : mapping of str to str, int, float or bool
        Names consist of ASCII letters, digits and underscores. A bool becomes 0 or 1.

    Raises
    ------
    RegimeError
        A name or a value is invalid, a name is reserved for the recorder, or there are too many notes.
    """
    notes = {_name(name): _value(name, value) for name, value in given.items()}
    if len(notes) > MAX_NOTES or len(json.dumps(notes)) > MAX_LETTERS:
        raise RegimeError(
            f"{len(notes)} notes: expected at most {MAX_NOTES}, with {MAX_LETTERS:,} characters in total; keep longer "
            "texts in a separate file"
        )
    return notes


def _name(name: object) -> str:
    if not isinstance(name, str) or not re.fullmatch("[A-Za-z0-9_]+", name):
        raise RegimeError(f"note {name!r}: expected a name of ASCII letters, digits and _, for example learning_rate")
    if name in OWN:
        raise RegimeError(f"note {name}: regime itself uses this name; choose another")
    return name


def _value(name: str, value: object) -> Note:
    if isinstance(value, str):
        if "\0" in value or not is_unicode(value):
            raise RegimeError(f"note {name}: found {value[:40]!r}, expected valid Unicode text without NUL")
        return value
    if isinstance(value, np.bool_ | numbers.Integral):
        number = int(value)
        if not -(2**63) <= number < 2**63:
            raise RegimeError(f"note {name}: {number} does not fit into 64 bits; give it as text")
        return number
    if isinstance(value, numbers.Real):
        return float(value)
    raise RegimeError(f"note {name}: expected text, a number or a bool, found {type(value).__name__}")


def read_notes(source: str | PathLike[str] | h5py.File) -> dict[str, Note]:
    """Return the notes in a trajectory, without the attributes that regime itself keeps next to them.

    Parameters
    ----------
    source : path or h5py.File
        A trajectory file, closed or open.

    Raises
    ------
    TrajectoryError
        The file is missing, is not HDF5, or does not follow the format.
    """
    if isinstance(source, h5py.File):
        return notes_in(dict(source[layout.EXTRA].attrs) if layout.EXTRA in source else {})
    with open_checked(Path(source)) as file:
        return read_notes(file)


def read_order_doubt(file: h5py.File) -> str | None:
    """Return the evidence of the weights against the order of the checkpoints; None without any."""
    found = _plain(file[layout.EXTRA].attrs.get(ORDER_DOUBT)) if layout.EXTRA in file else None
    if not isinstance(found, str) or not found:
        return None
    # Other software may have written anything into this attribute: keep one short line.
    return "".join(letter if letter.isprintable() else " " for letter in found[:1000])


def notes_in(extra: Mapping[str, Any]) -> dict[str, Note]:
    """Return the notes among the attributes of the group; other software may have put anything there."""
    taken = {name: _plain(value) for name, value in extra.items() if name not in OWN}
    return {name: value for name, value in taken.items() if value is not None}


def _plain(value: object) -> Note | None:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        # Text of fixed length, as netCDF libraries write it.
        return value.decode(errors="replace")
    if isinstance(value, np.bool_ | np.integer):
        return int(value)
    return float(value) if isinstance(value, np.floating) else None
