"""Types that are written often, and arguments that may be one name or several."""

from collections.abc import Callable, Iterable
from typing import Any

from numpy.typing import NDArray

from regime_proto.schema.errors import RegimeError

Array = NDArray[Any]

Progress = Callable[[int, int], None]
"""Called with how much is done, and the total."""


def as_tuple(given: str | Iterable[str], name: str) -> tuple[str, ...]:
    """Return names or patterns as a tuple; a single one is no sequence of letters, which nobody means.

    Parameters
    ----------
    given : str or iterable of str
    name : str
        Of the argument, for the message of an error.

    Raises
    ------
    RegimeError
        It is something else.
    """
    found = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
    if not all(isinstance(one, str) for one in found):
        raise RegimeError(f"{name} {given!r}: expected a text, or several")
    return found
