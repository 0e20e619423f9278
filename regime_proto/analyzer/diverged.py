"""Detects whether a run broke: NaN or Inf in weights or activations, or a weight change that explodes."""

import numpy as np
import xarray as xr

from regime_proto.analyzer.series import Series, by_blocks
from regime_proto.analyzer.settled import LATE
from regime_proto.schema.types import Array

# A rising learning rate does not explain a largest Δw, late in the run, of this many medians.
EXPLODED = 100
# With fewer changes, the median is one of the extremes or next to one.
_FEW = 5


def describe_divergence(trajectory: xr.Dataset, series: Series, weighting: str) -> str | None:
    """Describe in sentences that a run broke, and from which step; None if there is no sign of it.

    Parameters
    ----------
    trajectory : xarray.Dataset
    series : Series
        Series of its valid part.
    weighting : str
        Weighting of Δw, one of `readings.WEIGHT_WEIGHTINGS`.
    """
    kind = str(trajectory.attrs["step_kind"])
    said = [_broken(trajectory, kind), _explosion(series, series.weights[weighting], kind)]
    return " ".join(sentence for sentence in said if sentence) or None


def _broken(trajectory: xr.Dataset, kind: str) -> str:
    broken = _corrupted(trajectory)
    if not len(broken):
        return ""
    steps = trajectory["step"].to_numpy()
    last_valid = np.flatnonzero(trajectory["valid"].to_numpy() != 0)[-1]
    tail = broken[broken > last_valid]
    if not len(tail):
        hold, are = ("holds", "is") if len(broken) == 1 else ("hold", "are")
        return f"{len(broken)} of {len(steps)} observations {hold} NaN or Inf and {are} left out of the curves."
    return (
        f"The run broke: from {kind} {steps[tail[0]]} to the end, weights or activations hold NaN or Inf. All results "
        f"are for the part up to {kind} {steps[last_valid]}."
    )


def _corrupted(trajectory: xr.Dataset) -> Array:
    """Return the indices of observations that hold NaN or Inf; those after a gap in a recording are not corrupted."""
    invalid = np.flatnonzero(trajectory["valid"].to_numpy() == 0)
    inner = invalid[(invalid > 0) & (invalid < len(trajectory["valid"]) - 1)]
    changes = trajectory["weight_delta_l1"]
    unknown = by_blocks(changes, inner, lambda rows: np.asarray(~np.isfinite(rows).any(axis=1)))
    # The change from a NaN state would be NaN as well.
    known = by_blocks(changes, inner + 1, lambda rows: np.asarray(np.isfinite(rows).all(axis=1)))
    return np.setdiff1d(invalid, inner[unknown & known])


def _explosion(series: Series, weights: Array, kind: str) -> str:
    late = max(1, round(LATE * len(weights)))
    largest, median = int(np.argmax(weights)), float(np.median(weights))
    if len(weights) < _FEW or largest < len(weights) - late or weights[largest] < EXPLODED * median:
        return ""
    # Weights that stood still most of the time have no scale to grow from.
    if median <= 0:
        return ""
    return (
        f"Δw explodes at the end: at {kind} {series.steps[largest]}, it is {weights[largest] / median:,.0f} times its "
        "median, as in a diverging run."
    )
