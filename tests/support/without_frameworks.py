"""Leaves out tests that need a framework, where PyTorch is not installed.

The core, the file adapters and the command line need no framework, and are tested without one on every Python.
"""

import ast
from functools import cache
from importlib.util import find_spec

from folders import SUPPORT

FRAMEWORKS = frozenset({"jax", "keras", "optax", "sklearn", "torch", "transformers"})
INSTALLED = find_spec("torch") is not None


def pytest_ignore_collect(collection_path):
    """Ignore a test file that imports a framework, by itself or through what tests share."""
    if INSTALLED or collection_path.suffix != ".py":
        return None
    return bool(imported(collection_path) & FRAMEWORKS) or None


def pytest_collection_modifyitems(items):
    """Leave out tests marked `torch`, and those that use a run of PyTorch, which `torch_runs` creates."""
    if not INSTALLED:
        items[:] = [item for item in items if not item.get_closest_marker("torch") and _has_fixtures(item)]


def _has_fixtures(item):
    return {*item.fixturenames} - {*item._fixtureinfo.name2fixturedefs} <= {"request"}


def imported(path):
    """Return the names that a module imports at its start, and those that the shared modules among them import."""
    found, rest = set(), [path]
    while rest:
        new = _imports(rest.pop()) - found
        found |= new
        rest += [file for name in new if (file := SUPPORT / f"{name}.py").exists()]
    return found


@cache
def _imports(path):
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # Examples train networks of PyTorch.
            found.add("torch" if node.module.startswith("regime_proto.examples") else node.module.split(".")[0])
    return found
