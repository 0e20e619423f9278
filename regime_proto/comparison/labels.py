"""Labels of runs: model, data set, optimizer and other properties that distinguish runs.

A trajectory holds them as attributes of its group ``extra``. A separate table adds to them and overrides them.
"""

import csv
import io
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from regime_proto.schema.errors import RegimeError
from regime_proto.schema.nearest import nearest
from regime_proto.schema.notes import notes_in

Labels = Mapping[str, str]

FAMILY = "family"
DATASET = "dataset"
# Part of the name of a data set that replaces an unavailable one.
STAND_IN = "stand-in"
SEED = "seed"
# First columns, in this order; labels with other names follow in order of appearance.
LEADING = ("model", DATASET, "optimizer", SEED, FAMILY)
FILE = "file"


def labels_of(extra: Mapping[str, Any]) -> dict[str, str]:
    """Return the notes in a trajectory's group ``extra`` as labels, each one line of text."""
    lines = {name: " ".join(str(value).split()) for name, value in notes_in(extra).items()}
    return {name: text for name, text in lines.items() if text}


def label_names(labels: Iterable[Labels]) -> tuple[str, ...]:
    """Return the names of all labels of the given runs, those in `LEADING` first."""
    found = dict.fromkeys(name for run in labels for name in run)
    return (*(name for name in LEADING if name in found), *(name for name in found if name not in LEADING))


def read_labels(path: Path) -> dict[str, dict[str, str]]:
    """Read a table of labels: CSV with a column ``file`` and one column for each label.

    Returns
    -------
    dict
        The labels by the value of the column ``file``; empty fields are ignored.

    Raises
    ------
    RegimeError
        The table cannot be read, lacks the column ``file``, repeats a column, or has two rows for one file.
    """
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), strict=True))
    except OSError as error:
        raise RegimeError(f"{path}: cannot be read ({error.strerror}); expected a CSV table of labels") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise RegimeError(f"{path}: expected CSV in UTF-8, found a different format ({error})") from None
    header = [name.strip() for name in rows[0]] if rows else []
    _require_columns(path, header)
    labels: dict[str, dict[str, str]] = {}
    for number, fields in enumerate(rows[1:], start=2):
        if not fields:
            continue
        if len(fields) != len(header):
            raise RegimeError(f"{path}: row {number} has {len(fields)} fields, but the header has {len(header)}")
        row = {name: " ".join(field.split()) for name, field in zip(header, fields, strict=True)}
        file = row.pop(FILE)
        if file in labels:
            raise RegimeError(f"{path}: row {number}: a second row for {file!r}; leave one out")
        labels[file] = {name: text for name, text in row.items() if text}
    return labels


def _require_columns(path: Path, header: Sequence[str]) -> None:
    if FILE not in header:
        found = ", ".join(header) or "nothing"
        raise RegimeError(
            f"{path}: expected a column {FILE!r} (name or path of a trajectory) and a column for each label; "
            f"found {found}"
        )
    for name, count in Counter(header).items():
        if count > 1 or not name:
            raise RegimeError(f"{path}: column {name!r}: expected a unique, non-empty name")


def assign(labels: Mapping[str, Labels], files: Sequence[Path]) -> tuple[list[Labels], list[str]]:
    """Find the labels of each file.

    Parameters
    ----------
    labels : mapping
        Labels by name or path of a trajectory.
    files : sequence of Path

    Returns
    -------
    list of labels
        One for each file; empty if the file has no labels.
    list of str
        Names that have labels but match no file.

    Raises
    ------
    RegimeError
        A name matches several files, or two names match one file.
    """
    found: list[Labels] = [{}] * len(files)
    by_file: dict[int, str] = {}
    strangers = []
    # A name matches all files with that name; a path matches one file.
    named = _numbers(file.name for file in files)
    placed = _numbers(file.resolve() for file in files) if any(Path(entry).name != entry for entry in labels) else {}
    for entry, chosen in labels.items():
        is_name = Path(entry).name == entry
        fitting = named.get(entry, []) if is_name else placed.get(Path(entry).resolve(), [])
        if len(fitting) > 1:
            raise RegimeError(f"labels of {entry!r}: {len(fitting)} of the files have this name; give their paths")
        if not fitting:
            strangers.append(entry)
            continue
        if fitting[0] in by_file:
            raise RegimeError(f"labels of {entry!r}: {by_file[fitting[0]]!r} is the same file; leave one out")
        by_file[fitting[0]] = entry
        found[fitting[0]] = chosen
    return found, strangers


def _numbers(values: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    """Return the positions of each value."""
    found: dict[Hashable, list[int]] = {}
    for number, value in enumerate(values):
        found.setdefault(value, []).append(number)
    return found


def describe_strangers(strangers: Sequence[str], files: Sequence[Path]) -> str:
    """Return one line that names labels for files that are not compared."""
    hint = nearest(Path(strangers[0]).name, [file.name for file in files])
    more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
    return f"labels are given for files that are not compared: {strangers[0]!r}{more}{hint}"
