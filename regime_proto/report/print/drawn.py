"""The parts of a run that are drawn: its curves over all intervals, including gaps, and its metrics."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regime_proto.analyzer.analyze import analyze_with
from regime_proto.analyzer.observed import read_observed
from regime_proto.analyzer.result import Result
from regime_proto.analyzer.settings import AnalysisSettings
from regime_proto.comparison.labels import SEED, labels_of
from regime_proto.schema.epochs import epochs_at
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.reader import metric_variables, open_checked, read_header
from regime_proto.schema.types import Array


@dataclass(frozen=True)
class Drawn:
    """The data of one run for drawing.

    Parameters
    ----------
    name : str
        Model, data set and seed if the trajectory states them, else the name of the file.
    result : Result
    steps : (observation,) int64
        From the start of the first change to the end of the last one.
    epochs : (observation,) float64 or None
        None if unknown.
    weights, patterns : (interval,) float64
        Normalised; NaN if a change is unknown, or if the smoothing has no whole window.
    layers : (interval, layer) float64
    metrics : mapping of str to (observation,) float64
        NaN if nothing was logged.
    """

    name: str
    result: Result
    steps: Array
    epochs: Array | None
    weights: Array
    patterns: Array
    layers: Array
    metrics: Mapping[str, Array]


Run = str | os.PathLike[str] | Result


def read_runs(runs: Run | Iterable[Run], settings: AnalysisSettings) -> list[Drawn]:
    """Return the data of one run or of several; see `read_run`."""
    given = [runs] if isinstance(runs, str | os.PathLike | Result) else runs
    return [read_run(run, settings) for run in given]


def read_run(run: Run, settings: AnalysisSettings) -> Drawn:
    """Analyze a trajectory, and read everything else that is drawn.

    Parameters
    ----------
    run : path or Result
        A `Result` keeps its own settings.
    settings : AnalysisSettings

    Raises
    ------
    RegimeError
        The trajectory cannot be read or analyzed, or now holds a different run from the analyzed one.
    """
    result = run if isinstance(run, Result) else analyze_with(run, settings)
    return _as_drawn(result, settings.batches_per_epoch)


def _as_drawn(result: Result, batches_per_epoch: float | None) -> Drawn:
    """Return the data for drawing a result, read from its trajectory.

    Parameters
    ----------
    result : Result
    batches_per_epoch : float or None
        Used for the axis if the trajectory holds no epochs.

    Raises
    ------
    RegimeError
        The trajectory cannot be read, or does not belong to the result.
    """
    if result.trajectory is None:
        raise RegimeError("the result is of a data set in memory, without metrics and epochs to draw; analyze its file")
    path = Path(result.trajectory)
    with open_checked(path) as file:
        if file.attrs["run_id"] != result.curves.attrs["run_id"]:
            raise RegimeError(f"{path}: now holds a different run from the analyzed one; analyze it again")
        header, observed = read_header(file), read_observed(file, result)
        metrics = {variable.meaning: file[variable.name][observed.at] for variable in metric_variables(file)}
    intervals = len(observed.steps) - 1
    there = np.searchsorted(observed.steps[1:], result.curves["step"].to_numpy())
    curves = {name: result.curves[f"{name}_normalised"].to_numpy() for name in ("weight", "pattern", "layer_pattern")}
    spread_out = {name: _with_gaps(values, there, intervals) for name, values in curves.items()}
    return Drawn(
        name=_name(labels_of(header.extra), path),
        result=result,
        steps=observed.steps,
        epochs=epochs_at(observed.steps, observed.epochs, result.step_kind, batches_per_epoch, observed.per_epoch),
        weights=spread_out["weight"],
        patterns=spread_out["pattern"],
        layers=spread_out["layer_pattern"],
        metrics={name: values for name, values in metrics.items() if np.isfinite(values).any()},
    )


def _with_gaps(values: Array, there: Array, intervals: int) -> Array:
    spread_out = np.full((intervals, *values.shape[1:]), np.nan)
    spread_out[there] = values
    return spread_out


def _name(labels: Mapping[str, str], path: Path) -> str:
    told = [labels[name] for name in ("model", "dataset") if name in labels]
    seed = [f"seed\N{NO-BREAK SPACE}{labels[SEED]}"] if SEED in labels else []
    return ", ".join([*told, *seed]) if told else path.name.removesuffix(".h5").removesuffix(".regime")
