"""Finds states of a sequence that are those of another run."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from regime_proto.integrity.findings import WARNING, Finding, spell_names, spell_steps
from regime_proto.integrity.scan import Scan, Summary

# A small tensor may come to the same numbers in two runs, such as one that is clipped.
_PART = 0.02


@dataclass(frozen=True)
class _Shared:
    """A state whose tensors are those of another run's.

    Parameters
    ----------
    step, other : int
        In the sequence, and in the other run.
    names : tuple of str
        The tensors that are the same.
    part : float
        Share of the weights that they hold.
    """

    step: int
    other: int
    names: tuple[str, ...]
    part: float


@dataclass(frozen=True)
class _Other:
    """The other run, looked up by tensor."""

    summaries: Sequence[Summary]

    @cached_property
    def holders(self) -> Mapping[tuple[str, bytes], list[int]]:
        """The numbers of the states that hold a tensor, by its name and digest."""
        found: dict[tuple[str, bytes], list[int]] = {}
        for index, summary in enumerate(self.summaries):
            for name in _weights(summary):
                found.setdefault((name, summary.digests[name]), []).append(index)
        return found

    def nearest(self, summary: Summary, names: Sequence[str]) -> _Shared | None:
        """Return the state that holds most of some tensors of `summary`; None if none holds any."""
        shared: Counter[int] = Counter()
        for name in names:
            for index in self.holders.get((name, summary.digests[name]), ()):
                shared[index] += summary.forms[name].size
        if not shared:
            return None
        index, size = shared.most_common(1)[0]
        other = self.summaries[index]
        same = tuple(name for name in names if other.digests.get(name) == summary.digests[name])
        return _Shared(summary.step, other.step, same, size / sum(summary.forms[name].size for name in names))


def states_of_another(summaries: Sequence[Summary], others: Sequence[Summary], where: str) -> Iterator[Finding]:
    """Find states that hold weights of another run.

    Two runs may well start from the same weights, or one of them from a state of the other, and tensors that were not
    trained since are then the same for longer. So only what is no longer as in the first state of either run counts.

    Parameters
    ----------
    summaries, others : sequence of Summary
        Of both runs, in step order.
    where : str
        Names the other run.
    """
    other = _Other(others)
    starts: list[_Shared] = []
    whole: list[_Shared] = []
    parts: list[_Shared] = []
    for summary in summaries:
        names = _weights(summary)
        moved = [name for name in names if not _is_initial(summary, name, (summaries[0], others[0]))]
        found = other.nearest(summary, moved or names)
        if found is None:
            continue
        if not moved:
            starts += [found] if found.part == 1 else []
        elif found.part >= _PART:
            (whole if found.part == 1 else parts).append(found)
    if whole:
        yield _finding("another-run", f"weights of {where}, {_steps(whole)}", whole)
    if parts:
        least = min(found.part for found in parts)
        message = f"{least:.0%} of the weights or more are those of {where}, {_steps(parts)}"
        message += f": {spell_names(parts[0].names)}"
        yield _finding("another-run", message, parts)
    if starts:
        first = starts[:1]
        message = f"the weights of {where}, {_steps(first)}: sound if one run starts where the other does"
        yield _finding("shared-start", message, first, severity=WARNING)


def unread(found: Scan, where: str) -> Iterator[Finding]:
    """Find checkpoints of the other run that could not be read."""
    if found.unreadable:
        first, count = found.unreadable[0], len(found.unreadable)
        message = f"{count} of {where} could not be compared; step {first.step} there: {first.reason}"
        yield Finding("unreadable", message, severity=WARNING)


def _weights(summary: Summary) -> list[str]:
    return [name for name, form in summary.forms.items() if form.floating and form.size]


def _is_initial(summary: Summary, name: str, firsts: Sequence[Summary]) -> bool:
    return any(summary.digests[name] == first.digests.get(name) for first in firsts)


def _steps(shared: Sequence[_Shared]) -> str:
    steps = tuple(found.other for found in shared)
    return f"step{'s' * (len(steps) > 1)} {spell_steps(steps)} there"


def _finding(rule: str, message: str, shared: Sequence[_Shared], **more: str) -> Finding:
    tensors = shared[0].names if shared[0].part < 1 else ()
    return Finding(rule, message, tuple(found.step for found in shared), tensors, **more)
