"""Checks whether the curves of a run have settled by its end; only then does ρ show which settled first."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from regime_proto.analyzer import curves
from regime_proto.analyzer.flatness import FLAT, PART
from regime_proto.analyzer.readings import Reading
from regime_proto.analyzer.series import Series
from regime_proto.schema.types import Array

# A settled curve is below this height over at least the last part of the run.
HEIGHT = 0.5
LATE = 0.1
# A curve that does not stay below this height may be noise around a plateau.
LOW = 0.25
# With fewer changes, the percentiles that scale a curve are its extremes.
FEW = 20


@dataclass(frozen=True)
class Settled:
    """Whether the curves have settled by the end of the run, using whole windows and every weighting.

    None if it cannot be determined: the curve is constant, has few changes or is shorter than the smoothing window; it
    stays below a half but not below a quarter; or the weightings disagree.

    Parameters
    ----------
    weights : bool or None
        Whether the weight change has settled.
    patterns : bool or None
        Whether the pattern change has settled.
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
        Reading whose displayed curves must also stay low.
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

    It has settled if the normalised curve stays below a half over at least the last tenth of the run, and the change
    itself has decreased; noise around a constant height falls below a half too. The noise of single changes is averaged
    first.

    Parameters
    ----------
    values : (interval,) float64
    width : int
        Length of the moving average. Only whole windows are used, because padded ends would make every curve settle.
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
