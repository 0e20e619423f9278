"""Finds states of a sequence that belong to another run."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from regime_proto.integrity.findings import WARNING, Finding, spell_names, spell_steps
from regime_proto.integrity.scan import Scan, Summary

# A small tensor may reach the same numbers in two runs, for example if it is clipped.
_PART = 0.02


@dataclass(frozen=True)
class _Shared:
    """A state that shares tensors with a state of another run.

    Parameters
    ----------
    step, other : int
        The step in the sequence, and the step in the other run.
    names : tuple of str
        The tensors that both states share.
    part : float
        Share of the weights in these tensors.
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
        """Return the state that holds most of these tensors of `summary`; None if no state holds any."""
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

    Two runs may start from the same weights, or one of them from a state of the other. Tensors that have not been
    trained since then stay the same for longer. So tensors that are still as in the first state of either run are
    ignored.

    Parameters
    ----------
    summaries, others : sequence of Summary
        The summaries of both runs, in step order.
    where : str
        Name of the other run in messages.
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
        yield _finding("another-run", f"same weights as {where}, {_steps(whole)}", whole)
    if parts:
        least = min(found.part for found in parts)
        message = f"at least {least:.0%} of the weights are the same as in {where}, {_steps(parts)}"
        message += f": {spell_names(parts[0].names)}"
        yield _finding("another-run", message, parts)
    if starts:
        first = starts[:1]
        message = f"same weights as {where}, {_steps(first)}: correct if one run starts from this state of the other"
        yield _finding("shared-start", message, first, severity=WARNING)


def unread(found: Scan, where: str) -> Iterator[Finding]:
    """Find checkpoints of the other run that could not be read."""
    if found.unreadable:
        first, count = found.unreadable[0], len(found.unreadable)
        message = f"{count} in {where} could not be compared; step {first.step} there: {first.reason}"
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
