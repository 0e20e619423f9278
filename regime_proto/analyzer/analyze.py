"""Analyzes a trajectory: curves, AUC, ρ, thresholds, and the range of ρ over all readings."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from regime_proto.analyzer import curves
from regime_proto.analyzer.areas import area_of, areas
from regime_proto.analyzer.diverged import describe_divergence
from regime_proto.analyzer.flatness import describe_flat
from regime_proto.analyzer.quantity_curves import quantity_curves, summaries
from regime_proto.analyzer.readings import ALL_READINGS, Reading
from regime_proto.analyzer.recorded import read_recorded
from regime_proto.analyzer.result import LayerResult, Result, Threshold
from regime_proto.analyzer.selection import restrict
from regime_proto.analyzer.series import Series, read_series, usable_intervals
from regime_proto.analyzer.settings import RESAMPLES, AnalysisSettings
from regime_proto.analyzer.settled import FEW, settled
from regime_proto.analyzer.stages import labels_in
from regime_proto.analyzer.strides import describe_strides
from regime_proto.analyzer.structure import read_structure
from regime_proto.analyzer.uncertainty import uncertainty
from regime_proto.schema.dataset import open_as
from regime_proto.schema.doubts import describe_invalid, describe_order
from regime_proto.schema.epochs import from_epochs, observations_per_epoch, with_start
from regime_proto.schema.errors import RegimeError, TrajectoryError
from regime_proto.schema.notes import ORDER_DOUBT, read_notes
from regime_proto.schema.reader import checked, open_known
from regime_proto.schema.types import Array
from regime_proto.schema.validation.trust import Record

# The last tenth of a run is late. A Δa below ten times the noise floor may be due to rounding.
LATE = 0.1
ABOVE_NOISE = 10.0


def analyze(
    trajectory: str | os.PathLike[str] | xr.Dataset,
    *,
    preset: str = "paper",
    steps: str | None = None,
    batches_per_epoch: float | None = None,
    resamples: int = RESAMPLES,
    stable: float | None = None,
    chaotic: float | None = None,
) -> Result:
    """Analyze a trajectory (docs/protocol.md, sections 2 to 5).

    Parameters
    ----------
    trajectory : path or xarray.Dataset
        A trajectory file, or the result of `open_trajectory`.
    preset : {"paper", "strict"}
        ``paper`` pads the smoothing with zeros, as the published numbers appear to; ``strict`` uses whole
        windows only.
    steps : str, optional
        ``"A:B"``, both included: restrict the analysis.
    batches_per_epoch : float, optional
        Training steps per epoch, which determine the smoothing window. Overrides the value in the file.
    resamples : int
        Number of bootstrap resamples, of the probe and of the run, for the intervals; at least 20, or 0 for none.
    stable : float, optional
        Observations whose cosine between consecutive fingerprints is at least this are labelled STABLE. Default: the
        70th percentile in this run. Labels need the quantity ``fingerprint_cosine``.
    chaotic : float, optional
        Observations whose cosine is at most this are labelled CHAOTIC. Default: the 30th percentile in this run.

    Raises
    ------
    RegimeError
        The file cannot be read, fewer than two observations are left, or labels are requested without fingerprints.
    """
    settings = AnalysisSettings(preset, steps, batches_per_epoch, resamples, stable, chaotic)
    return analyze_with(trajectory, settings)


def analyze_with(
    trajectory: str | os.PathLike[str] | xr.Dataset, settings: AnalysisSettings, *, known: Record | None = None
) -> Result:
    """Analyze a trajectory as `analyze` does, with checked settings.

    Parameters
    ----------
    trajectory : path or xarray.Dataset
    settings : AnalysisSettings
    known : Record, optional
        Result of an earlier check of the file.

    Raises
    ------
    RegimeError
        The file cannot be read, or fewer than two observations are left.
    """
    if isinstance(trajectory, xr.Dataset):
        return _analyzed(trajectory, settings)
    try:
        known = known or checked(Path(trajectory))
        with open_as(Path(trajectory), known) as opened:
            found = _analyzed(opened, settings, where=os.fspath(trajectory))
        with open_known(Path(trajectory), known.state) as file:
            return replace(found, trajectory=os.fspath(trajectory), notes=read_notes(file))
    except OSError as error:
        raise TrajectoryError(f"{os.fspath(trajectory)}: damaged data ({error}); run regime validate") from None


def _analyzed(trajectory: xr.Dataset, settings: AnalysisSettings, where: str = "") -> Result:
    reading, resamples = settings.reading, settings.resamples
    chosen = restrict(trajectory, settings.steps)
    series = read_series(chosen)
    if not len(series.steps):
        raise RegimeError("no two consecutive observations are valid, so there is no change to analyze")
    per_epoch, unknown = _observations_per_epoch(chosen, settings.batches_per_epoch)
    width = curves.window(per_epoch, len(series.steps))
    found = {choice: areas(series, width, choice) for choice in ALL_READINGS}
    rhos = {choice: curves.ratio(*both) for choice, both in found.items()}
    defined = [rho for rho in rhos.values() if math.isfinite(rho)]
    auc_w, auc_p = found[reading]
    auc_layers = area_of(series.layers, series.lengths, width, reading)
    noise, late = _noise_floor(trajectory), _late(series)
    all_steps = chosen["step"].to_numpy()
    doubts = [
        unknown,
        describe_order(trajectory.attrs.get(ORDER_DOUBT)),
        describe_invalid(chosen),
        _describe_cut_off(trajectory),
        describe_strides(all_steps, series.lengths, str(chosen.attrs["step_kind"]), width),
        _describe_few(series),
        describe_flat(series, width, reading),
        *_describe_constant(series, reading, auc_layers),
        _describe_noise(noise, late),
    ]
    strides = np.unique(np.diff(all_steps))
    labelled = _curves(trajectory, chosen, series, width, reading)
    return Result(
        rho=rhos[reading],
        auc_w=auc_w,
        auc_p=auc_p,
        rho_range=(min(defined), max(defined)) if defined else None,
        preset=settings.preset,
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
        warnings=tuple(doubt for doubt in doubts if doubt),
        settled=settled(series, width, reading),
        divergence=describe_divergence(chosen, series, reading.weights),
        structure=read_structure(trajectory, chosen, labelled),
        recorded=read_recorded(chosen, per_epoch),
        labels=labels_in(labelled, stable=settings.stable, chaotic=settings.chaotic, where=where),
    )


def _describe_cut_off(trajectory: xr.Dataset) -> str | None:
    planned, there = trajectory.attrs.get("planned_observations"), trajectory.sizes["step"]
    if planned is None or planned <= there:
        return None
    return f"the run was cut off: the file holds {there} of {planned} observations"


def _describe_few(series: Series) -> str | None:
    if len(series.steps) >= FEW:
        return None
    few = "each curve is scaled by its own extremes, so AUC and ρ mean little with so few"
    return f"only {len(series.steps)} changes: {few}"


def _describe_noise(noise: float | None, late: float) -> str | None:
    if noise is None or late >= ABOVE_NOISE * noise:
        return None
    return (
        f"late in the run, Δa is {late:.1e}, within a factor of ten of the noise floor, {noise:.1e}: those flips may "
        "be due to rounding"
    )


def _observations_per_epoch(trajectory: xr.Dataset, batches_per_epoch: float | None) -> tuple[float | None, str | None]:
    """Return the observations per epoch and None; if they are unknown, None and advice."""
    steps, kind = trajectory["step"].to_numpy(), str(trajectory.attrs["step_kind"])
    if batches_per_epoch is not None:
        return observations_per_epoch(steps, kind, batches_per_epoch), None
    stored = trajectory.attrs.get("observations_per_epoch")
    if stored is not None and math.isfinite(stored):
        return float(stored), None
    if kind == "epoch":
        return observations_per_epoch(steps, kind, 1.0), None
    found = from_epochs(with_start(steps, trajectory["epoch"].to_numpy(), kind))
    if found is not None:
        return found, None
    hint = (
        "steps are only counted; if file names hold the training step, analyze the checkpoints with --step-pattern"
        if kind == "ordinal"
        else "give the number of steps per epoch with --batches-per-epoch N"
    )
    return None, f"the curves are not smoothed: the number of observations per epoch is unknown; {hint}"


def _describe_constant(series: Series, reading: Reading, auc_layers: Array) -> list[str]:
    found = []
    if curves.is_constant(series.weights[reading.weights]):
        found.append("the weight change is constant: it has no scale, so AUC_W and ρ are undefined")
    if curves.is_constant(series.patterns[reading.patterns]):
        found.append("the pattern change is constant: it has no scale, so AUC_P and ρ are undefined")
    flat = int(np.isnan(auc_layers).sum())
    if flat:
        found.append(f"{flat} of {len(auc_layers)} layers have a constant pattern change, so their AUC is undefined")
    return found


def _thresholds(series: Series, width: int, reading: Reading) -> tuple[Threshold, ...]:
    """Find the thresholds on the `valid` curves; with zero-padded ends, every curve would settle."""
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
    """Return the series as labelled curves; with `valid` ends, intervals without a whole window are NaN."""
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
        variables,
        coords=coordinates,
        attrs={"window": width, "step_kind": trajectory.attrs["step_kind"], "run_id": str(whole.attrs["run_id"])},
    )


def _noise_floor(trajectory: xr.Dataset) -> float | None:
    stored = trajectory.attrs.get("noise_floor")
    return None if stored is None or not math.isfinite(stored) else float(stored)


def _late(series: Series) -> float:
    """Return the mean Δa over the last tenth of the intervals."""
    changes = series.patterns["layer"]
    return float(changes[-max(1, round(LATE * len(changes))) :].mean())
