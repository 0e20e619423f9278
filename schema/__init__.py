"""The HDF5 trajectory file: its layout, its reader, its writer and its validator. Knows nothing of what is above it."""

from regime_proto.schema.validation.guard import validate
from regime_proto.schema.validation.rules import Problem

__all__ = ["Problem", "validate"]
