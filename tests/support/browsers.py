"""Chromium without a window, for tests that look at pages."""

import os
import shutil
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

needs_browser = pytest.mark.skipif(
    (_CHROMIUM is None or find_spec("playwright") is None) and "REGIME_REQUIRE_READERS" not in os.environ,
    reason="no Chromium or no playwright is installed",
)


@contextmanager
def launched():
    """Yield a browser of Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def serious_findings(page, options=None):
    """Return what axe finds serious or critical: its rule, the element, and why."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options=options).response["violations"]
    return [
        (one["id"], node["html"][:200], node["failureSummary"][:300])
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"][:3]
    ]
