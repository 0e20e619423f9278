"""Readings: the choices the protocol leaves open, and the presets that name some of them."""

import itertools
from dataclasses import dataclass

from regime_proto.schema.errors import RegimeError

ENDS = ("same", "valid")
WEIGHT_WEIGHTINGS = ("parameter", "tensor")
PATTERN_WEIGHTINGS = ("layer", "unit")


@dataclass(frozen=True)
class Reading:
    """One way to read the same trajectory.

    Parameters
    ----------
    ends : {"same", "valid"}
        What the moving average does at the ends.
    clip : bool
        Whether normalised curves are clipped to [0, 1].
    weights : {"parameter", "tensor"}
        What weighs the same in Δw.
    patterns : {"layer", "unit"}
        What weighs the same in Δa.
    """

    ends: str = "same"
    clip: bool = True
    weights: str = "parameter"
    patterns: str = "layer"


PRESETS = {"paper": Reading(), "strict": Reading(ends="valid")}

ALL_READINGS = tuple(
    Reading(*choice) for choice in itertools.product(ENDS, (True, False), WEIGHT_WEIGHTINGS, PATTERN_WEIGHTINGS)
)


def preset(name: str) -> Reading:
    """Return the reading of a preset.

    Raises
    ------
    RegimeError
        There is no such preset.
    """
    if name not in PRESETS:
        raise RegimeError(f"preset {name!r}: expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
