"""Writes the parameters of a long signature as lines, not as a list of definitions that defines nothing.

Sphinx writes ``--`` between a parameter and its text, and leaves the dash to `smartquotes`, which would also change the
options of commands.
"""

import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

TAGS = {
    "<dl>": '<span class="sig-lines">',
    "</dl>": "</span>",
    "<dd>": '<span class="sig-line">',
    "</dd>": "</span>",
}


def as_lines(signature: re.Match[str]) -> str:
    return re.sub("|".join(TAGS), lambda tag: TAGS[tag.group()], signature.group())


def rewrite(app: Sphinx, name: str, template: str, context: dict[str, Any], tree: object) -> None:
    if "body" in context:
        body = re.sub(r'<dt class="sig .*?</dt>', as_lines, context["body"], flags=re.DOTALL)
        context["body"] = re.sub(r'(<li><p><strong>|<dd class="field-[a-z]+"><p>)(.*?) -- ', r"\1\2 – ", body)


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("html-page-context", rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
