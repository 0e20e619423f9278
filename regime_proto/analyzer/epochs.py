"""How many observations make an epoch: what the smoothing window is counted in."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime_proto.schema.errors import RegimeError


def observations_per_epoch(steps: Sequence[int] | NDArray[Any], step_kind: str, batches_per_epoch: float) -> float:
    """Return the observations per epoch, given the training steps per epoch.

    Parameters
    ----------
    steps : (step,) int
        Steps of the observations.
    step_kind : str
    batches_per_epoch : float
        Training steps per epoch, divided here by the mean stride of the observations.

    Raises
    ------
    RegimeError
        The steps are a mere count, or the number is not positive.
    """
    if not 0 < batches_per_epoch < math.inf:
        raise RegimeError(f"--batches-per-epoch {batches_per_epoch:g}: expected a finite number above 0")
    if step_kind == "ordinal":
        raise RegimeError(
            "--batches-per-epoch: the steps of this run are only a count of its files, so their distance in "
            "training steps is not known; save the step in the checkpoints or in their names (step_000100.pt)"
        )
    if len(steps) < 2:
        return batches_per_epoch
    stride = float(steps[-1] - steps[0]) / (len(steps) - 1)
    return (1.0 if step_kind == "epoch" else batches_per_epoch) / stride


def from_epochs(epochs: NDArray[Any]) -> float | None:
    """Return the observations per epoch, read off the epoch of every observation.

    Counted between the first and the last change of the epoch, so that a first or last epoch which is not
    whole does no harm.

    Parameters
    ----------
    epochs : (step,) float64
        Whole or fractional; NaN where unknown.

    Returns
    -------
    float or None
        None where it cannot be told.
    """
    if not np.isfinite(epochs).all():
        return None
    changes = np.flatnonzero(np.diff(epochs)) + 1
    if len(changes) < 2 or epochs[changes[-1]] <= epochs[changes[0]]:
        return None
    first, last = changes[0], changes[-1]
    return float((last - first) / (epochs[last] - epochs[first]))
