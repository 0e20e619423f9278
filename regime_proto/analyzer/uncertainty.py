"""Bootstrap intervals of AUC_W, AUC_P and ρ."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from regime_proto.analyzer.areas import areas
from regime_proto.analyzer.readings import Reading
from regime_proto.analyzer.resampling import MIN_CHANGES, areas_of_other_courses, areas_of_other_probes
from regime_proto.analyzer.samples import read_sample_changes
from regime_proto.analyzer.series import Series
from regime_proto.schema.types import Array

LEVEL = 0.95
SEED = 0


@dataclass(frozen=True)
class Interval:
    """The interval of a number.

    Parameters
    ----------
    low : float
        Lower end of the interval, at the level of the `Uncertainty`.
    high : float
        Upper end of the interval.
    error : float
        Standard error; for ρ, the standard error of log ρ times ρ.
    """

    low: float
    high: float
    error: float


@dataclass(frozen=True)
class Intervals:
    """The intervals for one source of uncertainty; None if a number is undefined or does not depend on it.

    Parameters
    ----------
    auc_w : Interval or None
        Interval of AUC_W.
    auc_p : Interval or None
        Interval of AUC_P.
    rho : Interval or None
        Interval of ρ.
    """

    auc_w: Interval | None = None
    auc_p: Interval | None = None
    rho: Interval | None = None


@dataclass(frozen=True)
class Uncertainty:
    """The uncertainty of AUC_W, AUC_P and ρ of one run.

    It does not include the effect of a different training seed; compare repeated runs for that.

    Parameters
    ----------
    level : float
        Confidence level of the intervals.
    resamples : int
        Number of resamples of each kind.
    probe : Intervals or None
        Intervals for the choice of the probe samples, on which AUC_W does not depend; None for a single sample.
    course : Intervals or None
        Intervals for the noise of the run around its trend; None for fewer than 16 changes.
    """

    level: float
    resamples: int
    probe: Intervals | None
    course: Intervals | None

    @property
    def rho_span(self) -> tuple[float, float] | None:
        """The lowest and the highest end of the intervals of ρ; None if there are none."""
        known = [one.rho for one in (self.probe, self.course) if one is not None and one.rho is not None]
        return (min(rho.low for rho in known), max(rho.high for rho in known)) if known else None

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON object."""
        return {
            "level": self.level,
            "resamples": self.resamples,
            **{
                name: None if spread is None else {what: _plain(interval) for what, interval in vars(spread).items()}
                for name, spread in (("probe", self.probe), ("course", self.course))
            },
        }


def _plain(interval: Interval | None) -> dict[str, float] | None:
    """Return an interval for JSON; None if an end is not finite."""
    ends = {} if interval is None else dict(vars(interval))
    return ends if ends and all(map(math.isfinite, ends.values())) else None


def uncertainty(
    trajectory: xr.Dataset, series: Series, width: int, reading: Reading, *, resamples: int, seed: int = SEED
) -> Uncertainty:
    """Return the uncertainty of a run for one reading.

    Parameters
    ----------
    trajectory : xarray.Dataset
        Must hold exactly the observations of `series`.
    series : Series
    width : int
        Length of the moving average.
    reading : Reading
    resamples : int
        Number of resamples of each kind.
    seed : int
        Random seed of both kinds, so that the same file yields the same intervals.
    """
    found = areas(series, width, reading)
    common: dict[str, Any] = {
        "lengths": series.lengths,
        "width": width,
        "reading": reading,
        "resamples": resamples,
        "seed": seed,
    }
    probe = course = None
    if trajectory.sizes["sample"] > 1 and math.isfinite(found[1]):
        drawn = areas_of_other_probes(read_sample_changes(trajectory), **common)
        probe = _spread(found, np.stack([np.full(resamples, found[0]), drawn], axis=1))
    if len(series.steps) >= MIN_CHANGES and np.isfinite(found).all():
        weights, patterns = series.weights[reading.weights], series.patterns[reading.patterns]
        course = _spread(found, areas_of_other_courses(weights, patterns, **common))
    return Uncertainty(level=LEVEL, resamples=resamples, probe=probe, course=course)


def _spread(found: tuple[float, float], drawn: Array) -> Intervals:
    """Return the intervals, given AUC_W and AUC_P of the run and of the resamples, (resample, 2)."""
    auc_w, auc_p = (interval(value, of) if np.ptp(of) > 0 else None for value, of in zip(found, drawn.T, strict=True))
    return Intervals(auc_w, auc_p, _of_ratio(*found, *drawn.T))


def _of_ratio(auc_w: float, auc_p: float, weight_areas: Array, pattern_areas: Array) -> Interval | None:
    """Return the interval of ρ, computed for its logarithm because a ratio varies by factors."""
    usable = (weight_areas > 0) & (pattern_areas > 0)
    if not (auc_w > 0 and auc_p > 0 and usable.any()):
        return None
    found = interval(math.log(auc_w / auc_p), np.log(weight_areas[usable] / pattern_areas[usable]))
    return Interval(math.exp(found.low), math.exp(found.high), found.error * auc_w / auc_p)


def interval(value: float, drawn: Array, *, level: float = LEVEL) -> Interval:
    """Return the interval around a number, from the spread of its resamples around their mean."""
    deviations = drawn[np.isfinite(drawn)]
    deviations = deviations - deviations.mean()
    low, high = np.quantile(deviations, ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(value + low), float(value + high), float(deviations.std(ddof=1)))
