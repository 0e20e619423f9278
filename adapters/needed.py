"""Imports of what needs a framework: a missing one is an error in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from regime_proto.schema.errors import RegimeError


@contextmanager
def needed(to: str, install: str) -> Iterator[None]:
    """Say which library is missing `to` do something, and how to install it, where an import fails."""
    try:
        yield
    except ImportError as error:
        raise RegimeError(f"{to} needs {error.name}: {install}") from None
