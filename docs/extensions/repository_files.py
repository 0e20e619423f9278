"""Makes files of the repository pages of the manual, and links to such files links to these pages."""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent

PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "THIRD_PARTY_LICENSES.md": "third_party_licences.md",
    "cli/REFERENCE.md": "commands.md",
    "schema/FORMAT.md": "format.md",
    "tests/benchmarks/RESULTS.md": "measurements.md",
}

MARK = re.compile(r"<!-- file: (\S+) -->\n?")
LINK = re.compile(r"(?<=\]\()(?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?(?=\))")


def page_text(page: Path, text: str) -> str:
    """Return the text of a page with the file that it stands for, and with links as the manual has them.

    Parameters
    ----------
    page : Path
        The file of the page.
    text : str
        Its content.
    """
    found = MARK.search(text)
    if found is None:
        return with_links(text, page, page)
    file = ROOT / found[1]
    return with_links(file.read_text(encoding="utf-8"), file, page)


def with_links(text: str, file: Path, page: Path) -> str:
    def replace(link: re.Match[str]) -> str:
        meant = (file.parent / link["path"]).resolve()
        if not meant.exists() or ROOT not in meant.parents:
            return link[0]
        name = meant.relative_to(ROOT).as_posix()
        leads_to = DOCS / PAGES[name] if name in PAGES else meant
        return os.path.relpath(leads_to, page.parent) + (link["anchor"] or "")

    return LINK.sub(replace, text)


def rewrite(app: Sphinx, docname: str, source: list[str]) -> None:
    page = Path(app.env.doc2path(docname))
    if page.suffix != ".md":
        return
    if found := MARK.search(source[0]):
        app.env.note_dependency(str(ROOT / found[1]), docname=docname)
    source[0] = page_text(page, source[0])


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("source-read", rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
