"""Reports a missing framework as an error in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from regime_proto.schema.errors import RegimeError


@contextmanager
def needed(to: str, install: str) -> Iterator[None]:
    """Turn a failed import into an error that names the missing library, its purpose `to`, and the installation."""
    try:
        yield
    except ImportError as error:
        raise RegimeError(f"{to} needs {error.name}; {install}") from None
