"""Common types, and arguments that may be one name or several."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from regime_proto.schema.errors import RegimeError

Array = NDArray[Any]

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called with the amount that is done, and the total."""


def read_only(value: T) -> T:
    """Return a read-only view of an array; anything else, None for example, is returned unchanged.

    The given array stays as writable as it was: it may belong to a model in training, or to a cache.
    """
    if not isinstance(value, np.ndarray) or not value.flags.writeable:
        return value
    view = value.view()
    view.flags.writeable = False
    return cast(T, view)


def as_tuple(given: str | Iterable[str], name: str) -> tuple[str, ...]:
    """Return names or patterns as a tuple; a single text counts as one name, not as a sequence of letters.

    Parameters
    ----------
    given : str or iterable of str
    name : str
        The name of the argument, for error messages.

    Raises
    ------
    RegimeError
        The argument is neither a text nor several.
    """
    found = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
    if not all(isinstance(one, str) for one in found):
        raise RegimeError(f"{name} {given!r}: expected one text or several")
    return found
