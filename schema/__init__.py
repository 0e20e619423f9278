"""The HDF5 trajectory file: layout, reader, writer and validator. Independent of the packages that use it."""

import importlib
from typing import TYPE_CHECKING, Any

from regime_proto.schema.validation.guard import validate
from regime_proto.schema.validation.rules import Problem

if TYPE_CHECKING:
    from regime_proto.schema.notes import read_notes

__all__ = ["Problem", "read_notes", "validate"]


def __getattr__(name: str) -> Any:
    # The help of the command line imports this package, and must not wait for HDF5.
    if name == "read_notes":
        return importlib.import_module("regime_proto.schema.notes").read_notes
    raise AttributeError(f"module 'regime_proto.schema' has no attribute {name!r}")
