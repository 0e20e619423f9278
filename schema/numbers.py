"""Numbers that may be undefined."""

import math

UNKNOWN = "–"
"""What people read where a number is undefined."""


def finite(value: float) -> float | None:
    """Return a number that JSON can hold; None for an undefined one."""
    return value if math.isfinite(value) else None


def number(value: float | None, form: str = ".3f") -> str:
    """Return a number, or a dash where it is undefined."""
    return UNKNOWN if value is None or not math.isfinite(value) else format(value, form)
