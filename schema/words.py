"""Words for numbers and lists in messages."""

from collections.abc import Sequence

# So many names of a list are shown.
_SHOWN = 3


def counted(count: int, noun: str, form: str = "") -> str:
    """Return a number with its noun, ``1 sample``, ``2 samples``; `form` is how the number is written."""
    return f"{count:{form}} {noun}{'s' * (count != 1)}"


def few(names: Sequence[str]) -> str:
    """Return some names as one phrase, the first of them if they are many."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
