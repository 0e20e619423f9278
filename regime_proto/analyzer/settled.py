"""Whether the curves of a run have settled by its end: only then does ρ say which did so first."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from regime_proto.analyzer import curves
from regime_proto.analyzer.flatness import FLAT, PART
from regime_proto.analyzer.readings import Reading
from regime_proto.analyzer.series import Series
from regime_proto.schema.types import Array

# A settled curve is below this height over the last part of the run at least.
HEIGHT = 0.5
LATE = 0.1
# One that does not stay below this height may be noise about a plateau.
LOW = 0.25
# Below this many changes the percentiles that scale a curve are its extremes.
FEW = 20


@dataclass(frozen=True)
class Settled:
    """Whether the curves have settled by the end of the run, on whole windows and in every weighting.

    Parameters
    ----------
    weights, patterns : bool or None
        None where it cannot be told: the curve is constant, of few changes or shorter than the smoothing window, it
        stays below a half but not below a quarter, or the weightings disagree.
    """

    weights: bool | None = None
    patterns: bool | None = None

    @property
    def both(self) -> bool:
        """Whether both curves are known to have settled."""
        return bool(self.weights and self.patterns)


def settled(series: Series, width: int, reading: Reading) -> Settled:
    """Return whether the curves of a run have settled by its end.

    Parameters
    ----------
    series : Series
    width : int
        Length of the moving average.
    reading : Reading
        Whose curves also have to stay low as they are shown.
    """
    return Settled(
        weights=_in_every_weighting(series.weights, reading.weights, width),
        patterns=_in_every_weighting(series.patterns, reading.patterns, width),
    )


def _in_every_weighting(weightings: Mapping[str, Array], shown: str, width: int) -> bool | None:
    found = {has_settled(values, width) for values in weightings.values()}
    if found == {True}:
        curve = curves.normalise(curves.smooth(weightings[shown], width, ends="valid"), clip=True)
        is_below = {height: curves.settled_from(curve, height, at_least=width) is not None for height in (HEIGHT, LOW)}
        return (is_below[LOW] or None) if is_below[HEIGHT] else False
    return found.pop() if len(found) == 1 else None


def has_settled(values: Array, width: int) -> bool | None:
    """Return whether a raw series has settled by its end.

    It has where the normalised curve stays below a half over the last tenth of the run at least, and the change itself
    has fallen: noise about a constant height falls below a half too. The noise of single changes is averaged first.

    Parameters
    ----------
    values : (interval,) float64
    width : int
        Length of the moving average; padded ends would make every curve settle, so only whole windows count.
    """
    if curves.is_constant(values) or len(values) < FEW:
        return None
    smoothed = curves.smooth(values, max(width, round(PART * len(values))), ends="valid")
    if len(smoothed) < max(2, width):
        return None
    normalised = curves.normalise(smoothed, clip=True)
    if not np.isfinite(normalised).all():
        return None
    late = max(width, round(LATE * len(smoothed)))
    has_fallen = bool(smoothed[-1] <= FLAT * smoothed.max())
    return has_fallen and curves.settled_from(normalised, HEIGHT, at_least=late) is not None
