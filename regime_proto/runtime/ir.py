"""The graph library, ``onnx_ir``, imported without SymPy.

onnx_ir needs SymPy only to calculate with symbolic lengths, but imports it immediately: half a second, as long as the
rest of a short command. Imported through this module, it loads SymPy on first use.
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
    """A stand-in for a module that is imported on first use."""

    def __getattr__(self, name: str) -> Any:
        _withdraw(self)
        return getattr(importlib.import_module(self.__name__), name)


def _withdraw(module: _Deferred) -> None:
    if sys.modules.get(module.__name__) is module:
        del sys.modules[module.__name__]


@contextmanager
def deferred(*names: str) -> Iterator[None]:
    """Give imports in this context stand-ins for modules not imported yet; the stand-ins are removed afterwards."""
    modules = [_Deferred(name) for name in names if name not in sys.modules]
    sys.modules.update({module.__name__: module for module in modules})
    try:
        yield
    finally:
        for module in modules:
            _withdraw(module)


# The second module builds a table of the first one's functions on import.
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
