"""The observations that an analysis covers."""

import math
from dataclasses import dataclass

import h5py
import numpy as np

from regime_proto.analyzer.result import Result
from regime_proto.schema.types import Array


@dataclass(frozen=True)
class Observed:
    """The observations from the start of the first change to the end of the last one.

    Parameters
    ----------
    at : slice
        Their indices in the file.
    steps : (observation,) int64
    epochs : (observation,) float64
        NaN where unknown.
    per_epoch : float or None
        Observations per epoch, if the file states them.
    """

    at: slice
    steps: Array
    epochs: Array
    per_epoch: float | None


def read_observed(file: h5py.File, result: Result) -> Observed:
    """Return the observations of an open trajectory that a result covers."""
    changes, steps = result.curves["step"].to_numpy(), file["step"][...]
    first, last = map(int, np.searchsorted(steps, (changes[0], changes[-1])))
    # The first change starts one observation earlier.
    at = slice(first - 1, last + 1)
    stored = file.attrs.get("observations_per_epoch", math.nan)
    per_epoch = float(stored) if math.isfinite(stored) and stored > 0 else None
    return Observed(at, steps[at], file["epoch"][at], per_epoch)
