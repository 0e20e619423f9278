"""Tables in Markdown and LaTeX."""

import re
from dataclasses import dataclass

from regime_proto.schema.numbers import UNKNOWN
from regime_proto.schema.text import printable


@dataclass(frozen=True)
class Typed:
    """A table of unescaped text.

    Parameters
    ----------
    headings : tuple of str
    are_numbers : tuple of bool
        Whether each column is aligned to the right.
    rows : tuple of tuple of str
        An empty cell is an unknown value.
    below : tuple of str
        Sentences below the table.
    """

    headings: tuple[str, ...]
    are_numbers: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    below: tuple[str, ...] = ()


def markdown(table: Typed) -> str:
    """Return a table in GitHub's Markdown, with the sentences below it."""
    lines = [
        [_escaped(heading) for heading in table.headings],
        ["---:" if is_number else "---" for is_number in table.are_numbers],
        *([_escaped(cell or UNKNOWN) for cell in row] for row in table.rows),
    ]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return text + "".join(f"\n{_as_paragraph(_escaped(sentence))}\n" for sentence in table.below)


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|~&$#" else letter for letter in printable(text))


def _as_paragraph(text: str) -> str:
    """Return a line that Markdown does not treat as a list item, which would start with ``-``, ``+`` or ``1.``."""
    return re.sub(r"^(\d*)([-+.)])", r"\1\\\2", text)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    # At the start of a row, they would be an option of the line break before it.
    **{letter: f"{{{letter}}}" for letter in "[]*"},
    "|": r"\textbar{}",
    "<": "$<$",
    ">": "$>$",
    "ρ": r"$\rho$",
    "±": r"$\pm$",
    "–": "--",
    "−": "$-$",
    "→": r"$\to$",
}
_INDEXED = {r"AUC\_W": r"$\mathrm{AUC}_W$", r"AUC\_P": r"$\mathrm{AUC}_P$"}


def latex(table: Typed) -> str:
    """Return a LaTeX tabular for the package booktabs, with the sentences below a rule."""
    headings = [_heading(heading) for heading in table.headings]
    body = [[_in_latex(cell or UNKNOWN) for cell in row] for row in table.rows]
    below = [rf"\multicolumn{{{len(headings)}}}{{l}}{{{_in_latex(sentence)}}}" for sentence in table.below]
    lines = [
        "% \\usepackage{booktabs}",
        rf"\begin{{tabular}}{{{''.join('r' if is_number else 'l' for is_number in table.are_numbers)}}}",
        r"\toprule",
        rf"{' & '.join(headings)} \\",
        r"\midrule",
        *(rf"{' & '.join(cells)} \\" for cells in body),
        *([r"\midrule"] if below else []),
        *(rf"{sentence} \\" for sentence in below),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in printable(text))


def _heading(text: str) -> str:
    text = _in_latex(text)
    for plain, indexed in _INDEXED.items():
        text = text.replace(plain, indexed)
    return text
