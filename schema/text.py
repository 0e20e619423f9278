"""Text from files and names of files, made safe for whatever shows it: it is text there, and nothing else.

Every kind of output escapes in one place: terminals and pages by `printable`, with their own markup off or escaped;
CSV by `csv_cell`; Markdown and LaTeX in `regime_proto.report.typeset`, figures in `regime_proto.report.names`. JSON
escapes by itself.
"""

import re

# Control characters drive a terminal, the marks of direction reorder what is read, halves of a character cannot be
# encoded: names of files that are not UTF-8 hold such (PEP 383).
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# What spreadsheets take for a formula; a number may be negative.
_FORMULA = re.compile(
    r"[=+@\t\r\uff1d\uff0b\uff20\uff0d]|-(?!([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?$)", re.IGNORECASE
)


def printable(text: str, *, keep: str = "") -> str:
    r"""Return a text in which nothing is hidden: control characters and their like become ``\x1b``, ``\u202e``.

    Parameters
    ----------
    text : str
    keep : str
        Characters that stay as they are.
    """
    return _HIDDEN.sub(lambda found: found[0] if found[0] in keep else _spelled(found[0]), text)


def _spelled(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def csv_cell(value: object) -> object:
    """Return what stands in a cell of CSV: text that a spreadsheet would run as a formula begins with an apostrophe.

    Numbers are left as they are, and so are line breaks and tabs, which CSV quotes.
    """
    if not isinstance(value, str):
        return value
    shown = printable(value, keep="\t\n\r")
    return f"'{shown}" if _FORMULA.match(shown) else shown
