"""Writes the parameters of a long signature as lines, not as a list of definitions that defines nothing.

A dataclass that only the package constructs has no signature; its fields are its attributes.

Sphinx writes ``--`` between a parameter and its text, and leaves the dash to `smartquotes`, which would also change the
options of commands.
"""

import dataclasses
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

# Dataclasses that users construct.
CONSTRUCTED = re.compile(r"\.(Input|Label|OutputUnits|Payload|Probe|Program|Quantity|Reading|Settling|Tensor)$")

# The heading of the fields of a class without a signature.
FIELDS = re.compile(
    r'(<dl class="py class">\s*<dt (?:(?!</dt>|sig-paren).)*</dt>(?:(?!<dl class="py).)*?<dt class="field-[a-z]+">)'
    r"Parameters(?=<span)",
    re.DOTALL,
)


def signature_of(
    app: Sphinx, what: str, name: str, one: Any, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    if dataclasses.is_dataclass(one) and not CONSTRUCTED.search(name):
        return "", None
    # Sphinx cannot parse the default of a field with a factory, and would show the whole signature as text.
    return signature and signature.replace("<factory>", "..."), returns


def as_lines(signature: re.Match[str]) -> str:
    return re.sub("|".join(TAGS), lambda tag: TAGS[tag.group()], signature.group())


def rewrite(app: Sphinx, name: str, template: str, context: dict[str, Any], tree: object) -> None:
    if "body" in context:
        body = re.sub(r'<dt class="sig .*?</dt>', as_lines, context["body"], flags=re.DOTALL)
        body = FIELDS.sub(r"\1Attributes", body)
        context["body"] = re.sub(r'(<li><p><strong>|<dd class="field-[a-z]+"><p>)(.*?) -- ', r"\1\2 – ", body)


def setup(app: Sphinx) -> ExtensionMetadata:
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-signature", signature_of)
    app.connect("html-page-context", rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
