"""Numbers that may be undefined."""

import math


def finite(value: float) -> float | None:
    """Return a number that JSON can hold, None for one that is undefined."""
    return value if math.isfinite(value) else None
