"""The built manual, `make docs`: its pages, their links and what they load."""

import os
import re
from html import unescape
from urllib.parse import unquote, urlsplit

import pytest
from folders import ROOT

SOURCES = ROOT / "docs"
SITE = ROOT / "build/docs"
BUILT = SITE / ".built"


def require_built():
    """Skip at home where the manual is not built, or not since it changed; in CI that is a failure."""
    changed = [path for path in SOURCES.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    if BUILT.exists() and BUILT.stat().st_mtime >= max(path.stat().st_mtime for path in changed):
        return
    reason = f"{BUILT} is missing or older than docs/: run make docs"
    if "REGIME_REQUIRE_READERS" in os.environ:
        pytest.fail(reason)
    pytest.skip(reason)


def source_pages():
    """Return the names of the pages that Sphinx makes: those of docs/ that no other page includes as a part."""
    paths = (path for suffix in ("md", "ipynb", "rst") for path in SOURCES.rglob(f"*.{suffix}"))
    names = {str(path.relative_to(SOURCES).with_suffix("")) for path in paths}
    return sorted(names - {"runs/sources"})


def site_pages():
    # The theme leaves a template among its files.
    return sorted(path for path in SITE.rglob("*.html") if SITE / "_static" not in path.parents)


def without_scripts(page):
    return re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)


def links(page):
    """Return what the elements of a page lead to or load, as pairs of element and address."""
    found = re.findall(r'<([a-z]+)\b[^>]*?\s(?:href|src|data|poster|action)="([^"]*)"', page)
    return [(element, unescape(address)) for element, address in found]


def anchors(page):
    return {unescape(name) for name in re.findall(r'\s(?:id|name)="([^"]+)"', page)} | {""}


def target(path, address):
    """Return the file and the anchor that a local address means, None for one elsewhere."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return None
    file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    return file, unquote(parts.fragment)
