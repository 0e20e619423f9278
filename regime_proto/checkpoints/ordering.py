"""Puts checkpoints in step order: by the steps stored in them, otherwise by their names.

The order is never lexicographic, never by a decimal and never by time: ``step_10`` comes after
``step_9``, scores rise and fall, and copying a folder changes times.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import PurePath
from typing import Generic, TypeVar

from regime_proto.checkpoints.counters import Choice, Counter, Doubt, choose
from regime_proto.checkpoints.pattern_option import StepPattern, option
from regime_proto.checkpoints.payload import Label
from regime_proto.checkpoints.step_in_name import has_integer, is_pointer
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.text import printable

P = TypeVar("P", bound=str | PurePath)

_PATTERNS_SHOWN = 4
# Names may follow thousands of schemes; those with the most names come first.
_PATTERNS_TRIED = 100
# Among at least so many names, a single unlike one is a stray file rather than a second kind.
_FEW = 4
_SAVE_STEPS = "save the step in the checkpoints, or give a pattern that finds it in the names: --step-pattern REGEX"
_AS_THE_PAYLOADS_SAY = "the number in the name, which the payloads confirm to be the step"


@dataclass(frozen=True)
class Order(Generic[P]):
    """Steps of checkpoints.

    Parameters
    ----------
    steps : mapping of path or name to int
        In increasing order.
    kind : str
        ``step``, ``epoch`` or ``ordinal``.
    reason : str
        Where the steps were taken from, in words.
    others : tuple of Order
        The different orders that other rules would give.
    """

    steps: Mapping[P, int]
    kind: str
    reason: str
    others: "tuple[Order[P], ...]" = ()


def name_of(path: str | PurePath) -> str:
    """Return the name of a checkpoint: the name of its file or folder, or the text itself."""
    return path if isinstance(path, str) else path.name


def without_pointers(paths: Sequence[P]) -> tuple[list[P], list[P]]:
    """Return the checkpoints that form the sequence, and those that do not help to order it.

    The latter are ``last.pt``, ``best.pt`` and the like, and names without a number. If all names
    are of that kind, as in a folder that holds only the best checkpoints, those with a number form
    the sequence; if none has a number, all of them do.
    """
    numbered = [path for path in paths if has_integer(name_of(path))]
    kept = [path for path in numbered if not is_pointer(name_of(path))] or numbered or list(paths)
    if len(kept) == len(paths):
        return kept, []
    chosen = set(kept)
    return kept, [path for path in paths if path not in chosen]


def sequence_of(paths: Sequence[P]) -> list[P]:
    """Return checkpoints in the order given by their names alone; none if that is unclear."""
    choice = choose(_names(paths))
    return [] if choice.taken is None or choice.doubt else [paths[index] for index in choice.taken.ranks]


def by_pattern(pattern: str, paths: Sequence[P]) -> Order[P]:
    """Return the order from ``--step-pattern``, for the checkpoints whose names match it.

    Raises
    ------
    RegimeError
        It is not a regular expression with one group of digits, matches no name, or finds a step twice.
    """
    expression = StepPattern(pattern)
    numbers = expression.numbers_in([name_of(path) for path in paths])
    steps = {path: number for path, number in zip(paths, numbers, strict=True) if number is not None}
    ordered = _arranged(Order(steps, expression.kind, "--step-pattern"))
    return replace(ordered, others=_others(ordered, _candidates(list(steps), choose(_names(list(steps))), {})))


def order(paths: Sequence[P], peek: Callable[[P], Label] | None = None, *, beside: Sequence[P] = ()) -> Order[P]:
    """Find the step of every checkpoint.

    The rules are tried in turn: the step in the payload, a step in the name, the epoch in the payload, an epoch in
    the name, the integer in the name that enumerates the files. The first rule that gives every file a step applies.
    Names are used only if a single integer in them can be meant and the payloads do not contradict it.

    Parameters
    ----------
    paths : sequence of path or str
        Names, or paths, of which only the names are used.
    peek : callable, optional
        Reads a label. It is called for three files only if their labels agree with the names or are
        empty. Without it, names alone decide.
    beside : sequence of path or str
        The other files; proposed patterns must not find a step twice among these either.

    Raises
    ------
    RegimeError
        Two files have the same step, or no rule finds the steps; the message proposes a ``--step-pattern``.
    """
    if not paths:
        return Order({}, "ordinal", "no checkpoint")
    choice = choose(_names(paths))
    sample = _sample(paths, choice, peek)
    quick = _as_sampled(paths, choice, sample)
    if quick is not None:
        return replace(quick, others=_others(quick, _candidates(paths, choice, {})))
    silent = bool(sample) and all(label.step is None and label.epoch is None for label in sample.values())
    labels = {} if silent or peek is None else {path: peek(path) for path in paths}
    doubt = _Refusal([*paths, *beside])
    taken = _by_payload_step(paths, choice, labels, doubt) or _by_the_rest(paths, choice, labels, doubt)
    return replace(taken, others=_others(taken, _candidates(paths, choice, labels)))


def with_step(ordered: Order[P], path: P, step: int) -> Order[P]:
    """Return an order with one more checkpoint; in the other orders it follows the same predecessor."""
    before = [known for known, number in ordered.steps.items() if number < step]
    others = tuple(_inserted(other, path, after=before[-1] if before else None) for other in ordered.others)
    return replace(_arranged(replace(ordered, steps={**ordered.steps, path: step})), others=others)


def _inserted(ordered: Order[P], path: P, *, after: P | None) -> Order[P]:
    paths = list(ordered.steps)
    paths.insert(0 if after is None else paths.index(after) + 1, path)
    # Only the sequence matters here: the steps of different rules are not comparable.
    return replace(ordered, steps={known: place for place, known in enumerate(paths)}, kind="ordinal")


def _names(paths: Iterable[P]) -> list[str]:
    return [name_of(path) for path in paths]


def _by_counter(paths: Sequence[P], counter: Counter) -> Order[P]:
    return Order(dict(zip(paths, counter.values, strict=True)), counter.kind, str(counter))


def _by_steps(labels: Mapping[P, Label]) -> Order[P] | None:
    steps = {path: label.step for path, label in labels.items() if label.step is not None}
    return Order(steps, "step", "the step in the payload") if steps and len(steps) == len(labels) else None


def _by_epochs(labels: Mapping[P, Label]) -> Order[P] | None:
    epochs = {
        path: int(label.epoch)
        for path, label in labels.items()
        if label.epoch is not None and float(label.epoch).is_integer()
    }
    return Order(epochs, "epoch", "the epoch in the payload") if epochs and len(epochs) == len(labels) else None


def _sample(paths: Sequence[P], choice: Choice, peek: Callable[[P], Label] | None) -> dict[P, Label]:
    """Return the labels of the first, middle and last file, without those that cannot be read.

    A damaged file raises an error later, when it is read in its turn. Names without numbers carry
    no information; then all files must be read.
    """
    if peek is None or not choice.parsed:
        return {}
    ranked = [paths[index] for index in choice.taken.ranks] if choice.taken else list(paths)
    labels = {}
    for path in dict.fromkeys((ranked[0], ranked[len(ranked) // 2], ranked[-1])):
        with contextlib.suppress(RegimeError):
            labels[path] = peek(path)
    return labels


def _as_sampled(paths: Sequence[P], choice: Choice, sample: Mapping[P, Label]) -> Order[P] | None:
    """Return the order of the names if it is clearly that of the steps and three payloads do not contradict it."""
    if choice.doubt or choice.taken is None:
        return None
    taken = _by_counter(paths, choice.taken)
    if taken.kind == "step" and _is_distinct(taken) and _agrees(taken, sample):
        return _arranged(taken)
    for counter in choice.counters:
        found = replace(_by_counter(paths, counter), kind="step", reason=_AS_THE_PAYLOADS_SAY)
        if sample and all(label.step is not None for label in sample.values()) and _agrees(found, sample):
            return _arranged(found)
    return None


def _agrees(found: Order[P], labels: Mapping[P, Label]) -> bool:
    says = all(label.step in (None, found.steps[path]) for path, label in labels.items())
    return says and _contradiction(found, labels) is None


def _contradiction(found: Order[P], labels: Mapping[P, Label]) -> str | None:
    """Return in words where payloads count backwards in an order."""
    ranked = [path for path in sorted(found.steps, key=found.steps.__getitem__) if path in labels]
    steps = [(path, labels[path].step) for path in ranked if labels[path].step is not None]
    epochs = [(path, labels[path].epoch) for path in ranked if labels[path].epoch is not None]
    for what, numbers in (("step", steps), ("epoch", epochs)):
        for (path, number), (following, next_number) in pairwise(numbers):
            if number is not None and next_number is not None and next_number < number:
                return (
                    f"the payload of {name_of(path)} has {what} {number:g} and that of "
                    f"{name_of(following)} {next_number:g}, but {found.reason} gives the opposite "
                    "order"
                )
    return None


def _by_payload_step(
    paths: Sequence[P], choice: Choice, labels: Mapping[P, Label], refusal: "_Refusal[P]"
) -> Order[P] | None:
    found = _by_steps(labels)
    if found is None:
        return None
    if not _is_distinct(found):
        raise refusal.repeated(found, choice.doubt or _alternatives(choice))
    return _of_one_run(paths, choice, found, refusal)


def _by_the_rest(paths: Sequence[P], choice: Choice, labels: Mapping[P, Label], refusal: "_Refusal[P]") -> Order[P]:
    """Return the order by the name, or by the epoch in the payload; a clear step in the name overrides that epoch."""
    named = _by_counter(paths, choice.taken) if choice.taken else None
    epochs = _by_epochs(labels)
    has_step = named is not None and named.kind == "step" and choice.doubt is None
    if epochs is not None and _is_distinct(epochs) and not has_step:
        return _of_one_run(paths, choice, epochs, refusal)
    if choice.doubt is not None and choice.doubt.reason:
        raise refusal.unclear(choice.doubt)
    found = named or epochs
    if found is None:
        raise _no_number(paths)
    if not _is_distinct(found):
        raise refusal.repeated(found, choice.doubt or _alternatives(choice))
    contradiction = _contradiction(found, labels)
    if contradiction is not None:
        raise refusal.unclear(Doubt(contradiction, choice.patterns))
    return _arranged(found)


def _of_one_run(paths: Sequence[P], choice: Choice, found: Order[P], refusal: "_Refusal[P]") -> Order[P]:
    """Return an order of the payloads, unless the names belong to several runs."""
    doubt = choice.parallel or choice.stages_fall([found.steps[path] for path in paths])
    if doubt is not None:
        raise refusal.unclear(doubt)
    return _arranged(found)


def _no_number(paths: Sequence[P]) -> RegimeError:
    unknown = next((path for path in paths if not has_integer(name_of(path))), paths[0])
    return RegimeError(
        f"{unknown}: no step in the payload and no number in the name that could count steps; "
        "name checkpoints like step_000100.pt, or save a dict with a 'step'"
    )


def _alternatives(choice: Choice) -> Doubt:
    return Doubt("", choice.patterns)


def _candidates(paths: Sequence[P], choice: Choice, labels: Mapping[P, Label]) -> list[Order[P]]:
    """Return all orders that could be meant, the payloads' first."""
    said = [found for found in (_by_steps(labels), _by_epochs(labels)) if found is not None]
    named = [_by_counter(paths, counter) for counter in choice.counters]
    return [_arranged(found) for found in (*said, *named) if _is_distinct(found)]


def _others(taken: Order[P], candidates: Sequence[Order[P]]) -> tuple[Order[P], ...]:
    sequence = list(taken.steps)
    others: dict[tuple[P, ...], Order[P]] = {}
    for found in candidates:
        if list(found.steps) != sequence:
            others.setdefault(tuple(found.steps), found)
    return tuple(others.values())


def _is_distinct(found: Order[P]) -> bool:
    return len(set(found.steps.values())) == len(found.steps)


def _arranged(found: Order[P]) -> Order[P]:
    """Return an order with its steps sorted.

    Raises
    ------
    RegimeError
        Two checkpoints have the same step.
    """
    if not _is_distinct(found):
        raise RegimeError(f"{_repeats(found)}; move one of them out of the folder")
    return replace(found, steps={path: found.steps[path] for path in sorted(found.steps, key=found.steps.__getitem__)})


def _repeats(found: Order[P]) -> str:
    paths = sorted(found.steps, key=found.steps.__getitem__)
    first, second = next(pair for pair in pairwise(paths) if found.steps[pair[0]] == found.steps[pair[1]])
    return f"{first} and {name_of(second)} both have {found.kind} {found.steps[first]} ({found.reason})"


@dataclass(frozen=True)
class _Refusal(Generic[P]):
    """Builds the errors for an unclear order, with the patterns that would make it clear.

    Parameters
    ----------
    paths : list of path or str
        All names that a pattern is matched against.
    """

    paths: list[P]

    def unclear(self, doubt: Doubt) -> RegimeError:
        options = self._options(doubt.patterns)
        first = self.paths[0]
        where = first if isinstance(first, str) else first.parent
        decide = f"choose what counts the checkpoints: {options}" if options else _SAVE_STEPS
        odd = self._odd_ones(doubt.patterns)
        if odd:
            like = printable(name_of(next(path for path in self.paths if path not in odd)))
            decide = (
                f"rename {printable(' and '.join(map(name_of, odd)))} like {like}, or move it out "
                f"of the folder if it is no checkpoint of this run; or exclude it with {options}"
            )
        return RegimeError(f"{where}: the order of the checkpoints is unclear: {printable(doubt.reason)}; {decide}")

    def repeated(self, found: Order[P], doubt: Doubt) -> RegimeError:
        options = self._options(doubt.patterns)
        decide = f", or choose what counts the checkpoints: {options}" if options else ""
        return RegimeError(f"{_repeats(found)}; move one of them out of the folder{decide}")

    def _options(self, patterns: Iterable[str]) -> str:
        """Return the proposed options that work, those that match most checkpoints first."""
        fitting = {pattern: self.fits(pattern) for pattern in islice(dict.fromkeys(patterns), _PATTERNS_TRIED)}
        best = sorted((pattern for pattern, count in fitting.items() if count > 1), key=lambda found: -fitting[found])
        shown = [f"{option(pattern)} ({fitting[pattern]} of {len(self.paths)})" for pattern in best[:_PATTERNS_SHOWN]]
        return " or ".join(shown) + (" …" if len(best) > _PATTERNS_SHOWN else "")

    def _odd_ones(self, patterns: Iterable[str]) -> list[P]:
        """Return the checkpoint that the best pattern would leave out; empty unless it is a single one."""
        best = max(islice(dict.fromkeys(patterns), _PATTERNS_TRIED), key=self.fits, default=None)
        if best is None or self.fits(best) != len(self.paths) - 1 or len(self.paths) < _FEW:
            return []
        numbers = StepPattern(best).numbers_in(_names(self.paths))
        return [path for path, number in zip(self.paths, numbers, strict=True) if number is None]

    def fits(self, pattern: str) -> int:
        """Return how many checkpoints a pattern puts in order; 0 if it fails."""
        try:
            numbers = StepPattern(pattern).numbers_in(_names(self.paths))
        except RegimeError:
            return 0
        found = [number for number in numbers if number is not None]
        return len(found) if len(set(found)) == len(found) else 0


def option_for_steps(paths: Sequence[P], beside: Sequence[P] = ()) -> str | None:
    """Return the option that uses the number counting the checkpoints as the step; None if there is none."""
    refusal = _Refusal([*paths, *beside])
    return next((option(pattern) for pattern in choose(_names(paths)).patterns if refusal.fits(pattern)), None)
