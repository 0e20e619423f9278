"""Links names of Python, NumPy and xarray to their own manuals, without fetching the inventories of these."""

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.typing import ExtensionMetadata

PYTHON = "https://docs.python.org/3/library"
PAGES = {
    "functions": ("bool", "float", "int", "object", "type"),
    "stdtypes": ("bytes", "dict", "frozenset", "list", "range", "set", "str", "tuple"),
    "constants": ("None",),
    "exceptions": ("Exception", "ImportError", "KeyError", "OSError", "TypeError", "UserWarning", "ValueError"),
}
MODULES = ("collections.abc", "os", "pathlib", "typing")
GENERATED = {
    "numpy": "https://numpy.org/doc/stable/reference/generated",
    "xarray": "https://docs.xarray.dev/en/stable/generated",
}


def address(name: str) -> str | None:
    """Return the page about a name; None for a name of no known library."""
    for page, names in PAGES.items():
        if name in names:
            return f"{PYTHON}/{page}.html#{name}"
    module = name.rpartition(".")[0]
    if module in MODULES:
        return f"{PYTHON}/{module}.html#{name}"
    if module in GENERATED:
        return f"{GENERATED[module]}/{name}.html"
    return None


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    found = address(node["reftarget"]) if node.get("refdomain") == "py" else None
    if found is None:
        return None
    return nodes.reference("", "", content, internal=False, refuri=found)


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
