"""Writes the table of moved import paths into docs/deprecations.md."""

from folders import ROOT

from regime_proto.moved import MODULES

PATH = ROOT / "docs/deprecations.md"
_BEGIN, _END = "<!-- begin -->\n", "<!-- end -->\n"


def deprecations_page():
    """Return the page with the table as it is now."""
    before, rest = PATH.read_text(encoding="utf-8").split(_BEGIN)
    after = rest.split(_END)[1]
    rows = [f"| `regime_proto.{old}` | `regime_proto.{new}` |\n" for old, new in sorted(MODULES.items())]
    return f"{before}{_BEGIN}| deprecated | use instead |\n|---|---|\n{''.join(rows)}{_END}{after}"


if __name__ == "__main__":
    PATH.write_text(deprecations_page(), encoding="utf-8")
