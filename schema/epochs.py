"""The number of observations per epoch, the unit of the smoothing window."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime_proto.schema.errors import RegimeError
from regime_proto.schema.numbers import finite

PER_EPOCH = "observations_per_epoch"
"""The root attribute of a trajectory."""


def observations_per_epoch(
    steps: Sequence[int] | NDArray[Any], step_kind: str, batches_per_epoch: float, *, option: str | None = None
) -> float:
    """Return the observations per epoch, given the training steps per epoch.

    Parameters
    ----------
    steps : (step,) int
        Steps of the observations.
    step_kind : str
    batches_per_epoch : float
        Training steps per epoch, divided here by the mean stride of the observations.
    option : str, optional
        The option that would find training steps in the names of the checkpoints, for the error message.

    Raises
    ------
    RegimeError
        The steps only count files, or the number is not positive.
    """
    if not 0 < batches_per_epoch < math.inf:
        raise RegimeError(f"--batches-per-epoch {batches_per_epoch:g}: expected a finite number above 0")
    if step_kind == "ordinal":
        option = option or "--step-pattern REGEX, when the checkpoints are analyzed"
        raise RegimeError(
            "--batches-per-epoch: the steps of this run only count its files, so their distance in training steps is "
            f"unknown; if the number in their names is the training step, pass {option}; else save the step in the "
            "checkpoints or in their names (step_000100.pt)"
        )
    if len(steps) < 2:
        return batches_per_epoch
    stride = float(steps[-1] - steps[0]) / (len(steps) - 1)
    return (1.0 if step_kind == "epoch" else batches_per_epoch) / stride


def with_start(steps: NDArray[Any], epochs: NDArray[Any], step_kind: str) -> NDArray[Any]:
    """Return the epochs, with 0 for training step 0 even if it was not recorded.

    No other missing epoch can be filled in: a recording, or a part of one, may begin anywhere, and an ordinal 0 is the
    first file.

    Parameters
    ----------
    steps : (step,) int64
    epochs : (step,) float64
        NaN where unknown.
    step_kind : str
    """
    if step_kind == "ordinal" or not len(steps) or steps[0] != 0 or not np.isnan(epochs[0]):
        return epochs
    return np.concatenate([[0.0], epochs[1:]])


def from_epochs(epochs: NDArray[Any]) -> float | None:
    """Return the observations per epoch, counted from the known epochs.

    The count is taken between the first and the last change of the epoch, so that an incomplete first or last epoch
    does no harm. Changes next to a missing epoch are ignored.

    Parameters
    ----------
    epochs : (step,) float64
        Whole or fractional; NaN where unknown.

    Returns
    -------
    float or None
        None if it cannot be determined.
    """
    between = np.diff(epochs)
    changes = np.flatnonzero(np.isfinite(between) & (between != 0)) + 1
    if len(changes) < 2 or epochs[changes[-1]] <= epochs[changes[0]]:
        return None
    first, last = changes[0], changes[-1]
    with np.errstate(over="ignore"):
        return finite(float((last - first) / (epochs[last] - epochs[first])))


def epochs_spanned(
    steps: NDArray[Any], epochs: NDArray[Any], step_kind: str, batches_per_epoch: float | None, stored: float | None
) -> float | None:
    """Return the number of epochs between the first and the last of these observations.

    Parameters
    ----------
    steps : (step,) int64
    epochs : (step,) float64
        NaN where unknown.
    step_kind : str
    batches_per_epoch : float, optional
        Training steps per epoch, if the user gives them; overrides the file.
    stored : float, optional
        Observations per epoch, if the file holds them.

    Returns
    -------
    float or None
        None if it cannot be determined.
    """
    if batches_per_epoch is not None:
        return (len(steps) - 1) / observations_per_epoch(steps, step_kind, batches_per_epoch)
    found = with_start(steps, epochs, step_kind)
    known = found[np.isfinite(found)]
    # The start alone does not determine the length.
    if len(known) > 1:
        with np.errstate(over="ignore"):
            return finite(float(known[-1] - known[0]))
    if step_kind == "epoch":
        return float(steps[-1] - steps[0])
    return finite((len(steps) - 1) / float(stored)) if stored else None


def epochs_at(
    steps: NDArray[Any], epochs: NDArray[Any], step_kind: str, batches_per_epoch: float | None, stored: float | None
) -> NDArray[Any] | None:
    """Return the epoch of every observation as a fraction, so that all epochs differ.

    Parameters
    ----------
    steps : (step,) int64
    epochs : (step,) float64
        Whole or fractional; NaN where unknown.
    step_kind : str
    batches_per_epoch : float, optional
        Training steps per epoch, if the user gives them; overrides the file.
    stored : float, optional
        Observations per epoch, if the file holds them.

    Returns
    -------
    (step,) float64 or None
        None if it cannot be determined.
    """
    if step_kind != "step":
        return steps.astype(np.float64) if step_kind == "epoch" else None
    if batches_per_epoch is not None:
        return np.asarray(steps / batches_per_epoch)
    found = with_start(steps, epochs, step_kind)
    if np.isfinite(found).all() and (np.diff(found) > 0).all():
        return found
    per_epoch = stored or from_epochs(found)
    if per_epoch is None or len(steps) < 2:
        return None
    with np.errstate(over="ignore"):
        found = np.asarray(steps * (len(steps) - 1) / float(steps[-1] - steps[0]) / per_epoch)
    return found if np.isfinite(found).all() else None
