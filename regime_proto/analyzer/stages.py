"""Stages of training, found from the loss, and labels of a run, found from the angles between fingerprints.

The literature describes an initial plateau, a descent and a secondary plateau of the loss, but not how to separate
them. Here the logarithm of the loss is approximated by a piecewise linear function. `ruptures` finds its breakpoints,
the Bayesian information criterion their number. The thresholds that define a plateau are ours.
"""

import importlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from regime_proto.analyzer.derived import EACH
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.layout import QUANTITY_PREFIX
from regime_proto.schema.types import Array

FLAT = 0.1
"""A piece is a plateau if its slope is less than this fraction of the steepest descent."""
SMALL = 0.05
"""A piece is also a plateau if the logarithm of the loss changes by less than this over it."""
# More pieces than this say nothing about stages. This many points suffice to find them, and keep the search fast.
_MOST_PIECES = 5
_POINTS = 120
_SHORTEST = 4
_NEEDED = 'loss stages need ruptures: pip install "regime-proto[report]"'

# Parts of the names that libraries use for losses.
_LOSSES = ("loss", "perplexity", "error", "nll", "cross_entropy")

STABLE, TRANSITION, CHAOTIC = "STABLE", "TRANSITION", "CHAOTIC"
_COSINES = f"{QUANTITY_PREFIX}fingerprint_cosine"
PERCENTILES = (30.0, 70.0)
"""Percentiles of the cosines of the run itself; by construction, 30 % of the run are then stable and 30 % chaotic."""


@dataclass(frozen=True)
class Stage:
    """A part of a run in which the logarithm of the loss is approximately linear.

    Parameters
    ----------
    kind : str
        ``initial plateau``, ``descent``, ``secondary plateau`` (after a descent) or ``rise``.
    first, last : int
        First and last step.
    slope : float
        Change of the natural logarithm of the loss per step.
    """

    kind: str
    first: int
    last: int
    slope: float


def is_loss(name: str) -> bool:
    """Whether a metric is a loss, which training decreases."""
    return any(part in name.lower() for part in _LOSSES)


def loss_stages(steps: Array, loss: Array, *, flat: float = FLAT) -> tuple[Stage, ...]:
    """Return the stages of a run; empty if fewer than eight losses are positive.

    Parameters
    ----------
    steps : (step,) int64
    loss : (step,) float64
        Smoothed or not. Values that are not finite and positive are ignored.
    flat : float
        See `FLAT`.

    Raises
    ------
    RegimeError
        ruptures is not installed.
    """
    known = np.isfinite(loss) & (loss > 0)
    steps, logs = steps[known].astype(np.float64), np.log(loss[known])
    if len(steps) < 2 * _SHORTEST:
        return ()
    chosen, values = _thinned(steps, logs)
    bounds = [0, *_breaks(values), len(values) - 1]
    heights = _fitted(values, bounds)
    found = [
        (chosen[start], chosen[stop], above, below)
        for (start, above), (stop, below) in itertools.pairwise(zip(bounds, heights, strict=True))
    ]
    steepest = max(0.0, *((above - below) / (stop - start) for start, stop, above, below in found))
    stages: list[Stage] = []
    for start, stop, above, below in found:
        change = below - above
        # A piece that hardly changes the loss is a plateau, however short it is.
        level = np.inf if abs(change) < SMALL else flat * steepest
        kind = _kind(change / (stop - start), level, after_descent=any(stage.kind == "descent" for stage in stages))
        stages.append(Stage(kind, int(start), int(stop), float(change / (stop - start))))
    return tuple(_joined(stages))


def _joined(stages: Sequence[Stage]) -> Iterator[Stage]:
    """Yield stages; consecutive pieces of the same kind become one stage."""
    for _, group in itertools.groupby(stages, key=lambda stage: stage.kind):
        same = list(group)
        first, last = same[0].first, same[-1].last
        change = sum(stage.slope * (stage.last - stage.first) for stage in same)
        yield Stage(same[0].kind, first, last, change / max(1, last - first))


def _kind(slope: float, flat: float, *, after_descent: bool) -> str:
    if slope < -flat:
        return "descent"
    if slope > flat and slope > 0:
        return "rise"
    return "secondary plateau" if after_descent else "initial plateau"


def _thinned(steps: Array, logs: Array) -> tuple[Array, Array]:
    """Return evenly spaced points, each the mean of the points around it."""
    if len(steps) <= _POINTS:
        return steps, logs
    groups = np.array_split(np.arange(len(steps)), _POINTS)
    means = np.array([logs[group].mean() for group in groups])
    return np.array([steps[group].mean() for group in groups]), means


def _breaks(values: Array) -> list[int]:
    """Return the breakpoints, whose number the information criterion determines; empty for a straight line."""
    try:
        ruptures: Any = importlib.import_module("ruptures")
    except ModuleNotFoundError:
        raise RegimeError(_NEEDED) from None
    signal, count = values.reshape(-1, 1), len(values)
    search = ruptures.Dynp(model="clinear", min_size=_SHORTEST, jump=max(1, count // 60)).fit(signal)
    best, found = np.inf, []
    for pieces in range(1, _MOST_PIECES + 1):
        if pieces * _SHORTEST > count:
            break
        breaks = [] if pieces == 1 else [stop for stop in search.predict(n_bkps=pieces - 1) if stop < count]
        # The parameters are a value at each end and breakpoint, and the positions of the breakpoints.
        freedom = 2 * pieces
        errors = _squared_error(values, [0, *breaks, count - 1])
        criterion = count * np.log(max(errors, 1e-12) / count) + freedom * np.log(count)
        if criterion < best:
            best, found = criterion, breaks
    return found


def _fitted(values: Array, knots: Sequence[int]) -> Array:
    """Return the heights, at given knots, of the piecewise linear function that best fits the values."""
    hats = np.array([np.interp(np.arange(len(values)), knots, row) for row in np.eye(len(knots))]).T
    heights: Array = np.linalg.lstsq(hats, values)[0]
    return heights


def _squared_error(values: Array, knots: Sequence[int]) -> float:
    """Return the squared error of the piecewise linear function that best fits the values."""
    line = np.interp(np.arange(len(values)), knots, _fitted(values, knots))
    return float(np.sum(np.square(values - line)))


@dataclass(frozen=True)
class Labels:
    """Labels of the observations of a run (Leap+Verify).

    Parameters
    ----------
    labels : tuple of str
        `STABLE` if the cosine is at least `stable`, `CHAOTIC` if it is at most `chaotic`, else `TRANSITION`; "" if the
        cosine is unknown.
    stable : float
        Cosine from which an observation is `STABLE`.
    chaotic : float
        Cosine up to which an observation is `CHAOTIC`.
    own : bool
        Whether the thresholds are percentiles of the run itself, which fixes the share of each label by construction.
    """

    labels: tuple[str, ...]
    stable: float
    chaotic: float
    own: bool

    def share(self, label: str) -> float:
        """Return the fraction of labelled observations that have a given label."""
        return self.labels.count(label) / sum(map(bool, self.labels))


def regime_labels(cosines: Array, *, stable: float | None = None, chaotic: float | None = None) -> Labels:
    """Return the label of every observation, from the cosine between its fingerprint and the previous one.

    Parameters
    ----------
    cosines : (step,) float64
        The quantity ``fingerprint_cosine``.
    stable, chaotic : float, optional
        Thresholds. Default: percentiles of the run itself (`PERCENTILES`).

    Raises
    ------
    RegimeError
        As in `require_thresholds`; or no cosine is known.
    """
    require_thresholds(stable, chaotic)
    known = cosines[np.isfinite(cosines)]
    if not len(known):
        raise RegimeError("the run has no fingerprint_cosine; measure it with --measure fingerprint_cosine")
    low, high = np.percentile(known, PERCENTILES)
    above, below = high if stable is None else stable, low if chaotic is None else chaotic
    labels = tuple(
        "" if not np.isfinite(cosine) else STABLE if cosine >= above else CHAOTIC if cosine <= below else TRANSITION
        for cosine in cosines
    )
    return Labels(labels, float(above), float(below), own=stable is None)


def require_thresholds(stable: float | None, chaotic: float | None) -> None:
    """Raise an error unless the thresholds of labels are valid, or both are None.

    Raises
    ------
    RegimeError
        A threshold is not a cosine, the two are in the wrong order, or one is given without the other.
    """
    for name, value in (("--stable", stable), ("--chaotic", chaotic)):
        if value is not None and not -1 <= value <= 1:
            raise RegimeError(f"{name} {value:g}: expected a cosine between -1 and 1")
    if stable is None and chaotic is None:
        return
    if stable is None or chaotic is None:
        given, missing = ("--chaotic", "--stable") if stable is None else ("--stable", "--chaotic")
        raise RegimeError(
            f"{given} without {missing}: give both, or neither to use the {PERCENTILES[1]:.0f}th and the "
            f"{PERCENTILES[0]:.0f}th percentile of the cosines of this run"
        )
    if chaotic >= stable:
        raise RegimeError(f"--chaotic {chaotic:g} and --stable {stable:g}: expected --chaotic below --stable")


def _unmeasured(data: xr.Dataset, where: str) -> str:
    """Return a message on how to measure fingerprints in addition to the measured quantities."""
    if _COSINES in data:
        return f"{where or 'the trajectory'}: no fingerprint_cosine is known at these steps, so there are no labels"
    # The curves of a result also include those of each tensor, layer or sample.
    held = {str(name).removesuffix(EACH) for name in data.data_vars if str(name).startswith(QUANTITY_PREFIX)}
    names = [*sorted(name.removeprefix(QUANTITY_PREFIX) for name in held), _COSINES.removeprefix(QUANTITY_PREFIX)]
    measured = " ".join(f"--measure {name}" for name in names)
    return (
        f"{where or 'the trajectory'}: holds no fingerprint_cosine, which labels need; to measure it, all checkpoints "
        f"must be read again: `regime convert CHECKPOINTS -o {where or 'run.h5'} {measured} --overwrite`"
    )


def labels_in(
    data: xr.Dataset, *, stable: float | None = None, chaotic: float | None = None, where: str = ""
) -> Labels | None:
    """Return the labels of a trajectory or of the curves of a result; None if no fingerprint was measured.

    Parameters
    ----------
    data : xarray.Dataset
    stable, chaotic : float, optional
        See `regime_labels`.
    where : str
        The file, for the message of an error.

    Raises
    ------
    RegimeError
        Thresholds are given, but there are no cosines to compare with them.
    """
    require_thresholds(stable, chaotic)
    cosines = data[_COSINES].to_numpy() if _COSINES in data else np.full(1, np.nan)
    if not np.isfinite(cosines).any():
        if stable is None:
            return None
        raise RegimeError(_unmeasured(data, where))
    return regime_labels(cosines, stable=stable, chaotic=chaotic)
