"""Tests the order of checkpoints by the weights: in the right order, the path from state to state is short.

The test detects that another possible order makes the path much shorter, that neighbours are swapped, or that there is
no order at all. It cannot detect a reversed run, whose path has the same length. It cannot tell two interleaved runs
from weights that oscillate, and it says nothing where the weights hardly move.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from regime_proto.checkpoints.source import Checkpoint, Source
from regime_proto.integrity.sketch import Sketches
from regime_proto.schema.types import Array

# All limits are between the values of real training runs and those of the same runs in a wrong order.
# The path in the other order must be shorter by this factor.
_LONGER = 1.25
# At nine of ten places in an order, a swap must not shorten the path. Without other evidence for that order, it must
# clearly lengthen it.
_MOST, _ORDERLY, _CLEARLY = 0.9, 1.0, 0.95
# Weights that oscillate are nearer to the state after the next on both sides; swapped states are near each other too.
_SWING = 2.0
# With fewer changing numbers, or fewer places, there is too little evidence.
_MOVING, _MOVING_EACH, _FEWEST_STATES, _FEWEST_PLACES = 64, 16, 5, 5
# Without an order, the next state is about as far as any other, and so are later ones. A path that always goes to the
# nearest state is shorter by the factor _SHORTCUT.
_FAR, _NEVER_NEAR, _SHORTCUT, _SHUFFLED_STATES, _LOOKED_AT = 0.8, 0.65, 2.5, 12, 128


@dataclass(frozen=True)
class Contradiction:
    """An order that the weights contradict.

    Parameters
    ----------
    message : str
        What was found.
    steps : tuple of int
        The steps of the checkpoints that seem to be out of place; empty if it is the whole sequence.
    """

    message: str
    steps: tuple[int, ...] = ()


def contradiction(source: Source, sketches: Sketches, without: Sequence[int] = ()) -> Contradiction | None:
    """Return the evidence of the weights against the order of a source; None without clear evidence.

    Parameters
    ----------
    source : Source
        The source, with the other orders that its checkpoints could have.
    sketches : Sketches
        Sketches of all or some of its checkpoints.
    without : sequence of int
        Steps to leave out, because their states are known to be out of place.
    """
    checkpoints, table = sketches.of([one for one in source.checkpoints if one.step not in without])
    if len(table) < _FEWEST_STATES or (table.max(axis=0) != table.min(axis=0)).sum() < _MOVING:
        return None
    way = _Way(table)
    return _against_others(source, checkpoints, way) or _swapped(checkpoints, way) or _shuffled(way)


class _Way:
    """Distances between states, by their numbers in the current order."""

    def __init__(self, table: Array) -> None:
        self._table = table
        self.count = len(table)

    def between(self, some: Array, others: Array) -> Array:
        """Return ‖Δ‖ of pairs of states."""
        blocks = [slice(start, start + 256) for start in range(0, len(some), 256)]
        # In float32, the squares of large weights would be infinite.
        deltas = (np.subtract(self._table[some[at]], self._table[others[at]], dtype=np.float64) for at in blocks)
        squares = [np.square(delta).sum(axis=1) for delta in deltas]
        return np.sqrt(np.concatenate(squares)) if squares else np.empty(0)

    def moving(self, order: Array) -> Array:
        """Return whether enough numbers change in each of three intervals in a row."""
        changed = np.array([(self._table[a] != self._table[b]).sum() for a, b in pairwise(order)])
        return np.asarray(np.lib.stride_tricks.sliding_window_view(changed, 3).min(axis=1) >= _MOVING_EACH)

    def swaps(self, order: Array) -> tuple[Array, Array]:
        """Return, for every place of an order, the path length relative to that with the two neighbours swapped.

        Returns
        -------
        times : (place,) float64
            The ratio; NaN where too few numbers change.
        alike : (place,) bool
            Whether the two are about as near to each other as to their new neighbours.
        """
        a, b, c, d = order[:-3], order[1:-2], order[2:-1], order[3:]
        middle, outer = self.between(b, c), self.between(a, c) + self.between(b, d)
        with np.errstate(invalid="ignore", divide="ignore"):
            times = (self.between(a, b) + middle + self.between(c, d)) / (outer + middle)
        return np.where(self.moving(order), times, np.nan), middle <= _SWING * outer / 2

    def is_orderly(self, order: Array, limit: float) -> bool:
        """Whether swapping would not improve an order at nearly all places."""
        times = self.swaps(order)[0]
        known = times[np.isfinite(times)]
        return len(known) > 0 and bool(np.quantile(known, _MOST) <= limit)


def _against_others(source: Source, checkpoints: Sequence[Checkpoint], way: _Way) -> Contradiction | None:
    """Compare the order with the others that the checkpoints could have."""
    numbers = {checkpoint.path: number for number, checkpoint in enumerate(checkpoints)}
    found: tuple[float, str] | None = None
    for other in source.other_orders:
        order = np.array([numbers[path] for path in other.paths if path in numbers])
        if len(set(order.tolist())) != way.count or len(order) != way.count:
            continue
        times = _times_longer(way, order)
        if times >= _LONGER and way.is_orderly(order, _ORDERLY) and (found is None or times > found[0]):
            found = times, other.reason
    if found is None:
        return None
    return Contradiction(
        f"the weights contradict the order ({source.order}): where the order from {found[1]} differs, its path through "
        f"the weights is {1 / found[0]:.0%} as long"
    )


def _times_longer(way: _Way, order: Array) -> float:
    """Return the path length relative to another order, over the intervals in which the two differ."""
    taken = _intervals(np.arange(way.count))
    other = _intervals(order)
    ours, theirs = (np.array(sorted(side), int).reshape(-1, 2) for side in (taken - other, other - taken))
    if not len(theirs):
        return 1.0
    length = way.between(theirs[:, 0], theirs[:, 1]).sum()
    return float(way.between(ours[:, 0], ours[:, 1]).sum() / length) if length else 1.0


def _intervals(order: Array) -> set[tuple[int, int]]:
    # A path and its reversal have the same intervals.
    return {(min(pair), max(pair)) for pair in pairwise(order.tolist())}


def _swapped(checkpoints: Sequence[Checkpoint], way: _Way) -> Contradiction | None:
    """Find swapped neighbours, in a run that is otherwise in order."""
    order = np.arange(way.count)
    times, alike = way.swaps(order)
    if np.isfinite(times).sum() < _FEWEST_PLACES:
        return None
    swapped: list[int] = []
    for place in np.argsort(-np.nan_to_num(times)).tolist():
        if times[place] >= _LONGER and alike[place] and all(abs(place - other) > 1 for other in swapped):
            swapped.append(place)
    if not swapped:
        return None
    first = np.array(sorted(swapped)) + 1
    order[first], order[first + 1] = first + 1, first
    if not way.is_orderly(order, _CLEARLY):
        return None
    steps = tuple(checkpoints[number].step for place in first.tolist() for number in (place, place + 1))
    shown = ", ".join(f"{steps[at]} and {steps[at + 1]}" for at in range(0, min(len(steps), 6), 2))
    more = f" and {len(first) - 3} more pairs" if len(first) > 3 else ""
    return Contradiction(
        f"{shown}{more} seem to be swapped: the other way round, the path of the weights past them would be at most "
        f"{1 / times[first - 1].min():.0%} as long",
        steps,
    )


def _shuffled(way: _Way) -> Contradiction | None:
    """Find a sequence without an order, although the weights have a much shorter path in another order."""
    if way.count < _SHUFFLED_STATES:
        return None
    some = np.unique(np.linspace(0, way.count - 1, _LOOKED_AT).round().astype(int))
    apart = np.stack([way.between(np.full(len(some), number), some) for number in some])
    following = np.diag(apart, 1).mean()
    all_pairs = apart.sum() / (len(some) * (len(some) - 1))
    nearest = min(np.diag(apart, lag).mean() for lag in range(2, len(some) // 2))
    if following < _FAR * all_pairs or nearest < _NEVER_NEAR * following:
        return None
    order = _by_nearest(apart)
    times = np.diag(apart, 1).sum() / apart[order[:-1], order[1:]].sum()
    if times < _SHORTCUT or not way.is_orderly(some[order], _ORDERLY):
        return None
    return Contradiction(
        "the weights show no order: each state is as far from the next as from any other, but a path through the same "
        f"states could be {1 / times:.0%} as long"
    )


def _by_nearest(apart: Array) -> Array:
    """Return a path through all states that always goes to the nearest one left: the shortest of several."""

    def way_from(first: int) -> list[int]:
        order = [first]
        left = np.ones(len(apart), bool)
        left[first] = False
        while left.any():
            order.append(int(np.where(left, apart[order[-1]], np.inf).argmin()))
            left[order[-1]] = False
        return order

    ways = [np.array(way_from(first)) for first in range(0, len(apart), max(1, len(apart) // 8))]
    return min(ways, key=lambda order: float(apart[order[:-1], order[1:]].sum()))
