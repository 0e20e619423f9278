"""Sudden changes, much larger than those around them: foreign states in a sequence, and switches to another run."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from regime_proto.integrity.findings import Finding
from regime_proto.integrity.scan import Summary
from regime_proto.integrity.sketch import counted_names

Distance = Callable[[int, int, Sequence[str]], float]

# A detour is recognised by its return, so its intervals need not stand out as much as a lasting jump.
_DETOUR, _DETOUR_AROUND, _LONGEST = 5.0, 2, 3
# "Much closer": relative to the smaller of the distances there and back.
_RETURN = 1 / 3
_JUMP, _JUMP_AROUND = 10.0, 3
_FEWEST = 2


@dataclass(frozen=True)
class Interval:
    """The change from one state to the next.

    Parameters
    ----------
    steps : int
        The number of steps in between.
    change : float
        Mean |Δ|.
    """

    steps: int
    change: float

    def exceeds(self, other: "Interval", factor: float) -> bool:
        """Whether the change is larger by a factor, both in total and per step.

        Weights that drift move in proportion to the number of steps; weights that oscillate do not.
        """
        per_step = self.change * other.steps >= factor * other.change * self.steps
        return self.change >= factor * other.change and per_step


def counted_tensors(summaries: Sequence[Summary], trainable: Collection[str] | None = None) -> list[str]:
    """Return the tensors of these states whose changes count; see `counted_names`."""
    floating = dict.fromkeys(name for summary in summaries for name, form in summary.forms.items() if form.floating)
    return counted_names(floating, trainable)


def jumps(summaries: Sequence[Summary], distance: Distance, names: Sequence[str]) -> Iterator[Finding]:
    """Find detours and lasting jumps.

    A detour is a row of up to three states. The states before and after it are much closer to each other than to the
    detour, and the changes there and back are far larger than the intervals around. A lasting jump is an interval that
    is an order of magnitude larger than its neighbours on both sides.

    Parameters
    ----------
    summaries : sequence of Summary
    distance : callable
        Returns Σ|Δ| between the states of two steps over some tensors. It is called only for suspicious states.
    names : sequence of str
        The tensors that count.
    """
    intervals = [_interval(earlier, later, names) for earlier, later in pairwise(summaries)]
    taken: set[int] = set()
    for first, last in _excursions(summaries, intervals, distance, names):
        steps = tuple(summary.step for summary in summaries[first : last + 1])
        ends = summaries[first - 1].step, summaries[last + 1].step
        times = _times(intervals, first - 1, last, _DETOUR_AROUND)
        yield Finding(
            "detour",
            f"far from its neighbours ({ends[0]} and {ends[1]}), which are close to each other: "
            f"the weights move {times}× as far as in the intervals around",
            steps,
        )
        taken.update(range(first - 1, last + 1))
    for index, interval in enumerate(intervals):
        sides = _sides(intervals, index, index, _JUMP_AROUND)
        enough = all(len(side) >= _FEWEST and any(other.change for other in side) for side in sides)
        if index not in taken and enough and all(interval.exceeds(other, _JUMP) for side in sides for other in side):
            times = _times(intervals, index, index, _JUMP_AROUND)
            yield Finding(
                "jump",
                f"the weights move {times}× as far since step {summaries[index].step} as in the intervals around, "
                "and do not come back",
                (summaries[index + 1].step,),
            )


def _interval(earlier: Summary, later: Summary, names: Sequence[str]) -> Interval:
    common = [name for name in names if name in later.changes]
    size = sum(later.forms[name].size for name in common)
    total = sum(later.changes[name] for name in common)
    return Interval(later.step - earlier.step, total / size if size else float("nan"))


def _excursions(
    summaries: Sequence[Summary], intervals: Sequence[Interval], distance: Distance, names: Sequence[str]
) -> Iterator[tuple[int, int]]:
    """Yield the first and last index of each row of states that do not belong between their neighbours."""
    taken: set[int] = set()
    for length in range(1, _LONGEST + 1):
        for first in range(1, len(summaries) - length):
            last = first + length - 1
            way, back = intervals[first - 1], intervals[last]
            if taken & set(range(first - 1, last + 1)) or not _is_far(intervals, first - 1, last):
                continue
            common = [
                name for name in names if name in summaries[first].changes and name in summaries[last + 1].changes
            ]
            size = sum(summaries[last + 1].forms[name].size for name in common)
            closed = distance(summaries[first - 1].step, summaries[last + 1].step, common) / max(size, 1)
            if closed <= _RETURN * min(way.change, back.change):
                taken.update(range(first - 1, last + 1))
                yield first, last


def _is_far(intervals: Sequence[Interval], way: int, back: int) -> bool:
    """Whether the intervals to some states and back are far larger than those around them and in between."""
    before, after = _sides(intervals, way, back, _DETOUR_AROUND)
    others = [*before, *after, *intervals[way + 1 : back]]
    if len(before) + len(after) < _FEWEST or not any(other.change for other in others):
        return False
    return all(intervals[end].exceeds(other, _DETOUR) for end in (way, back) for other in others)


def _sides(
    intervals: Sequence[Interval], first: int, last: int, around: int
) -> tuple[Sequence[Interval], Sequence[Interval]]:
    """Return the intervals before `first` and after `last`, without those next to NaN or Inf."""
    before, after = intervals[max(0, first - around) : first], intervals[last + 1 : last + 1 + around]
    return [one for one in before if one.change < float("inf")], [one for one in after if one.change < float("inf")]


def _times(intervals: Sequence[Interval], first: int, last: int, around: int) -> str:
    before, after = _sides(intervals, first, last, around)
    largest = max(other.change for other in (*before, *after))
    return f"{min(intervals[first].change, intervals[last].change) / largest:.0f}" if largest else "infinitely"
