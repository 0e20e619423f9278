"""Readings: combinations of choices that the protocol leaves open, some of which are named as presets."""

import itertools
from dataclasses import dataclass

from regime_proto.schema.errors import RegimeError

ENDS = ("same", "valid")
WEIGHT_WEIGHTINGS = ("parameter", "tensor")
PATTERN_WEIGHTINGS = ("layer", "unit")


@dataclass(frozen=True)
class Reading:
    """One way to compute the curves of a trajectory.

    Parameters
    ----------
    ends : {"same", "valid"}
        How the moving average treats the ends.
    clip : bool
        Whether normalised curves are clipped to [0, 1].
    weights : {"parameter", "tensor"}
        What has equal weight in Δw.
    patterns : {"layer", "unit"}
        What has equal weight in Δa.
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
        The preset does not exist.
    """
    if name not in PRESETS:
        raise RegimeError(f"preset {name!r}: expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
