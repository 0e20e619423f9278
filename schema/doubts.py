"""What makes a trajectory doubtful, in one line each: its order, and observations that hold NaN or Inf."""

import numpy as np
import xarray as xr

from regime_proto.schema.notes import ORDER_DOUBT


def describe_order(trajectory: xr.Dataset) -> str | None:
    """Say in one line what the weights said against the order of the checkpoints when these were read."""
    doubt = trajectory.attrs.get(ORDER_DOUBT)
    if not isinstance(doubt, str) or not doubt:
        return None
    return (
        f"the order of the checkpoints may be wrong: {doubt}; look where it is taken from (regime inspect DIR), and "
        "convert again in the right one (--step-pattern)"
    )


def describe_invalid(trajectory: xr.Dataset) -> str | None:
    """Say in one line which observations hold NaN or Inf, and where the first one does."""
    invalid = np.flatnonzero(trajectory["valid"].to_numpy() == 0)
    if not len(invalid):
        return None
    first = int(invalid[0])
    # The first observation has no change of its own; what is broken in it breaks the next change.
    change = np.isfinite(trajectory["weight_delta_l1"][max(first, 1) : max(first, 1) + 2].to_numpy())
    step = int(trajectory["step"][first])
    # The change from a state that is NaN would be NaN as well.
    if first and len(change) == 2 and not change[0].any() and change[1].all():
        return (
            f"{len(invalid)} of {len(trajectory['step'])} observations cannot be used, the first since the recording "
            f"has a gap before {trajectory.attrs['step_kind']} {step}; they are kept, marked invalid and left out of "
            "the curves"
        )
    broken = trajectory["tensor"].to_numpy()[~change[:1].all(axis=0)]
    where = f"tensor {broken[0]}" if len(broken) else "the activations"
    return (
        f"{len(invalid)} of {len(trajectory['step'])} observations hold NaN or Inf, first {where} at "
        f"{trajectory.attrs['step_kind']} {step}; they are kept, marked invalid and left out of the curves"
    )
