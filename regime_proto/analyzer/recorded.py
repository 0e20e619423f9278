"""What a trajectory says about a run apart from its curves: what a paper has to report."""

from dataclasses import dataclass
from typing import Any

import xarray as xr

from regime_proto.schema.numbers import finite


@dataclass(frozen=True)
class Recorded:
    """Facts about the run and the probe.

    Parameters
    ----------
    samples : int
        Number of samples of the probe.
    observations_per_epoch : float or None
        As used for the smoothing window: given, stored, or counted from the epochs; None if unknown.
    first_step, last_step : int
        Of the observations that are analyzed.
    tensors, parameters : int
        Number of trainable tensors, and of their elements.
    program_sha256, probe_sha256 : str or None
        None if the file does not hold it.
    """

    samples: int
    observations_per_epoch: float | None
    first_step: int
    last_step: int
    tensors: int
    parameters: int
    program_sha256: str | None
    probe_sha256: str | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON object; numbers are finite or None."""
        per_epoch = self.observations_per_epoch
        return {**vars(self), "observations_per_epoch": None if per_epoch is None else finite(per_epoch)}


def read_recorded(trajectory: xr.Dataset, per_epoch: float | None) -> Recorded:
    """Return the facts in a trajectory, or in a part of it.

    Parameters
    ----------
    trajectory : xarray.Dataset
    per_epoch : float or None
        Observations per epoch; None if unknown.
    """
    steps, sizes = trajectory["step"].to_numpy(), trajectory["tensor_size"].to_numpy()
    return Recorded(
        samples=trajectory.sizes["sample"],
        observations_per_epoch=per_epoch,
        first_step=int(steps[0]),
        last_step=int(steps[-1]),
        tensors=len(sizes),
        parameters=int(sizes.sum()),
        program_sha256=_text(trajectory, "program_sha256"),
        probe_sha256=_text(trajectory, "probe_sha256"),
    )


def _text(trajectory: xr.Dataset, name: str) -> str | None:
    found = trajectory.attrs.get(name)
    return found if isinstance(found, str) and found else None
