"""Types that are written often, and arguments that may be one name or several."""

from collections.abc import Callable, Iterable
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

Progress = Callable[[int, int], None]
"""Called with how much is done, and the total."""


def as_tuple(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return names or patterns as a tuple; a single one is no sequence of letters, which nobody means."""
    return (given,) if isinstance(given, str) else tuple(given)
