"""Selects a part of a trajectory."""

import numpy as np
import xarray as xr

from regime_proto.schema.errors import RegimeError
from regime_proto.schema.steps import parse_steps
from regime_proto.schema.words import counted


def restrict(trajectory: xr.Dataset, steps: str | None) -> xr.Dataset:
    """Return the observations of steps ``"A:B"``, both included, with their stored masks; None selects all.

    Raises
    ------
    RegimeError
        Fewer than two observations are left.
    """
    chosen = trajectory
    if steps is not None:
        first, last = parse_steps(steps)
        inside = {
            name: np.flatnonzero((trajectory[name].to_numpy() >= first) & (trajectory[name].to_numpy() <= last))
            for name in ("step", "mask_step")
        }
        chosen = trajectory.isel(inside)
    count = chosen.sizes["step"]
    if count < 2:
        at = trajectory["step"].to_numpy()
        raise RegimeError(
            f"{count} of {counted(len(at), 'observation')} chosen; a change needs two at least "
            f"(the steps run from {at[0]} to {at[-1]})"
        )
    return chosen
