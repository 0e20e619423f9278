"""The faults that a sequence of checkpoints can have: one pure function per rule, from summaries to findings."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import groupby, pairwise

from regime_proto.integrity.findings import ERROR, WARNING, Finding, spell_names
from regime_proto.integrity.scan import Form, Summary, Unreadable, combined
from regime_proto.integrity.sketch import counted_names

# How many neighbours on each side define the usual grid, the share of them that must agree, and the number in all.
_AROUND, _AGREE, _ENOUGH = 6, 0.6, 4
# At an end of the run, a gap is reported only after a long row of equal intervals, and only if it is short.
_LONG, _LITTLE = 9, 4
# Tensors that pruning and parametrizations of torch save in addition to the weights, and do not train.
_CONSTANT = ("_mask", ".base", "._u", "._v")
# A sequence with more gaps than this share has an irregular grid by design.
_FEW = 0.2
_SELECT = "the run diverged here, or the file is damaged: analyze the longest part without it, --steps {}:{}"


def unreadable(found: Sequence[Unreadable]) -> Iterator[Finding]:
    """Find checkpoints that are damaged or cut off, and those whose shards do not fit the index."""
    for entry in found:
        rule = "mixed-shards" if entry.inconsistent else "unreadable"
        yield Finding(rule, entry.reason, (entry.step,))


def duplicates(summaries: Sequence[Summary]) -> Iterator[Finding]:
    """Find states that are the same in every number, and early ones that hold the final weights."""
    groups: dict[bytes, list[int]] = {}
    for index, summary in enumerate(summaries):
        groups.setdefault(summary.digest, []).append(index)
    for group in groups.values():
        # Weights that are all NaN are equal too; another rule reports them.
        if len(group) == 1 or summaries[group[0]].non_finite:
            continue
        last = len(summaries) - 1
        # States right before the last one only show that training stopped.
        early = _before_the_end(group) if group[-1] == last else []
        if early:
            steps = tuple(summaries[index].step for index in early)
            verb = "holds" if len(steps) == 1 else "hold"
            message = f"{verb} exactly the weights of the last step, {summaries[last].step}"
            yield Finding("final-weights", message, steps)
        rest = [index for index in group if index not in early]
        if len(rest) < 2:
            continue
        message = "exactly the same weights"
        steps = tuple(summaries[index].step for index in rest)
        if rest == [0, 1]:
            remark = ": a learning rate of 0 in the first step has this effect"
            yield Finding("duplicate", message + remark, steps, severity=WARNING)
        else:
            yield Finding("duplicate", message, steps)


def _before_the_end(group: Sequence[int]) -> list[int]:
    """Return the indices of a group that are not part of the unbroken row at its end."""
    start = len(group) - 1
    while start and group[start - 1] == group[start] - 1:
        start -= 1
    return list(group[:start])


def mixed_shards(summaries: Sequence[Summary]) -> Iterator[Finding]:
    """Find shards of one step in the folder of another.

    A shard that returns to an earlier value after a change is out of place. So is a shard that stays the same for one
    interval, if it changes before and after, and in nearly all others; frozen layers stay the same for longer.
    """
    places: dict[tuple[str, ...], list[int]] = {}
    files: dict[tuple[str, ...], str] = {}
    for index, summary in enumerate(summaries):
        for file, names in summary.shards.items():
            key = tuple(sorted(name for name in names if name in summary.digests))
            if any(summary.forms[name].floating for name in key):
                places.setdefault(key, []).append(index)
                files[key] = file
    found: dict[tuple[int, int], list[tuple[str, ...]]] = {}
    for key, indices in places.items():
        for pair in _out_of_place(summaries, key, indices):
            found.setdefault(_suspect_first(summaries, key, pair), []).append(key)
    for (suspect, other), keys in found.items():
        shown = spell_names([files[key] for key in keys])
        verb = "is" if len(keys) == 1 else "are"
        yield Finding(
            "mixed-shards",
            f"{shown} {verb} exactly the same as in step {summaries[other].step}, the other shards are not",
            (summaries[suspect].step, summaries[other].step),
            tuple(name for key in keys for name in key),
        )


def _out_of_place(
    summaries: Sequence[Summary], names: tuple[str, ...], indices: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Return pairs of states whose shard is the same although it should not be."""
    digests = {index: combined(summaries[index].digests, names) for index in indices}
    changed = [digests[index] != digests[following] for index, following in pairwise(indices)]
    if True not in changed:
        return
    first, last = changed.index(True), len(changed) - 1 - changed[::-1].index(True)
    resting = [number for number in range(first, last) if not changed[number]]
    if len(resting) <= max(1, (last - first) // 10):
        for number in resting:
            pair = indices[number], indices[number + 1]
            if summaries[pair[0]].digest != summaries[pair[1]].digest:
                yield pair
    seen: dict[bytes, int] = {}
    for number, index in enumerate(indices):
        earlier = seen.get(digests[index])
        if earlier is not None and changed[number - 1] and summaries[earlier].digest != summaries[index].digest:
            yield earlier, index
        seen[digests[index]] = index


def _suspect_first(summaries: Sequence[Summary], names: Sequence[str], pair: tuple[int, int]) -> tuple[int, int]:
    """Return two states, the suspect first: the one in which the shard is far from its neighbours."""

    def far(index: int, other: int) -> float:
        steps = [(index, index - 1), (index + 1, index + 1)]
        changes = [
            sum(summaries[later].changes.get(name, 0.0) for name in names)
            for later, neighbour in steps
            if neighbour != other and 0 <= neighbour < len(summaries)
        ]
        return min(changes, default=0.0)

    first, second = pair
    return (first, second) if far(first, second) > far(second, first) else (second, first)


def unchanging(
    summaries: Sequence[Summary],
    *,
    frozen: Sequence[str] = (),
    trainable: Collection[str] | None = None,
    used: Collection[str] = (),
) -> Iterator[Finding]:
    """Find floating tensors that should change but do not, and frozen ones that do.

    Parameters
    ----------
    summaries : sequence of Summary
    frozen : sequence of str
        Globs for the names of tensors that must not change.
    trainable, used : collection of str
        The trainable tensors according to a program, and those of them that its output depends on. `trainable` is None
        without a program.
    """
    if len({summary.digest for summary in summaries}) < 2:
        return
    digests = _digests(summaries)
    meant = {name for name in digests if any(fnmatchcase(name, pattern) for pattern in frozen)}
    still = [name for name, found in digests.items() if len(found) == 1 and name not in meant]
    odd = [name for name in still if trainable is None or name in trainable]
    counted = set(counted_names(digests, trainable))
    if counted and counted.issubset(odd):
        yield Finding("never-changes", f"no weights change: {_counted(odd)}", (), tuple(odd))
    else:
        forms = {name: form for summary in summaries for name, form in summary.forms.items()}
        yield from _standing(odd, _untrained(odd, used, forms), len(digests))
    yield from _thawed(digests, meant)


def _thawed(digests: Mapping[str, set[bytes]], frozen: Collection[str]) -> Iterator[Finding]:
    """Report tensors that should be frozen, but change."""
    moved = [name for name, found in digests.items() if name in frozen and len(found) > 1]
    if moved:
        yield Finding("frozen-changes", f"{_counted(moved)}: given as frozen, but changing", (), tuple(moved))


def _digests(summaries: Sequence[Summary]) -> dict[str, set[bytes]]:
    """Return the digests of every floating tensor that most states hold and that may be trained."""
    held: dict[str, list[bytes]] = {}
    for summary in summaries:
        for name, digest in summary.digests.items():
            if summary.forms[name].floating and summary.forms[name].size and not name.endswith(_CONSTANT):
                held.setdefault(name, []).append(digest)
    # Another rule reports tensors that few states hold.
    return {name: set(found) for name, found in held.items() if 2 * len(found) > len(summaries)}


def _untrained(names: Sequence[str], used: Collection[str], forms: Mapping[str, Form]) -> list[str]:
    """Return those of the unchanging tensors for which a gradient is expected.

    Without a program, they cannot be told from constants or unused parts. A bias that is added before a normalization
    has no gradient, so it stays the same by itself.
    """
    return [name for name in names if name in used and len(forms[name].shape) > 1]


def _standing(names: Sequence[str], untrained: Sequence[str], count: int) -> Iterator[Finding]:
    """Report unchanging tensors, out of `count`: an error for those that are untrained, else a warning."""
    others = [name for name in names if name not in untrained]
    for odd, severity in ((untrained, ERROR), (others, WARNING)):
        if odd:
            verb = "is the same" if len(odd) == 1 else "are the same"
            message = f"{_counted(odd)} of {count} {verb} in all states"
            yield Finding("never-changes", message, (), tuple(odd), severity=severity)


def odd_tensors(summaries: Sequence[Summary]) -> Iterator[Finding]:
    """Find tensors that are missing, extra, or have a different shape or dtype from those in most states."""
    forms: dict[str, Counter[Form]] = {}
    for summary in summaries:
        for name, form in summary.forms.items():
            forms.setdefault(name, Counter())[form] += 1
    common = {name for name, counter in forms.items() if 2 * counter.total() > len(summaries)}
    usual = {name: counter.most_common(1)[0][0] for name, counter in forms.items()}
    found: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for summary in summaries:
        for what, names in _oddities(summary, common, usual).items():
            found.setdefault((what, tuple(names)), []).append(summary.step)
    for (what, odd), steps in found.items():
        yield Finding("odd-tensors", f"{what}: {_counted(odd)}", tuple(steps), odd)


def _oddities(summary: Summary, common: Collection[str], usual: dict[str, Form]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in sorted(common - summary.forms.keys()):
        found.setdefault("missing", []).append(name)
    for name, form in summary.forms.items():
        if name not in common:
            found.setdefault("in few other states", []).append(name)
        elif form.shape != usual[name].shape:
            what = f"shape {list(form.shape)}, elsewhere {list(usual[name].shape)}"
            found.setdefault(what, []).append(name)
        elif form.dtype != usual[name].dtype:
            found.setdefault(f"{form.dtype}, elsewhere {usual[name].dtype}", []).append(name)
    return found


def non_finite(summaries: Sequence[Summary], steps: Sequence[int]) -> Iterator[Finding]:
    """Find NaN and Inf; consecutive states are reported as one finding.

    Parameters
    ----------
    summaries : sequence of Summary
    steps : sequence of int
        The steps of all checkpoints, including those that could not be read.
    """
    finite = {summary.step for summary in summaries if not summary.non_finite}
    stretches = [list(row) for is_finite, row in groupby(steps, key=finite.__contains__) if is_finite]
    longest = max(stretches, key=len, default=[])
    remedy = _SELECT.format(longest[0], longest[-1]) if len(longest) > 1 else ""
    for spoiled, row in groupby(summaries, key=lambda summary: bool(summary.non_finite)):
        if not spoiled:
            continue
        states = list(row)
        names = sorted({name for state in states for name in state.non_finite})
        first = f", first in {spell_names(states[0].non_finite)}" if len(states[0].non_finite) < len(names) else ""
        yield Finding(
            "non-finite",
            f"NaN or Inf in {_counted(names)}{first}",
            tuple(state.step for state in states),
            tuple(names),
            remedy=remedy,
        )


def missing_steps(steps: Sequence[int]) -> Iterator[Finding]:
    """Find gaps in a regular grid; the grid may widen along the run, and the last step may be off the grid."""
    intervals = [later - earlier for earlier, later in pairwise(steps)]
    grids = [_grid(intervals, index) for index in range(len(intervals))]
    gaps = [
        list(range(steps[index] + grid, steps[index + 1], grid)) for index, grid in enumerate(grids) if grid is not None
    ]
    if not gaps or len(gaps) > max(1, _FEW * len(intervals)):
        return
    missing = tuple(step for gap in gaps for step in gap)
    verb = "is" if len(missing) == 1 else "are"
    yield Finding("missing-steps", f"{verb} missing in an otherwise regular grid", missing)


def _grid(intervals: Sequence[int], index: int) -> int | None:
    """Return the grid on both sides of an interval, if the interval skips points of the grid."""
    left, right = intervals[max(0, index - _AROUND) : index], intervals[index + 1 : index + 1 + _AROUND]
    if left and right:
        grid = _shared(left[::-1], right)
    else:
        longer = intervals[max(0, index - _LONG) : index] or intervals[index + 1 : index + 1 + _LONG]
        regular = len(longer) == _LONG and len(set(longer)) == 1
        grid = longer[0] if regular and intervals[index] <= _LITTLE * longer[0] else None
    if grid is None or intervals[index] == grid or intervals[index] % grid:
        return None
    return grid


def _shared(before: Sequence[int], after: Sequence[int]) -> int | None:
    """Return the usual interval of both sides, or of one side if the nearest interval of the other agrees."""
    usual, other = _usual(before), _usual(after)
    if usual is not None and usual == other and [*before, *after].count(usual) >= _ENOUGH:
        return usual
    for value, side, nearest in ((usual, before, after[0]), (other, after, before[0])):
        if value is not None and value == nearest and side.count(value) >= _ENOUGH:
            return value
    return None


def _usual(intervals: Sequence[int]) -> int | None:
    value, count = min(Counter(intervals).items(), key=lambda item: (-item[1], item[0]))
    return value if count >= _AGREE * len(intervals) else None


def _counted(names: Sequence[str]) -> str:
    """Return a short text for names, with their count if not all are shown."""
    shown = spell_names(names)
    return shown if len(names) <= 3 else f"{len(names)} tensors ({shown})"
