"""Leaves out tests that import a framework, where PyTorch is not installed.

The core, the file adapters and the command line need no framework, and are tested without one on every Python.
"""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from folders import SUPPORT

FRAMEWORKS = frozenset({"jax", "keras", "optax", "sklearn", "torch", "transformers"})
INSTALLED = find_spec("torch") is not None


def pytest_ignore_collect(collection_path):
    """Ignore a test file that imports a framework, by itself or through what tests share."""
    if INSTALLED or collection_path.suffix != ".py":
        return None
    return bool(imported(collection_path) & FRAMEWORKS) or None


@cache
def imported(path):
    """Return the top-level names that a module imports at its start, and so do the shared modules that it imports."""
    found = set()
    for node in ast.parse(Path(path).read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    shared = [SUPPORT / f"{name}.py" for name in sorted(found)]
    return frozenset(found.union(*(imported(file) for file in shared if file.exists())))
