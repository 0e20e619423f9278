"""Libraries of the extra `sources`, which save checkpoints of their own."""

import importlib
import os
import warnings
from functools import cache

import pytest


def needed(name):
    """Import a library. Where it is missing its tests are skipped, or fail if REGIME_REQUIRE_LIBRARIES is set."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if os.environ.get("REGIME_REQUIRE_LIBRARIES"):
            raise
        return pytest.skip(f"{name} is not installed", allow_module_level=True)


@cache
def load_exporter():
    """Let jax2onnx import its parts, which takes ten seconds once in a process."""
    plugins = importlib.import_module("jax2onnx.plugins.plugin_system")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plugins.import_all_plugins()
