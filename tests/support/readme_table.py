"""Writes the table of sources into the README, between its two marks."""

from folders import ROOT

from regime_proto.adapters.sources_table import render, versions_in

MARKS = "<!-- sources: make readme -->\n", "<!-- /sources -->\n"


def with_table(text):
    """Return the README with the table as it is now."""
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}{render(versions_in(ROOT / 'constraints.txt'))}{MARKS[1]}{after}"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
