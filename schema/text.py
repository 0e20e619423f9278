"""Makes text from files and file names safe for every output, so that it is shown as text and never interpreted.

Every kind of output escapes in one place: terminals and pages in `printable`, with their own markup turned off or
escaped; CSV in `csv_cell`; Markdown and LaTeX in `regime_proto.report.typeset`; figures in `regime_proto.report.names`.
JSON needs no further escaping.
"""

import re

# Control characters drive a terminal. Marks of direction change the order in which text is shown. Halves of a character
# cannot be encoded; file names that are not UTF-8 hold them (PEP 383).
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# Text that spreadsheets treat as a formula; a number may be negative.
_FORMULA = re.compile(
    r"[=+@\t\r\uff1d\uff0b\uff20\uff0d]|-(?!([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?$)", re.IGNORECASE
)


def printable(text: str, *, keep: str = "") -> str:
    r"""Return a text without hidden characters: control characters and the like become ``\x1b``, ``\u202e``.

    Parameters
    ----------
    text : str
    keep : str
        Characters that are not changed.
    """
    return _HIDDEN.sub(lambda found: found[0] if found[0] in keep else _spelled(found[0]), text)


def _spelled(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def csv_cell(value: object) -> object:
    """Return the content of a CSV cell: text that a spreadsheet would run as a formula gets a leading apostrophe.

    Numbers are unchanged, and so are line breaks and tabs, which CSV quotes.
    """
    if not isinstance(value, str):
        return value
    shown = printable(value, keep="\t\n\r")
    return f"'{shown}" if _FORMULA.match(shown) else shown
