"""Writes docs/runs/sources.md, the table of sources that the manual includes."""

from folders import ROOT

from regime_proto.adapters.sources_table import render, versions_in

PATH = ROOT / "docs/runs/sources.md"


def sources_page():
    """Return the table as it is now."""
    return render(versions_in(ROOT / "constraints.txt"))


if __name__ == "__main__":
    PATH.write_text(sources_page(), encoding="utf-8")
