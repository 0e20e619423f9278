"""Words for numbers and lists in messages."""

from collections.abc import Sequence

# The number of names of a list that are shown.
_SHOWN = 3


def counted(count: int, noun: str, form: str = "") -> str:
    """Return a number with its noun, ``1 sample``, ``2 samples``; `form` is the format of the number."""
    return f"{count:{form}} {noun}{'s' * (count != 1)}"


def few(names: Sequence[str]) -> str:
    """Return names as one phrase; only the first ones if there are many."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
