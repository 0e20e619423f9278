"""What else a trajectory tells where it holds it: patterns on the probe, stages of the loss, labels of the run."""

import os
from dataclasses import asdict
from typing import Any

import numpy as np
import xarray as xr

from regime_proto.analyzer.pattern_statistics import pattern_statistics
from regime_proto.analyzer.selection import restrict
from regime_proto.analyzer.stages import Labels, Stage, is_loss, loss_stages, regime_labels
from regime_proto.schema.dataset import open_trajectory
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.layout import METRIC_PREFIX, QUANTITY_PREFIX

_COSINES = f"{QUANTITY_PREFIX}fingerprint_cosine"


def besides(trajectory: str | os.PathLike[str], steps: str | None = None) -> dict[str, Any]:
    """Return what else a trajectory tells, as plain values: ``patterns``, ``loss_stages`` and ``regime_labels``.

    Each is None where the trajectory lacks what it takes: stored masks, a loss, the quantity ``fingerprint_cosine``.

    Parameters
    ----------
    trajectory : path
    steps : str, optional
        ``"A:B"``, both included.
    """
    with open_trajectory(trajectory) as opened:
        chosen = restrict(opened, steps)
        statistics, stages, labels = pattern_statistics(chosen), stages_of(chosen), labels_of(chosen)
        return {
            "patterns": None if statistics is None else statistics.to_json(),
            "loss_stages": {name: [asdict(stage) for stage in found] for name, found in stages.items()} or None,
            "regime_labels": None
            if labels is None
            else {"steps": chosen["step"].to_numpy().tolist(), **asdict(labels)},
        }


def stages_of(trajectory: xr.Dataset) -> dict[str, tuple[Stage, ...]]:
    """Return the stages of every loss that a trajectory holds, by its name; none where ruptures is not installed."""
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


def labels_of(trajectory: xr.Dataset) -> Labels | None:
    """Return the labels of the observations by percentiles of the run itself; None where there is no fingerprint."""
    if _COSINES not in trajectory:
        return None
    cosines = trajectory[_COSINES].to_numpy()
    return regime_labels(cosines) if np.isfinite(cosines).any() else None
