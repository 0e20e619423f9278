"""The HDF5 trajectory file: its layout, its reader, its writer and its validator. Knows nothing of what is above it."""

import importlib
from typing import TYPE_CHECKING, Any

from regime_proto.schema.validation.guard import validate
from regime_proto.schema.validation.rules import Problem

if TYPE_CHECKING:
    from regime_proto.schema.notes import read_notes

__all__ = ["Problem", "read_notes", "validate"]


def __getattr__(name: str) -> Any:
    # The command's help imports this package, and does not wait for HDF5.
    if name == "read_notes":
        return importlib.import_module("regime_proto.schema.notes").read_notes
    raise AttributeError(f"module 'regime_proto.schema' has no attribute {name!r}")
