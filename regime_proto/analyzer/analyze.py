"""Analyzes a trajectory: curves, AUC, ρ, thresholds, and the range of ρ over all readings."""

import math
import os
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from regime_proto.analyzer import curves
from regime_proto.analyzer.areas import area_of, areas
from regime_proto.analyzer.diverged import describe_divergence
from regime_proto.analyzer.flatness import describe_flat
from regime_proto.analyzer.quantity_curves import quantity_curves, summaries
from regime_proto.analyzer.readings import ALL_READINGS, Reading
from regime_proto.analyzer.readings import preset as find_preset
from regime_proto.analyzer.result import LayerResult, Result, Threshold
from regime_proto.analyzer.selection import restrict
from regime_proto.analyzer.series import Series, read_series, usable_intervals
from regime_proto.analyzer.settled import FEW, settled
from regime_proto.analyzer.uncertainty import uncertainty
from regime_proto.schema.dataset import open_trajectory
from regime_proto.schema.doubts import describe_invalid, describe_order
from regime_proto.schema.epochs import from_epochs, observations_per_epoch, with_start
from regime_proto.schema.errors import RegimeError, TrajectoryError
from regime_proto.schema.types import Array

# The last tenth of a run counts as late; a Δa of less than ten times the noise floor may be rounding.
LATE = 0.1
ABOVE_NOISE = 10.0

RESAMPLES = 200
MIN_RESAMPLES = 20


def analyze(
    trajectory: str | os.PathLike[str] | xr.Dataset,
    *,
    preset: str = "paper",
    steps: str | None = None,
    batches_per_epoch: float | None = None,
    resamples: int = RESAMPLES,
) -> Result:
    """Analyze a trajectory (PROTOCOL, sections 2 to 5).

    Parameters
    ----------
    trajectory : path or xarray.Dataset
        A trajectory file, or what `open_trajectory` returned.
    preset : {"paper", "strict"}
        ``paper`` pads the smoothing with zeros, as the published numbers appear to; ``strict`` uses whole
        windows only.
    steps : str, optional
        ``"A:B"``, both included: restrict the analysis.
    batches_per_epoch : float, optional
        Training steps per epoch, which the smoothing window is a part of. Wins over what the file says.
    resamples : int
        So many other probes and other courses of the run are drawn for the intervals; 0 for none, else 20 at least.

    Raises
    ------
    RegimeError
        The file cannot be read, or fewer than two observations are left.
    """
    if not isinstance(trajectory, xr.Dataset):
        try:
            with open_trajectory(trajectory) as opened:
                result = analyze(
                    opened, preset=preset, steps=steps, batches_per_epoch=batches_per_epoch, resamples=resamples
                )
        except OSError as error:
            raise TrajectoryError(f"{os.fspath(trajectory)}: damaged data ({error}); see regime validate") from None
        return replace(result, trajectory=os.fspath(trajectory))
    reading = find_preset(preset)
    if resamples and resamples < MIN_RESAMPLES:
        raise RegimeError(f"resamples {resamples}: expected {MIN_RESAMPLES} at least, or 0 for no intervals")
    chosen = restrict(trajectory, steps)
    series = read_series(chosen)
    per_epoch, warnings = _observations_per_epoch(chosen, batches_per_epoch)
    warnings += [doubt for doubt in (describe_order(trajectory), describe_invalid(chosen)) if doubt]
    planned = trajectory.attrs.get("planned_observations")
    if planned is not None and planned > trajectory.sizes["step"]:
        warnings.append(f"the run was cut off: {trajectory.sizes['step']} of {planned} observations are there")
    if not len(series.steps):
        raise RegimeError("no two neighbouring observations are valid: there is no change to analyze")
    if len(series.steps) < FEW:
        warnings.append(f"only {len(series.steps)} changes: scaled to their own extremes, so few say little")
    width = curves.window(per_epoch, len(series.steps))
    found = {choice: areas(series, width, choice) for choice in ALL_READINGS}
    rhos = {choice: curves.ratio(*both) for choice, both in found.items()}
    auc_w, auc_p = found[reading]
    auc_layers = area_of(series.layers, series.lengths, width, reading)
    flat = describe_flat(series, width, reading)
    warnings += [flat] if flat else []
    warnings += _warn_of_constant(series, reading, auc_layers)
    noise, late = _noise_floor(trajectory), _late(series)
    if noise is not None and late < ABOVE_NOISE * noise:
        warnings.append(
            f"late in the run Δa is {late:.1e}, within a factor of ten of the noise floor, {noise:.1e}: those flips "
            "may be rounding"
        )
    defined = [rho for rho in rhos.values() if math.isfinite(rho)]
    all_steps = chosen["step"].to_numpy()
    labelled = _curves(trajectory, chosen, series, width, reading)
    strides = np.unique(np.diff(all_steps))
    return Result(
        rho=rhos[reading],
        auc_w=auc_w,
        auc_p=auc_p,
        rho_range=(min(defined), max(defined)) if defined else None,
        preset=preset,
        observations=len(all_steps),
        step_kind=str(chosen.attrs["step_kind"]),
        stride=int(strides[0]) if len(strides) == 1 else None,
        window=width,
        thresholds=_thresholds(series, width, reading),
        layers=_layers(chosen, auc_layers),
        curves=labelled,
        quantities=summaries(labelled, series, width, reading),
        readings=rhos,
        noise_floor=noise,
        late_pattern_change=late,
        pattern_error=None if series.pattern_error is None else float(series.pattern_error.max()),
        uncertainty=uncertainty(chosen, series, width, reading, resamples=resamples) if resamples else None,
        trajectory=None,
        warnings=tuple(warnings),
        settled=settled(series, width, reading),
        divergence=describe_divergence(chosen, series, reading.weights),
    )


def _observations_per_epoch(trajectory: xr.Dataset, batches_per_epoch: float | None) -> tuple[float | None, list[str]]:
    steps, kind = trajectory["step"].to_numpy(), str(trajectory.attrs["step_kind"])
    if batches_per_epoch is not None:
        return observations_per_epoch(steps, kind, batches_per_epoch), []
    stored = trajectory.attrs.get("observations_per_epoch")
    if stored is not None and math.isfinite(stored):
        return float(stored), []
    if kind == "epoch":
        return observations_per_epoch(steps, kind, 1.0), []
    found = from_epochs(with_start(steps, trajectory["epoch"].to_numpy(), kind))
    if found is not None:
        return found, []
    hint = (
        "their steps are only a count; if names hold the training step, analyze the checkpoints with --step-pattern"
        if kind == "ordinal"
        else "say how many steps an epoch has with --batches-per-epoch N"
    )
    return None, [f"the curves are not smoothed: the observations per epoch are not known; {hint}"]


def _warn_of_constant(series: Series, reading: Reading, auc_layers: Array) -> list[str]:
    warnings = []
    if curves.is_constant(series.weights[reading.weights]):
        warnings.append("the weight change is constant: it has no scale, AUC_W and ρ are undefined")
    if curves.is_constant(series.patterns[reading.patterns]):
        warnings.append("the pattern change is constant: it has no scale, AUC_P and ρ are undefined")
    flat = int(np.isnan(auc_layers).sum())
    if flat:
        warnings.append(f"{flat} of {len(auc_layers)} layers have a constant pattern change: their AUC is undefined")
    return warnings


def _thresholds(series: Series, width: int, reading: Reading) -> tuple[Threshold, ...]:
    """Find the thresholds on the `valid` curves: zero-padded ends would make every curve settle."""
    whole = curves.valid_intervals(len(series.steps), width)
    steps = series.steps[whole]

    def found(values: Array, tau: float) -> int | None:
        if curves.is_constant(values):
            return None
        scaled = curves.normalise(curves.smooth(values, width, ends="valid"), clip=reading.clip)
        index = curves.settled_from(scaled, tau, at_least=width)
        return None if index is None else int(steps[index])

    thresholds = []
    for tau in curves.THRESHOLDS:
        step_w = found(series.weights[reading.weights], tau)
        step_p = found(series.patterns[reading.patterns], tau)
        ratio = None
        if step_w is not None and step_p is not None and step_p != series.start:
            ratio = (step_w - series.start) / (step_p - series.start)
        thresholds.append(Threshold(tau, step_w, step_p, ratio))
    return tuple(thresholds)


def _layers(trajectory: xr.Dataset, auc_layers: Array) -> tuple[LayerResult, ...]:
    names = (trajectory[name].to_numpy() for name in ("layer", "layer_op", "layer_path", "layer_size"))
    return tuple(
        LayerResult(str(layer), str(op), str(path), int(units), float(auc))
        for layer, op, path, units, auc in zip(*names, auc_layers, strict=True)
    )


def _curves(whole: xr.Dataset, trajectory: xr.Dataset, series: Series, width: int, reading: Reading) -> xr.Dataset:
    """Label the series; under `valid` ends the intervals without a whole window are NaN."""
    raw = {
        "weight": (("step",), series.weights[reading.weights]),
        "pattern": (("step",), series.patterns[reading.patterns]),
        "layer_pattern": (("step", "layer"), series.layers),
    }
    variables: dict[str, Any] = {}
    for name, (dims, values) in raw.items():
        smoothed, normalised = np.full_like(values, np.nan), np.full_like(values, np.nan)
        kept = slice(None) if reading.ends == "same" else curves.valid_intervals(len(values), width)
        with np.errstate(invalid="ignore"):
            smoothed[kept] = curves.smooth(values, width, ends=reading.ends)
            scaled = curves.normalise(smoothed[kept], clip=reading.clip)
            normalised[kept] = np.where(curves.is_constant(values), np.nan, scaled)
        variables[f"{name}_change"] = (dims, values)
        variables[f"{name}_smoothed"] = (dims, smoothed)
        variables[f"{name}_normalised"] = (dims, normalised)
    if series.distance is not None:
        variables["weight_distance"] = (("step",), series.distance)
    for curve in quantity_curves(whole, trajectory, usable_intervals(trajectory)):
        variables[str(curve.name)] = curve
    coordinates = {"step": series.steps, "layer": trajectory["layer"].to_numpy()}
    if any("tensor" in getattr(values, "dims", ()) for values in variables.values()):
        coordinates["tensor"] = trajectory["tensor"].to_numpy()
    return xr.Dataset(
        variables, coords=coordinates, attrs={"window": width, "step_kind": trajectory.attrs["step_kind"]}
    )


def _noise_floor(trajectory: xr.Dataset) -> float | None:
    stored = trajectory.attrs.get("noise_floor")
    return None if stored is None or not math.isfinite(stored) else float(stored)


def _late(series: Series) -> float:
    """Return the mean Δa over the last tenth of the intervals."""
    changes = series.patterns["layer"]
    return float(changes[-max(1, round(LATE * len(changes))) :].mean())
