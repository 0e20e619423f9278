"""When what was still to be learned no longer needed other patterns."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from regime_proto.analyzer.derived import EACH
from regime_proto.schema.layout import QUANTITY_PREFIX
from regime_proto.schema.numbers import finite
from regime_proto.schema.types import Array

LEVEL = 0.05
"""Below this share what is still to be learned counts as a matter of weights alone; the threshold is ours."""
_LAST = f"{QUANTITY_PREFIX}structural_share_last"


@dataclass(frozen=True)
class Structure:
    """The structural share of the change of the outputs from each observation to the last one.

    Parameters
    ----------
    first : float
        At the end of the first change.
    below_from : int or None
        The step from which it stays below `LEVEL`; None if never.
    low, high : float
        The tenth and the ninetieth percentile of the samples at the end of the first change.
    """

    first: float
    below_from: int | None
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "level": LEVEL,
            "first": finite(self.first),
            "first_low": finite(self.low),
            "first_high": finite(self.high),
            "below_from": self.below_from,
        }


def read_structure(curves: xr.Dataset) -> Structure | None:
    """Return what the curves of a result tell; None where the trajectory does not hold it.

    Parameters
    ----------
    curves : xarray.Dataset
    """
    if _LAST not in curves:
        return None
    shares, steps = curves[_LAST].to_numpy(), curves["step"].to_numpy()
    known = np.flatnonzero(np.isfinite(shares))
    if not len(known):
        return None
    above = known[shares[known] >= LEVEL]
    after = known if not len(above) else known[known > above[-1]]
    low, high = (float(edge[0]) for edge in spread_of(curves.isel(step=known[:1]), "last"))
    return Structure(float(shares[known[0]]), int(steps[after[0]]) if len(after) else None, low, high)


def spread_of(curves: xr.Dataset, against: str) -> tuple[Array, Array]:
    """Return the tenth and the ninetieth percentile of the structural share over the samples, (step,) float64.

    NaN where nothing changed; where the samples are too many to be held, both are the mean.
    """
    name = f"{QUANTITY_PREFIX}structural_share_{against}"
    if f"{name}{EACH}" not in curves:
        mean = curves[name].to_numpy()
        return mean, mean
    each = curves[f"{name}{EACH}"].to_numpy()
    missing = np.isnan(each).sum(axis=1)
    edges = np.full((2, len(each)), np.nan)
    whole, some = missing == 0, (missing > 0) & (missing < each.shape[1])
    # Leaving values out takes a hundred times as long.
    edges[:, whole] = np.percentile(each[whole], (10, 90), axis=1)
    edges[:, some] = np.nanpercentile(each[some], (10, 90), axis=1)
    return edges[0], edges[1]
