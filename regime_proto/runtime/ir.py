"""The library of graphs, ``onnx_ir``, imported without SymPy.

The library needs SymPy only to calculate with lengths that are expressions, but imports it at once: half a second, as
long as the rest of a short command. Imported through this module, it gets SymPy when it uses something of it.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

__all__ = [
    "InPlacePass",
    "InlinePass",
    "LiftConstantsToInitializersPass",
    "LiftSubgraphInitializersToMainGraphPass",
    "PassResult",
    "PostconditionError",
    "PreconditionError",
    "RemoveInitializersFromInputsPass",
    "RemoveUnusedNodesPass",
    "ShapeInferencePass",
    "TopologicalSortPass",
    "ir",
]


class _Deferred(ModuleType):
    """Stands for a module that is imported when something of it is used."""

    def __getattr__(self, name: str) -> Any:
        _withdraw(self)
        return getattr(importlib.import_module(self.__name__), name)


def _withdraw(module: _Deferred) -> None:
    if sys.modules.get(module.__name__) is module:
        del sys.modules[module.__name__]


@contextmanager
def deferred(*names: str) -> Iterator[None]:
    """Let what is imported meanwhile get stand-ins for modules that are not imported yet; they go afterwards."""
    modules = [_Deferred(name) for name in names if name not in sys.modules]
    sys.modules.update({module.__name__: module for module in modules})
    try:
        yield
    finally:
        for module in modules:
            _withdraw(module)


# The second makes a table of functions of the first.
with deferred("sympy", "onnx_ir._symbolic_shapes"):
    import onnx_ir as ir
    from onnx_ir.passes import InPlacePass, PassResult, PostconditionError, PreconditionError
    from onnx_ir.passes.common import (
        InlinePass,
        LiftConstantsToInitializersPass,
        LiftSubgraphInitializersToMainGraphPass,
        RemoveInitializersFromInputsPass,
        RemoveUnusedNodesPass,
        ShapeInferencePass,
        TopologicalSortPass,
    )
