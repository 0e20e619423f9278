"""Makes links of what docstrings say about documents: ``docs/protocol.md, section 4``, ``FORMAT.md``."""

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

PROTOCOL = "protocol"
# An equation has the number of its section.
_PART = re.compile(r"docs/protocol\.md,\s+(?P<words>(?:sections?|Eq\.)\s+(?P<number>\d+)(?:\s+(?:to|and)\s+\d+)?)")
_FORMAT = re.compile(r"(?:schema/)?FORMAT\.md")


def with_links(text: str) -> str:
    """Return reStructuredText in which documents of the repository are links to pages of the manual."""

    def part(found: re.Match[str]) -> str:
        words = " ".join(found["words"].split())
        return f":ref:`the protocol, {words} <{PROTOCOL}-{found['number']}>`"

    return _FORMAT.sub(":doc:`the format </format>`", _PART.sub(part, text))


def rewrite(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = with_links("\n".join(lines)).split("\n")


def name_sections(app: Sphinx, doctree: nodes.document) -> None:
    """Give the numbered sections of the protocol the names that the links use."""
    if app.env.docname != PROTOCOL:
        return
    anchors = app.env.domaindata["std"]["anonlabels"]
    for section in doctree.findall(nodes.section):
        title = section.next_node(nodes.title)
        number = re.match(r"\d+", "" if title is None else title.astext())
        if number:
            anchors[f"{PROTOCOL}-{number[0]}"] = (PROTOCOL, section["ids"][0])


def setup(app: Sphinx) -> ExtensionMetadata:
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", rewrite)
    app.connect("doctree-read", name_sections)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
