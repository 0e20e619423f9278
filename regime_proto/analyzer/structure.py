"""How much of the change of the outputs to the last state moving patterns accounts for, and from when on hardly any."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from regime_proto.analyzer.derived import EACH, START, shares_of
from regime_proto.schema.layout import QUANTITY_PREFIX
from regime_proto.schema.numbers import finite
from regime_proto.schema.types import Array

LEVEL = 0.05
"""Below this share the rest of the change counts as a matter of weights alone; the threshold is ours."""
_ORDER = f"{QUANTITY_PREFIX}structural_order_last"
_LAST = f"{QUANTITY_PREFIX}structural_share_last"


@dataclass(frozen=True)
class Structure:
    """The structural share of the change of the outputs from each observation to the last state.

    Parameters
    ----------
    step : int
        The first observation whose share is known.
    first : float
        The share there, mean over the samples.
    low, high : float
        The tenth and the ninetieth percentile of the samples there.
    order : float or None
        By how much the share there may be more or less, where patterns or where weights move first; None where that
        was not measured.
    below_from : int or None
        The step from which it stays below `LEVEL`; None if never.
    last_step : int
        That of the last state: the last observation of the trajectory, also where only a part of it is analyzed.
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
    """Return what a trajectory tells; None where it does not hold it.

    Parameters
    ----------
    whole : xarray.Dataset
        The trajectory.
    chosen : xarray.Dataset
        The part of it that is analyzed.
    curves : xarray.Dataset
        Those of its result.
    """
    if _LAST not in curves:
        return None
    # The first observation has no change before it, and so no place among the curves.
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
    """Return the tenth and the ninetieth percentile of the structural share over the samples, (step,) float64.

    NaN where nothing changed; where the samples are too many to be held, both are the mean.
    """
    name = f"{QUANTITY_PREFIX}structural_share_{against}"
    if f"{name}{EACH}" not in curves:
        mean = curves[name].to_numpy()
        return mean, mean
    return _percentiles(curves[f"{name}{EACH}"].to_numpy())


def _percentiles(each: Array) -> tuple[Array, Array]:
    """Return the tenth and the ninetieth percentile of each row, of what is known of it."""
    missing = np.isnan(each).sum(axis=1)
    edges = np.full((2, len(each)), np.nan)
    whole, some = missing == 0, (missing > 0) & (missing < each.shape[1])
    # Leaving values out takes a hundred times as long.
    edges[:, whole] = np.percentile(each[whole], (10, 90), axis=1)
    edges[:, some] = np.nanpercentile(each[some], (10, 90), axis=1)
    return edges[0], edges[1]
