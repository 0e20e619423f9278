"""The data of one run for a page: the analysis, and further contents of its trajectory."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from regime_proto.analyzer.analyze import analyze_with
from regime_proto.analyzer.besides import stages_of
from regime_proto.analyzer.masks import select_masks
from regime_proto.analyzer.pattern_statistics import PatternStatistics, statistics_of
from regime_proto.analyzer.patterns import LATE, Patterns, patterns_of
from regime_proto.analyzer.result import Result
from regime_proto.analyzer.samples import read_sample_changes
from regime_proto.analyzer.selection import restrict
from regime_proto.analyzer.settings import AnalysisSettings
from regime_proto.analyzer.stages import Stage
from regime_proto.report.binning import bin_edges, bin_means
from regime_proto.schema.dataset import open_trajectory
from regime_proto.schema.errors import TrajectoryError
from regime_proto.schema.layout import METRIC_PREFIX
from regime_proto.schema.notes import read_notes
from regime_proto.schema.types import Array

# Most columns of a heat map.
COLUMNS = 200


@dataclass(frozen=True)
class SampleView:
    """Δa of every probe sample.

    Parameters
    ----------
    changes : (bin, sample) float64
        Δa of each sample, mean over the intervals of a bin.
    late : (sample,) float64
        Mean over the last quarter of the run.
    """

    changes: Array
    late: Array


@dataclass(frozen=True)
class Metric:
    """The finite values of a metric in the trajectory.

    Parameters
    ----------
    name : str
    steps : (value,) int64
    values : (value,) float64
    """

    name: str
    steps: Array
    values: Array


@dataclass(frozen=True)
class RunView:
    """The data of one run.

    Parameters
    ----------
    name : str
        Name of the file, without suffixes.
    path : Path
    result : Result
    attributes : mapping
        Root attributes of the file.
    metrics : tuple of Metric
    edges : (bin + 1,) int64
        Edges of the bins of heat maps, as indices of intervals.
    samples : SampleView
    patterns : Patterns or None
        None if fewer than two masks are stored.
    statistics : PatternStatistics or None
        None if fewer than two masks are stored.
    stages : mapping of str to tuple of Stage
        Stages of every loss, by the name of the loss.
    facts : mapping of str to int
        Numbers of samples, layers, units, tensors and parameters; and ``padded``, the number of pairs of a layer and a
        sample in which not all units count.
    """

    name: str
    path: Path
    result: Result
    attributes: Mapping[str, Any]
    metrics: tuple[Metric, ...]
    edges: Array
    samples: SampleView
    patterns: Patterns | None
    statistics: PatternStatistics | None
    stages: Mapping[str, tuple[Stage, ...]]
    facts: Mapping[str, int]

    @property
    def steps(self) -> Array:
        """Steps at the ends of the intervals."""
        return np.asarray(self.result.curves["step"].to_numpy())


def read_view(
    path: str | os.PathLike[str],
    settings: AnalysisSettings,
) -> RunView:
    """Read the data of a run for a page.

    Parameters
    ----------
    path : path
    settings : AnalysisSettings

    Raises
    ------
    RegimeError
        The file cannot be read, or fewer than two observations are left.
    """
    path = Path(path)
    try:
        with open_trajectory(path) as trajectory:
            result = analyze_with(trajectory, settings)
            chosen = restrict(trajectory, settings.steps)
            masks = select_masks(chosen)
            edges = bin_edges(len(result.curves["step"]), COLUMNS)
            return RunView(
                name=path.name.removesuffix(path.suffix).removesuffix(".regime"),
                path=path,
                result=replace(result, trajectory=os.fspath(path), notes=read_notes(path)),
                attributes=dict(trajectory.attrs),
                metrics=_metrics(chosen),
                edges=edges,
                samples=_samples(chosen, edges),
                patterns=None if masks is None else patterns_of(masks),
                statistics=None if masks is None else statistics_of(masks),
                stages=stages_of(chosen),
                facts=_facts(trajectory),
            )
    except OSError as error:
        raise TrajectoryError(f"{path}: damaged data ({error}); run regime validate") from None


def _metrics(trajectory: xr.Dataset) -> tuple[Metric, ...]:
    steps = trajectory["step"].to_numpy()
    found = []
    for variable in trajectory.data_vars:
        if str(variable).startswith(METRIC_PREFIX):
            values = trajectory[variable].to_numpy()
            known = np.isfinite(values)
            name = trajectory[variable].attrs.get("long_name", str(variable).removeprefix(METRIC_PREFIX))
            if known.sum() > 1:
                found.append(Metric(str(name), steps[known], values[known]))
    return tuple(found)


def _samples(trajectory: xr.Dataset, edges: Array) -> SampleView:
    changes = read_sample_changes(trajectory).of_each()
    return SampleView(bin_means(changes, edges), changes[-max(1, round(LATE * len(changes))) :].mean(axis=0))


def _facts(trajectory: xr.Dataset) -> dict[str, int]:
    return {
        "samples": int(trajectory.sizes["sample"]),
        "layers": int(trajectory.sizes["layer"]),
        "units": sum(trajectory["layer_size"].to_numpy().tolist()),
        "tensors": int(trajectory.sizes["tensor"]),
        "parameters": sum(trajectory["tensor_size"].to_numpy().tolist()),
        "padded": int((trajectory["layer_units"] < trajectory["layer_units"].max("sample")).sum()),
    }
