"""Labels of runs: model, data set, optimizer and whatever else tells runs apart.

A trajectory carries them as attributes of its group ``extra``; a table beside the runs adds to them, and wins.
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
# In the name of a data set that was trained on for want of the one that it stands for.
STAND_IN = "stand-in"
SEED = "seed"
# In the order of the columns; labels of other names follow as they appear.
LEADING = ("model", DATASET, "optimizer", SEED, FAMILY)
FILE = "file"


def labels_of(extra: Mapping[str, Any]) -> dict[str, str]:
    """Return the notes among the attributes of a trajectory's group ``extra`` as labels: one line of text each."""
    lines = {name: " ".join(str(value).split()) for name, value in notes_in(extra).items()}
    return {name: text for name, text in lines.items() if text}


def label_names(labels: Iterable[Labels]) -> tuple[str, ...]:
    """Return the names of all labels of some runs, those of `LEADING` first."""
    found = dict.fromkeys(name for run in labels for name in run)
    return (*(name for name in LEADING if name in found), *(name for name in found if name not in LEADING))


def read_labels(path: Path) -> dict[str, dict[str, str]]:
    """Read a table of labels: CSV with a column ``file`` and one column for each label.

    Returns
    -------
    dict
        The labels by what stands in the column ``file``; an empty field is no label.

    Raises
    ------
    RegimeError
        The table cannot be read, lacks the column or names one twice, or has two rows for one file.
    """
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), strict=True))
    except OSError as error:
        raise RegimeError(f"{path}: cannot be read ({error.strerror}); expected a CSV table of labels") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise RegimeError(f"{path}: expected CSV in UTF-8, found something else ({error})") from None
    header = [name.strip() for name in rows[0]] if rows else []
    _require_columns(path, header)
    labels: dict[str, dict[str, str]] = {}
    for number, fields in enumerate(rows[1:], start=2):
        if not fields:
            continue
        if len(fields) != len(header):
            raise RegimeError(f"{path}: row {number} has {len(fields)} fields, the header has {len(header)}")
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
            f"{path}: expected a column {FILE!r} (name or path of a trajectory) and one for each label, found {found}"
        )
    for name, count in Counter(header).items():
        if count > 1 or not name:
            raise RegimeError(f"{path}: column {name!r}: expected a name of its own")


def assign(labels: Mapping[str, Labels], files: Sequence[Path]) -> tuple[list[Labels], list[str]]:
    """Find the labels of each file.

    Parameters
    ----------
    labels : mapping
        By name or path of a trajectory.
    files : sequence of Path

    Returns
    -------
    list of labels
        One for each file; empty where there are none.
    list of str
        What is labelled, but is none of the files.

    Raises
    ------
    RegimeError
        A name fits several files, or two entries fit one.
    """
    found: list[Labels] = [{}] * len(files)
    by_file: dict[int, str] = {}
    strangers = []
    # A name means the files of that name, a path the one file.
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
    """Return where each value stands."""
    found: dict[Hashable, list[int]] = {}
    for number, value in enumerate(values):
        found.setdefault(value, []).append(number)
    return found


def describe_strangers(strangers: Sequence[str], files: Sequence[Path]) -> str:
    """Say in one line that there are labels for files which are not compared."""
    hint = nearest(Path(strangers[0]).name, [file.name for file in files])
    more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
    return f"there are labels for {strangers[0]!r}{more}, none of the files that are compared{hint}"
