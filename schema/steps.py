"""Ranges of steps that users specify."""

import math
import re

from regime_proto.schema.errors import RegimeError


def parse_steps(text: str) -> tuple[float, float]:
    """Return the bounds of ``A:B``; either may be left out.

    Raises
    ------
    RegimeError
        `text` has a different form, or A > B.
    """
    match = re.fullmatch(r"(-?\d+)?:(-?\d+)?", text.strip())
    if not match:
        raise RegimeError(f"--steps {text!r}: expected A:B with whole numbers, for example 100:500 or 100:")
    first = -math.inf if match[1] is None else int(match[1])
    last = math.inf if match[2] is None else int(match[2])
    if first > last:
        raise RegimeError(f"--steps {text!r}: the first step is after the last")
    return first, last
