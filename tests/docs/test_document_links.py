"""Docstrings name documents of the repository; in the manual these are links."""

import os
import re

import pytest
from folders import ROOT

# The libraries of the manual are installed by `make docs`; where all checks are required, a missing one fails.
if "REGIME_REQUIRE_READERS" not in os.environ:
    pytest.importorskip("sphinx", reason="make docs has not been run")

from document_links import with_links


def test_parts_of_the_protocol_and_the_format_become_links():
    text = "Analyze (docs/protocol.md, sections 2 to 5). See docs/protocol.md,\n    Eq. 3; as in FORMAT.md."
    assert with_links(text) == (
        "Analyze (:ref:`the protocol, sections 2 to 5 <protocol-2>`). See :ref:`the protocol, Eq. 3 <protocol-3>`; "
        "as in :doc:`the format </format>`."
    )


def test_every_part_that_a_docstring_names_exists():
    sections = set(re.findall(r"^## (\d+)\. ", (ROOT / "docs/protocol.md").read_text(encoding="utf-8"), re.MULTILINE))
    named = set()
    for folder in ("regime_proto", "schema", "cli", "adapters"):
        for path in (ROOT / folder).rglob("*.py"):
            named |= set(re.findall(r"<protocol-(\d+)>", with_links(path.read_text(encoding="utf-8"))))
    assert len(named) >= 5
    assert named <= sections
