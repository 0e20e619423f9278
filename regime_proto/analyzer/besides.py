"""Results beyond the curves: patterns on the probe, stages of the loss, labels of the run."""

import os
from dataclasses import asdict
from typing import Any

import xarray as xr

from regime_proto.analyzer.pattern_statistics import pattern_statistics
from regime_proto.analyzer.selection import restrict
from regime_proto.analyzer.stages import Stage, is_loss, labels_in, loss_stages
from regime_proto.schema.dataset import open_trajectory
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.layout import METRIC_PREFIX


def besides(
    trajectory: str | os.PathLike[str],
    steps: str | None = None,
    *,
    stable: float | None = None,
    chaotic: float | None = None,
) -> dict[str, Any]:
    """Return further results as plain values: ``patterns``, ``loss_stages`` and ``regime_labels``.

    Each is None if the trajectory lacks what it needs: stored masks, a loss, the quantity ``fingerprint_cosine``.

    Parameters
    ----------
    trajectory : path
    steps : str, optional
        ``"A:B"``, both included.
    stable, chaotic : float, optional
        See `stages.regime_labels`.
    """
    with open_trajectory(trajectory) as opened:
        chosen = restrict(opened, steps)
        statistics, stages = pattern_statistics(chosen), stages_of(chosen)
        labels = labels_in(chosen, stable=stable, chaotic=chaotic, where=os.fspath(trajectory))
        return {
            "patterns": None if statistics is None else statistics.to_json(),
            "loss_stages": {name: [asdict(stage) for stage in found] for name, found in stages.items()} or None,
            "regime_labels": None
            if labels is None
            else {"steps": chosen["step"].to_numpy().tolist(), **asdict(labels)},
        }


def stages_of(trajectory: xr.Dataset) -> dict[str, tuple[Stage, ...]]:
    """Return the stages of each loss in a trajectory, by name; empty if ruptures is not installed."""
    found = {}
    steps = trajectory["step"].to_numpy()
    for variable in map(str, trajectory.data_vars):
        if variable.startswith(METRIC_PREFIX) and is_loss(variable.removeprefix(METRIC_PREFIX)):
            name = str(trajectory[variable].attrs.get("long_name", variable.removeprefix(METRIC_PREFIX)))
            try:
                found[name] = loss_stages(steps, trajectory[variable].to_numpy())
            except RegimeError:
                return {}
    return {name: stages for name, stages in found.items() if stages}
