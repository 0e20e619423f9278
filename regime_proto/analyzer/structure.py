"""The share of the output change up to the last state that is due to moving patterns, and when it becomes small."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from regime_proto.analyzer.derived import EACH, START, shares_of
from regime_proto.schema.layout import QUANTITY_PREFIX
from regime_proto.schema.numbers import finite
from regime_proto.schema.types import Array

LEVEL = 0.05
"""Below this share, the rest of the change is attributed to weights alone; the threshold is ours."""
_ORDER = f"{QUANTITY_PREFIX}structural_order_last"
_LAST = f"{QUANTITY_PREFIX}structural_share_last"


@dataclass(frozen=True)
class Structure:
    """The structural share of the change of the outputs from each observation to the last state.

    Parameters
    ----------
    step : int
        Step of the first observation whose share is known.
    first : float
        Share at `step`, mean over the samples.
    low : float
        The 10th percentile over the samples at `step`.
    high : float
        The 90th percentile over the samples at `step`.
    order : float or None
        How much larger or smaller the share at `step` may be, depending on whether patterns or weights move first;
        None if that was not measured.
    below_from : int or None
        Step from which the share stays below `LEVEL`; None if it never does.
    last_step : int
        Step of the last state, which is the last observation of the trajectory even if only a part is analyzed.
    """

    step: int
    first: float
    low: float
    high: float
    order: float | None
    below_from: int | None
    last_step: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "level": LEVEL,
            "step": self.step,
            "first": finite(self.first),
            "first_low": finite(self.low),
            "first_high": finite(self.high),
            "first_order": None if self.order is None else finite(self.order),
            "below_from": self.below_from,
            "last_step": self.last_step,
        }


def read_structure(whole: xr.Dataset, chosen: xr.Dataset, curves: xr.Dataset) -> Structure | None:
    """Return the structural share of a trajectory; None if the trajectory does not hold it.

    Parameters
    ----------
    whole : xarray.Dataset
        The trajectory.
    chosen : xarray.Dataset
        The analyzed part.
    curves : xarray.Dataset
        The curves of its result.
    """
    if _LAST not in curves:
        return None
    # No change precedes the first observation, so it is not part of the curves.
    start = _percentiles(shares_of("last")(chosen, np.array([0])))
    lows, highs = (np.concatenate(pair) for pair in zip(start, spread_of(curves, "last"), strict=True))
    steps = np.array([chosen["step"].to_numpy()[0], *curves["step"].to_numpy()])
    shares = np.array([curves[_LAST].attrs[START], *curves[_LAST].to_numpy()])
    known = np.flatnonzero(np.isfinite(shares))
    if not len(known):
        return None
    above = known[shares[known] >= LEVEL]
    after = known if not len(above) else known[known > above[-1]]
    at = known[0]
    return Structure(
        step=int(steps[at]),
        first=float(shares[at]),
        low=float(lows[at]),
        high=float(highs[at]),
        order=float(curves[_ORDER].attrs[START] if at == 0 else curves[_ORDER][at - 1]) if _ORDER in curves else None,
        below_from=int(steps[after[0]]) if len(after) else None,
        last_step=int(whole["step"].to_numpy()[-1]),
    )


def spread_of(curves: xr.Dataset, against: str) -> tuple[Array, Array]:
    """Return the 10th and 90th percentile of the structural share over the samples, (step,) float64.

    NaN if nothing changed. If there are too many samples to hold, both are the mean.
    """
    name = f"{QUANTITY_PREFIX}structural_share_{against}"
    if f"{name}{EACH}" not in curves:
        mean = curves[name].to_numpy()
        return mean, mean
    return _percentiles(curves[f"{name}{EACH}"].to_numpy())


def _percentiles(each: Array) -> tuple[Array, Array]:
    """Return the 10th and 90th percentile of the known values of each row."""
    missing = np.isnan(each).sum(axis=1)
    edges = np.full((2, len(each)), np.nan)
    whole, some = missing == 0, (missing > 0) & (missing < each.shape[1])
    # Ignoring unknown values takes a hundred times as long.
    edges[:, whole] = np.percentile(each[whole], (10, 90), axis=1)
    edges[:, some] = np.nanpercentile(each[some], (10, 90), axis=1)
    return edges[0], edges[1]
