"""Reasons to doubt a trajectory, in one line each: its order, and observations that hold NaN or Inf."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np


class Variables(Protocol):
    """The variables of a trajectory by name: an open file, or a dataset."""

    @property
    def attrs(self) -> Mapping[Any, Any]:
        """The root attributes."""

    def __getitem__(self, name: str) -> Any:
        """Return a variable whose slices are read like those of a NumPy array."""


def describe_order(doubt: object) -> str | None:
    """Return one line with the evidence of the weights against the order of the checkpoints, None without any.

    Parameters
    ----------
    doubt : str, optional
        The note of a conversion, `notes.ORDER_DOUBT`.
    """
    if not isinstance(doubt, str) or not doubt:
        return None
    return (
        f"the order of the checkpoints may be wrong: {doubt}; check where the order comes from (regime inspect DIR), "
        "and convert again in the right order (--step-pattern)"
    )


def describe_invalid(trajectory: Variables) -> str | None:
    """Return one line with the number of observations that hold NaN or Inf and the place of the first, None without."""
    invalid = np.flatnonzero(np.asarray(trajectory["valid"]) == 0)
    if not len(invalid):
        return None
    first = int(invalid[0])
    # The first observation has no change of its own; NaN or Inf in it shows in the next change.
    change = np.isfinite(np.asarray(trajectory["weight_delta_l1"][max(first, 1) : max(first, 1) + 2]))
    step = int(trajectory["step"][first])
    # The change from a state that holds NaN would be NaN too.
    if first and len(change) == 2 and not change[0].any() and change[1].all():
        return (
            f"{len(invalid)} of {len(trajectory['step'])} observations cannot be used, the first because the recording "
            f"has a gap before {trajectory.attrs['step_kind']} {step}; they are kept, marked invalid and left out of "
            "the curves"
        )
    broken = np.asarray(trajectory["tensor"])[~change[:1].all(axis=0)]
    # A file returns its texts as bytes.
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in broken[:1]]
    where = f"tensor {names[0]}" if names else "the activations"
    return (
        f"{len(invalid)} of {len(trajectory['step'])} observations hold NaN or Inf, first in {where} at "
        f"{trajectory.attrs['step_kind']} {step}; they are kept, marked invalid and left out of the curves"
    )
