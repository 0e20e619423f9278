"""Words for numbers in messages."""


def counted(count: int, noun: str, form: str = "") -> str:
    """Return a number with its noun, ``1 sample``, ``2 samples``; `form` is how the number is written."""
    return f"{count:{form}} {noun}{'s' * (count != 1)}"
