"""Libraries of the extra `sources`, which save checkpoints of their own."""

import importlib
import os

import pytest


def needed(name):
    """Import a library. Where it is missing its tests are skipped, or fail if REGIME_REQUIRE_LIBRARIES is set."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if os.environ.get("REGIME_REQUIRE_LIBRARIES"):
            raise
        return pytest.skip(f"{name} is not installed", allow_module_level=True)
