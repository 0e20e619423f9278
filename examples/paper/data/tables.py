"""Reads lines, and tables with one line per sample."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from regime_proto.schema.errors import RegimeError

# Most digits of a label.
_DIGITS = 9


def text_of(path: Path) -> str:
    """Return the text of a file in UTF-8.

    Raises
    ------
    RegimeError
        It is missing, or has a different encoding.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RegimeError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise RegimeError(f"{path}: byte {error.start} is not UTF-8, in which the file is expected") from None


def lines_of(path: Path) -> list[str]:
    """Return the non-blank lines of a file.

    Raises
    ------
    RegimeError
        As in `text_of`; or there are no such lines.
    """
    # str.splitlines would also split at other characters, which occur in texts.
    lines = [line for line in text_of(path).split("\n") if line.strip()]
    if not lines:
        raise RegimeError(f"{path}: is empty")
    return [line.rstrip("\r") for line in lines]


def quoted_rows(path: Path, columns: int) -> Iterator[list[str]]:
    """Yield the rows of a comma-separated file.

    Raises
    ------
    RegimeError
        As in `lines_of`; or a row has a different number of columns.
    """
    rows = csv.reader(lines_of(path), strict=True)
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise RegimeError(f"{path}: line {rows.line_num}: {error}; it is damaged or cut off") from None
        if row is None:
            return
        yield _checked(row, columns, path, rows.line_num)


def tabbed_rows(path: Path, header: Sequence[str]) -> Iterator[list[str]]:
    """Yield the rows of a tab-separated file after its header; fields are not quoted.

    Raises
    ------
    RegimeError
        As in `lines_of`; or the header or the number of columns of a row is different.
    """
    first, *rows = lines_of(path)
    if first.split("\t") != list(header):
        raise RegimeError(f"{path}: the first line is {first[:60]!r}, expected {chr(9).join(header)!r}")
    for at, row in enumerate(rows, start=2):
        yield _checked(row.split("\t"), len(header), path, at)


def _checked(row: list[str], columns: int, path: Path, line: int) -> list[str]:
    if len(row) != columns:
        raise RegimeError(f"{path}: line {line} has {len(row)} columns, expected {columns}; it is damaged or cut off")
    return row


def number_of(text: str, path: Path) -> int:
    """Return a whole number.

    Raises
    ------
    RegimeError
        It is not a whole number.
    """
    if not text.strip().isdecimal() or len(text) > _DIGITS:
        raise RegimeError(f"{path}: a label is {text[:20]!r}, expected a number")
    return int(text)
