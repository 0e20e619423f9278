"""Distance of the weights from their initial values, if it was recorded."""

from dataclasses import dataclass

import numpy as np
import xarray as xr


@dataclass(frozen=True)
class Distance:
    """The distance of the weights from the first observation of the file, ‖w_i − w_0‖ over all trainable parameters.

    Parameters
    ----------
    last : float
        Distance at the last analyzed observation.
    half_at : int
        First step at which the distance reaches half of `last`.
    """

    last: float
    half_at: int


def read_distance(curves: xr.Dataset) -> Distance | None:
    """Return the distance from the curves of a result; None if the file does not hold it."""
    if "weight_distance" not in curves:
        return None
    values = curves["weight_distance"].to_numpy()
    first = int(np.argmax(values >= values[-1] / 2))
    return Distance(float(values[-1]), int(curves["step"][first]))
