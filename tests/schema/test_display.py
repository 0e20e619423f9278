"""What values show at a prompt and in notebooks."""

from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regime_proto.schema.display import Curve, Display, Displayed, Notes, Table, as_html, as_text

HOSTILE = "<script>alert(1)</script> & \"'><img src=x onerror=y>\x1b[31m\u202e"
TAGS = {
    "div", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "ul", "li", "svg", "line", "polyline",
    "span",
}  # fmt: skip


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that what is opened is closed."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], [], []
        self.feed(content)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.text.append(text)


def everything(text):
    table = Table(((text, "1.00"), ("", "10.00")), headings=(text, "ρ"), are_numbers=(False, True))
    curves = (Curve(text, [0.0, 0.5, 1.0]), Curve("other", [1.0, np.nan, 0.0]))
    return Display(text, (text, table, Table(((text, text),)), curves, Notes(text, (text, text))))


@given(st.text(max_size=30))
def test_texts_from_files_are_text(text):
    for name in (text, text + HOSTILE):
        read = Reader(as_html(everything(name)))
        assert set(read.tags) <= TAGS
        assert {attribute for attribute, _ in read.attributes}.isdisjoint({"src", "href", "onerror", "onclick"})
        # By title, paragraph, heading, two kinds of tables, curve, and notes with a count.
        assert "".join(read.text).count("\x1b") == 0
    assert [part for part in Reader(as_html(everything(HOSTILE))).text if "alert(1)" in part and r"\u202e" in part]


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=600))
def test_curves_stay_in_their_frame(values):
    read = Reader(as_html(Display("run", ((Curve("weights", values),),))))
    points = [pair.split(",") for name, value in read.attributes if name == "points" for pair in value.split()]
    assert all(0 <= float(x) <= 480 and 0 <= float(y) <= 64 for x, y in points)
    assert bool(points) == bool(np.isfinite(values).any())


def test_a_gap_parts_a_curve():
    read = Reader(as_html(Display("run", ((Curve("weights", [1.0, 1.0, np.nan, 0.0, 0.0]),),))))
    assert read.tags.count("polyline") == 2


def test_text_is_aligned_and_printable():
    table = Table((("a", "1.00", "x"), ("long", "10.00", "")), headings=("run", "ρ", "what"), are_numbers=(False, True))
    lines = as_text(Display(f"two\x1b[2J{HOSTILE}", ("", "said", table, Notes("warnings", ("one", "two"))))).split("\n")
    assert r"\x1b[2J" in lines[0]
    assert lines[1:] == [
        "said",
        "run       ρ  what",
        "a      1.00  x",
        "long  10.00  –",
        "warnings: one",
        "warnings: two",
    ]


def test_what_shows_nothing_says_so():
    with pytest.raises(NotImplementedError):
        repr(Displayed())
