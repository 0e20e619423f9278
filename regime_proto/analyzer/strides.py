"""Checks whether a run was observed at an even stride; changes over different strides are different quantities."""

import numpy as np

from regime_proto.analyzer.settled import FEW
from regime_proto.schema.types import Array

# Strides within this factor of the most frequent one count as equal; those of checkpoints saved by the clock vary.
EQUAL = 1.5
# Fraction of the changes, at either end of their range, that does not affect the scale of a curve.
FEW_ENOUGH = 0.005


def describe_strides(steps: Array, lengths: Array, step_kind: str, width: int) -> str | None:
    """Return one line that says that the strides of a run differ, and which part has a single stride; None if equal.

    A single change over a different stride is ignored, because the last checkpoint of a run often comes early.

    Parameters
    ----------
    steps : (step,) int64
        Steps of all observations.
    lengths : (interval,) float64
        Number of steps of each change that is used.
    step_kind : str
    width : int
        Length of the moving average, in observations.
    """
    if step_kind == "ordinal":
        return None
    strides, counts = np.unique(lengths, return_counts=True)
    usual = strides[counts.argmax()]
    different = int(counts[(strides > EQUAL * usual) | (strides < usual / EQUAL)].sum())
    if different <= max(1.0, FEW_ENOUGH * len(lengths)):
        return None
    found = (
        f"the changes span {strides[0]:.0f} to {strides[-1]:.0f} {step_kind}s each, so one curve mixes different "
        "quantities"
    )
    if width > 1:
        found += f", and the smoothing window of {width} observations spans different fractions of an epoch"
    return f"{found}; {_part(steps, step_kind)}"


def _part(steps: Array, step_kind: str) -> str:
    """Return advice: analyze the longest part with a single stride, if it is long enough."""
    strides = np.diff(steps)
    bounds = np.flatnonzero(np.diff(strides)) + 1
    starts, stops = np.concatenate([[0], bounds]), np.concatenate([bounds, [len(strides)]])
    spans = np.where(stops - starts >= FEW, steps[stops] - steps[starts], 0)
    longest = int(spans.argmax())
    if not spans[longest]:
        return "no part is long enough with a single stride: record, or save checkpoints, at a fixed interval of steps"
    first, last = int(steps[starts[longest]]), int(steps[stops[longest]])
    return (
        f"analyze a part with a single stride: --steps {first}:{last} (every {strides[starts[longest]]} {step_kind}s)"
    )
