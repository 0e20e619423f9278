"""Writes the tables of `docs/paper.md` from the results beside it, between their marks."""

import re

from folders import ROOT

from regime_proto.examples.paper.pictures import draw_study
from regime_proto.examples.paper.rows import ROWS
from regime_proto.examples.paper.table import by_batch_size, lines, nearest, read_outcomes, typed
from regime_proto.report.typeset import markdown

PAGE, FOLDER = ROOT / "docs/paper.md", ROOT / "docs/paper"


def found():
    """Return the lines of all results."""
    return lines(read_outcomes([FOLDER]))


def tables():
    """Return each table of the page by the name in its mark."""
    every = found()
    default = {row.name: row.batch_size for row in ROWS}
    plain = [line for line in every if line.is_plain]
    of_rows = [
        line
        for line in every
        if not line.is_varied
        and (not line.is_plain or (line.outcomes[0].settings.batch_size == default[line.row.name]
             and line.outcomes[0].settings.momentum == line.row.momentum))
    ]  # fmt: skip
    return {
        "rows": markdown(typed(of_rows)),
        "study": markdown(by_batch_size(plain)),
        "nearest": markdown(nearest([line for line in every if line.outcomes[0].settings.steps is None])),
        "others": markdown(typed([line for line in every if line.is_varied])),
    }


def with_tables(text):
    """Return the page with its tables as they are now."""
    for name, table in tables().items():
        marks = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
        assert all(text.count(mark) == 1 for mark in marks), name
        text = re.sub(f"{marks[0]}.*?{marks[1]}", lambda _, new=f"{marks[0]}{table}{marks[1]}": new, text, flags=re.S)
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    draw_study(found(), FOLDER / "study.png")
