"""What makes a trajectory doubtful, in one line each: its order, and observations that hold NaN or Inf."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np


class Variables(Protocol):
    """The variables of a trajectory by name: an opened file, or a data set."""

    @property
    def attrs(self) -> Mapping[Any, Any]:
        """The root attributes."""

    def __getitem__(self, name: str) -> Any:
        """Return a variable, of which a slice is read as NumPy reads it."""


def describe_order(doubt: object) -> str | None:
    """Say in one line what the weights said against the order of the checkpoints when these were read.

    Parameters
    ----------
    doubt : str, optional
        The note that a conversion left, `notes.ORDER_DOUBT`.
    """
    if not isinstance(doubt, str) or not doubt:
        return None
    return (
        f"the order of the checkpoints may be wrong: {doubt}; look where it is taken from (regime inspect DIR), and "
        "convert again in the right one (--step-pattern)"
    )


def describe_invalid(trajectory: Variables) -> str | None:
    """Say in one line which observations hold NaN or Inf, and where the first one does."""
    invalid = np.flatnonzero(np.asarray(trajectory["valid"]) == 0)
    if not len(invalid):
        return None
    first = int(invalid[0])
    # The first observation has no change of its own; what is broken in it breaks the next change.
    change = np.isfinite(np.asarray(trajectory["weight_delta_l1"][max(first, 1) : max(first, 1) + 2]))
    step = int(trajectory["step"][first])
    # The change from a state that is NaN would be NaN as well.
    if first and len(change) == 2 and not change[0].any() and change[1].all():
        return (
            f"{len(invalid)} of {len(trajectory['step'])} observations cannot be used, the first since the recording "
            f"has a gap before {trajectory.attrs['step_kind']} {step}; they are kept, marked invalid and left out of "
            "the curves"
        )
    broken = np.asarray(trajectory["tensor"])[~change[:1].all(axis=0)]
    # A file gives its texts as bytes.
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in broken[:1]]
    where = f"tensor {names[0]}" if names else "the activations"
    return (
        f"{len(invalid)} of {len(trajectory['step'])} observations hold NaN or Inf, first {where} at "
        f"{trajectory.attrs['step_kind']} {step}; they are kept, marked invalid and left out of the curves"
    )
