"""Whether the observations of a run are evenly far apart: changes over different strides are different quantities."""

import numpy as np

from regime_proto.analyzer.settled import FEW
from regime_proto.schema.types import Array

# Strides within this factor of the most frequent one count as equal to it; those of checkpoints by the clock vary.
EQUAL = 1.5
# The share of the changes, at the ends of their range, by which curves are not scaled.
FEW_ENOUGH = 0.005


def describe_strides(steps: Array, lengths: Array, step_kind: str, width: int) -> str | None:
    """Say in one line that the changes of a run are over different strides, and which part has one.

    A single change over another stride is passed over: the last checkpoint of a run often comes early.

    Parameters
    ----------
    steps : (step,) int64
        Steps of all observations.
    lengths : (interval,) float64
        Steps of each change that is used.
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
        f"the changes are over {strides[0]:.0f} to {strides[-1]:.0f} {step_kind}s each, which makes them different "
        "quantities in one curve"
    )
    if width > 1:
        found += f", and the smoothing window of {width} observations spans different parts of an epoch"
    return f"{found}; {_part(steps, step_kind)}"


def _part(steps: Array, step_kind: str) -> str:
    """Return what to do: analyze the longest part of one stride, if it has some length."""
    strides = np.diff(steps)
    bounds = np.flatnonzero(np.diff(strides)) + 1
    starts, stops = np.concatenate([[0], bounds]), np.concatenate([bounds, [len(strides)]])
    spans = np.where(stops - starts >= FEW, steps[stops] - steps[starts], 0)
    longest = int(spans.argmax())
    if not spans[longest]:
        return "no part of some length has one stride: record, or save checkpoints, at every so many steps"
    first, last = int(steps[starts[longest]]), int(steps[stops[longest]])
    return f"analyze a part of one stride: --steps {first}:{last} (every {strides[starts[longest]]} {step_kind}s)"
