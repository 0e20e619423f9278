"""Finds the number in checkpoint names that counts the checkpoints, and the evidence against each candidate."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from regime_proto.checkpoints.pattern_option import loose_pattern, pattern_for
from regime_proto.checkpoints.step_in_name import Number, Parsed, Role, parse_all

_DIGITS_OF_A_DATE = 6

Layouts = dict[tuple[tuple[str, str], ...], dict[int, list[Number]]]
"""The integers of every name, by form; names with the same kinds of integers share a form."""


@dataclass(frozen=True)
class Counter:
    """An integer that all names have.

    Parameters
    ----------
    numbers : tuple of Number
        One for each name.
    place : int
        Its position among the integers of a name, from 1.
    """

    numbers: tuple[Number, ...]
    place: int

    @cached_property
    def values(self) -> tuple[int, ...]:
        """Its value in every name."""
        return tuple(number.value or 0 for number in self.numbers)

    @property
    def role(self) -> Role:
        """What it counts."""
        return self.numbers[0].role

    @property
    def kind(self) -> str:
        """``step``, ``epoch`` or ``ordinal``."""
        return {Role.STEP: "step", Role.EPOCH: "epoch"}.get(self.role, "ordinal")

    @property
    def is_distinct(self) -> bool:
        """Whether all its values differ."""
        return len(set(self.values)) == len(self.values)

    @cached_property
    def ranks(self) -> list[int]:
        """The indices of the names, in the order of its values."""
        return sorted(range(len(self.values)), key=self.values.__getitem__)

    def __str__(self) -> str:
        if self.role in (Role.STEP, Role.EPOCH):
            return f"{'a' if self.role is Role.STEP else 'an'} {self.kind} in the file name"
        word = self.numbers[0].word
        return f"the number after {word!r} in the file name" if word else f"number {self.place} in the file name"


@dataclass(frozen=True)
class Doubt:
    """Why the names leave the order unclear, and the patterns that might be meant.

    Parameters
    ----------
    reason : str
    patterns : tuple of str
    """

    reason: str
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """What the names say about the order.

    Parameters
    ----------
    counters : tuple of Counter
        All integers that could count the checkpoints, since their values are distinct.
    taken : Counter, optional
        The one that does, or, if values repeat, the one that should.
    doubt : Doubt, optional
        Set if the choice is unclear.
    parallel : Doubt, optional
        Set if the names come from several runs; then the steps in the payloads are in doubt too.
    stages : tuple of Counter
        The stage numbers in the names, if they vary.
    parsed : tuple of Parsed
    """

    counters: tuple[Counter, ...] = ()
    taken: Counter | None = None
    doubt: Doubt | None = None
    parallel: Doubt | None = None
    stages: tuple[Counter, ...] = ()
    parsed: tuple[Parsed, ...] = ()

    @property
    def patterns(self) -> tuple[str, ...]:
        """Patterns of all integers that could count the checkpoints, that of the chosen one first."""
        counters = dict.fromkeys((*((self.taken,) if self.taken else ()), *reversed(self.counters)))
        return tuple(pattern for counter in counters for pattern in _patterns(self.parsed, counter))

    def stages_fall(self, steps: Sequence[int]) -> Doubt | None:
        """Return a doubt if the order returns to an earlier stage."""
        ranks = sorted(range(len(steps)), key=steps.__getitem__)
        for stage in self.stages:
            if not _rises([stage.values[index] for index in ranks]):
                return Doubt(
                    f"{_shown(self.parsed, stage)} falls and rises with the steps in the payloads", self.patterns
                )
        return None


def choose(names: Sequence[str]) -> Choice:
    """Find the integer that enumerates the names."""
    return _chosen(tuple(names))


# The names in a directory are used twice: to recognise it, and to order it.
@lru_cache(4)
def _chosen(names: tuple[str, ...]) -> Choice:
    return _choice(parse_all(names))


def _choice(parsed: Sequence[Parsed]) -> Choice:
    if not all(one.has_integer for one in parsed):
        return Choice()
    layouts = _layouts(parsed)
    counters = _of_one_layout(layouts) if len(layouts) == 1 else _of_all_layouts(layouts)
    varying = [counter for counter in counters if len(set(counter.values)) > 1]
    if not varying and len(layouts) == 1:
        return _of_constants(parsed, counters)
    parallel = _parallel(parsed, varying)
    taken, doubt = _of_varying(parsed, varying, layouts, counters)
    return Choice(
        counters=tuple(counter for counter in varying if counter.is_distinct),
        taken=taken,
        doubt=parallel or doubt,
        # If seeds are the only numbers in the names, the payloads may well form one sequence.
        parallel=parallel if any(counter.role is not Role.RUN for counter in varying) else None,
        stages=tuple(counter for counter in varying if counter.role is Role.STAGE),
        parsed=tuple(parsed),
    )


def _of_varying(
    parsed: Sequence[Parsed], varying: Sequence[Counter], layouts: Layouts, counters: Sequence[Counter]
) -> tuple[Counter | None, Doubt | None]:
    """Return the varying integer that counts the names, if there is one, and the doubt about it."""
    pool = _pool(varying)
    if len(layouts) > 1 and not (pool and _is_named_throughout(pool[-1], layouts, counters)):
        return None, _several_schemes(parsed, layouts)
    if not pool:
        repeated = _repeated(varying)
        return repeated, Doubt("", tuple(_patterns(parsed, repeated)))
    taken = _regular(pool)
    return taken, _disagreement(parsed, pool) or _against(parsed, taken, varying)


def _is_named_throughout(counter: Counter, layouts: Layouts, common: Sequence[Counter]) -> bool:
    """Whether a counter is named as a step or epoch, and no further number in some names contradicts it.

    A number without a word could be the thousands of the step or an update within it; one with a
    different word could be a stage of the run. An epoch next to a step must rise with it: otherwise
    the steps may be counted within each epoch.
    """
    if counter.role not in (Role.STEP, Role.EPOCH):
        return False
    ours = {number for other in common for number in other.numbers}
    names = _by_name(layouts)
    further = [number for found in names.values() for number in found if number not in ours]
    if not all(
        number.role in (Role.STEP, Role.EPOCH, Role.TOKENS) or (number.word and _is_long(number)) for number in further
    ):
        return False
    beside = [number.role for number in further if number.role is not counter.role]
    return all(_rises_with(counter, role, names) for role in (Role.EPOCH, Role.TOKENS) if role in beside)


def _rises_with(counter: Counter, role: Role, names: dict[int, list[Number]]) -> bool:
    """Whether the numbers of a role, in the names that have one, never fall as a counter rises.

    If they are all equal, the names that have them must come first: a step in the first epoch is
    also a step of the run.
    """
    values = [
        next((number.value or 0 for number in names[index] if number.role is role), None) for index in counter.ranks
    ]
    known = [value for value in values if value is not None]
    return _rises(known) and (len(set(known)) > 1 or None not in values[: len(known)])


def _of_constants(parsed: Sequence[Parsed], counters: Sequence[Counter]) -> Choice:
    """Return the choice if no integer varies: for a single name, its step, its epoch or its last integer."""
    named = [counter for role in (Role.STEP, Role.EPOCH) for counter in counters if counter.role is role]
    taken = next(iter([*named, *reversed(counters)]), None)
    return Choice(tuple(counters) if len(parsed) == 1 else (), taken, parsed=tuple(parsed))


def _layouts(parsed: Sequence[Parsed]) -> Layouts:
    """Return the layouts of names; a number that is a decimal in one name is a score in all names of that form."""
    forms: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for index, one in enumerate(parsed):
        forms.setdefault(tuple(number.form for number in one.numbers), []).append(index)
    layouts: Layouts = {}
    for form, indices in forms.items():
        places = [
            place
            for place in range(len(form))
            if all(parsed[index].numbers[place].value is not None for index in indices)
            and parsed[indices[0]].numbers[place].role is not Role.SCORE
        ]
        layout = layouts.setdefault(tuple(form[place] for place in places), {})
        layout |= {index: [parsed[index].numbers[place] for place in places] for index in indices}
    return layouts


def _by_name(layouts: Layouts) -> dict[int, list[Number]]:
    """Return the integers of every name, by the index of the name."""
    return {index: found for layout in layouts.values() for index, found in layout.items()}


def _of_one_layout(layouts: Layouts) -> list[Counter]:
    (layout,) = layouts.values()
    columns = zip(*(layout[index] for index in range(len(layout))), strict=True)
    return [Counter(tuple(column), place) for place, column in enumerate(columns, start=1)]


def _of_all_layouts(layouts: Layouts) -> list[Counter]:
    """Return the integers whose word occurs exactly once in every name, whatever else the names contain."""
    names = _by_name(layouts)
    ordered = [names[index] for index in range(len(names))]
    counters = []
    for place, first in enumerate(ordered[0], start=1):
        columns = [[number for number in found if number.form[0] == first.form[0]] for found in ordered]
        if first.word and all(len(found) == 1 for found in columns):
            counters.append(Counter(tuple(found[0] for found in columns), place))
    return counters


def _pool(varying: Sequence[Counter]) -> list[Counter]:
    """Return the integers of the best kind that distinguish all names; none if a named step or epoch does not."""
    steps = [counter for counter in varying if counter.role is Role.STEP]
    epochs = [counter for counter in varying if counter.role is Role.EPOCH]
    others = [counter for counter in varying if counter.role in (Role.TOKENS, Role.STAGE, Role.OTHER)]
    for counters in (steps, epochs) if steps else (epochs, others):
        distinct = [counter for counter in counters if counter.is_distinct]
        if distinct:
            return distinct
    return []


def _repeated(varying: Sequence[Counter]) -> Counter:
    for role in (Role.STEP, Role.EPOCH):
        named = [counter for counter in varying if counter.role is role]
        if named:
            return named[-1]
    return varying[-1]


def _regular(pool: Sequence[Counter]) -> Counter:
    """Return the last counter; among counters without a telling name, the last that is evenly spaced."""
    unnamed = [counter for counter in pool if counter.kind == "ordinal"]
    even = [counter for counter in unnamed if _is_even(sorted(counter.values))]
    return even[-1] if even else pool[-1]


def _is_even(values: Sequence[int]) -> bool:
    return len({following - value for value, following in itertools.pairwise(values)}) == 1


def _disagreement(parsed: Sequence[Parsed], pool: Sequence[Counter]) -> Doubt | None:
    for counter, other in itertools.pairwise(pool):
        if counter.ranks != other.ranks:
            return _orders_differ(parsed, counter, other)
    return None


def _orders_differ(parsed: Sequence[Parsed], counter: Counter, other: Counter) -> Doubt:
    return Doubt(
        f"{_shown(parsed, counter)} and {_shown(parsed, other)} give different orders",
        (*_patterns(parsed, counter), *_patterns(parsed, other)),
    )


def _against(parsed: Sequence[Parsed], taken: Counter, varying: Sequence[Counter]) -> Doubt | None:
    """Return the evidence against a counter: other integers, or how it is written."""
    for other in varying:
        if other is taken or _is_aside(other, taken):
            continue
        if other.is_distinct and other.ranks != taken.ranks:
            return _orders_differ(parsed, taken, other)
        # A step that restarts in every epoch is not a step of the run.
        restarts = other.role is Role.STEP and taken.role is Role.EPOCH
        if not restarts and not _rises([other.values[index] for index in taken.ranks]):
            return Doubt(
                f"{_shown(parsed, other)} falls and rises in the order of "
                f"{_shown(parsed, taken)}, so these may be several runs or several parts of one "
                "run",
                (*_patterns(parsed, taken, split=other), *_patterns(parsed, taken)),
            )
    return _differing_words(parsed, taken) or _unclear_units(parsed, taken) or _unclear_thousands(parsed, taken)


def _is_aside(other: Counter, taken: Counter) -> bool:
    """Whether a number next to a named step is unrelated to the order: a date, a job number, or a score after it."""
    if not other.is_distinct or other.role is not Role.OTHER or taken.role is Role.OTHER:
        return False
    return all(_is_long(number) for number in other.numbers) or (
        other.place > taken.place and not other.numbers[0].word
    )


def _is_long(number: Number) -> bool:
    return len(number.text) >= _DIGITS_OF_A_DATE


def _rises(values: Sequence[int]) -> bool:
    return all(value <= following for value, following in itertools.pairwise(values))


def _unclear_units(parsed: Sequence[Parsed], taken: Counter) -> Doubt | None:
    """Return a doubt if only some numbers have a unit, and no word marks them as counts."""
    units = {number.unit for number in taken.numbers if number.value}
    is_named = taken.role is not Role.OTHER and "b" not in {number.text[-1] for number in taken.numbers}
    if len(units) < 2 or "" not in units or is_named:
        return None
    with_unit = next(index for index, number in enumerate(taken.numbers) if number.unit)
    without = next(index for index, number in enumerate(taken.numbers) if not number.unit and number.value)
    return Doubt(
        f"{parsed[with_unit].name} has a letter after its number, which may be a unit; {parsed[without].name} has none",
        tuple(_patterns(parsed, taken)),
    )


def _unclear_thousands(parsed: Sequence[Parsed], taken: Counter) -> Doubt | None:
    """Return a doubt if all steps are followed by _000, which may be part of the step or a separate number."""
    if taken.role is not Role.STEP:
        return None
    for one, number in zip(parsed, taken.numbers, strict=True):
        rest = one.name[number.stop :]
        if not rest.startswith("_000") or rest[4:5].isdecimal() or len(number.text) > 3:
            return None
    first = taken.numbers[0].text
    patterns = tuple(_patterns(parsed, taken))
    return Doubt(
        f"{parsed[0].name} may be step {first} or step {first}000",
        (*(pattern.replace(r"(\d+)_\d+", r"(\d+_000)") for pattern in patterns), *patterns),
    )


def _differing_words(parsed: Sequence[Parsed], taken: Counter) -> Doubt | None:
    """Return a doubt if names have different words, such as those of two stages that each restart the count."""
    firsts = {one.words: one.name for one in reversed(parsed)}
    if len(firsts) == 1:
        return None
    loose = loose_pattern(parsed[0], taken.numbers)
    return Doubt(
        f"names with different words ({', '.join(list(firsts.values())[:-3:-1])}) may belong to "
        "several runs or to several parts of one run",
        (*_patterns(parsed, taken), *([] if loose is None else [loose])),
    )


def _parallel(parsed: Sequence[Parsed], varying: Sequence[Counter]) -> Doubt | None:
    """Return a doubt if the names of several seeds, folds or the like are mixed."""
    counters = [counter for counter in varying if counter.role is not Role.RUN]
    for word in dict.fromkeys(number.word for one in parsed for number in one.numbers if number.role is Role.RUN):
        values = [[number.value for number in one.numbers if number.word == word] for one in parsed]
        other = next((index for index, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            return Doubt(
                f"{parsed[0].name} and {parsed[other].name} differ in {word!r}, so they do not belong to one sequence",
                tuple(_patterns(parsed, _repeated(counters or varying))) if varying else (),
            )
    return None


def _several_schemes(parsed: Sequence[Parsed], layouts: Layouts) -> Doubt:
    firsts = [parsed[min(layout)].name for layout in layouts.values()]
    shown = ", ".join(firsts[:3]) + (", …" if len(firsts) > 3 else "")
    patterns: list[str] = []
    for layout in sorted(layouts.values(), key=len, reverse=True):
        members = [parsed[index] for index in sorted(layout)]
        choice = _choice(members)
        patterns += choice.doubt.patterns if choice.doubt else _patterns(members, choice.taken) if choice.taken else ()
    if all(len(one.numbers) == 1 and one.numbers[0].role is Role.OTHER for one in parsed):
        # The words may be irrelevant: init_0, model_1, model_2.
        patterns.insert(0, r"(\d+)\D*$")
    return Doubt(f"{len(layouts)} naming schemes ({shown})", tuple(patterns))


def _shown(parsed: Sequence[Parsed], counter: Counter) -> str:
    """Return the text for a counter in a message: its values in the first names."""
    word = counter.numbers[0].word
    values = ", ".join(number.text for number in counter.numbers[:3]) + (" …" if len(parsed) > 3 else "")
    return f"the number after {word!r} ({values})" if word else f"number {counter.place} ({values})"


def _patterns(parsed: Sequence[Parsed], counter: Counter, split: Counter | None = None) -> Iterator[str]:
    """Yield the patterns that find a counter: one per wording, and per run or stage if those vary."""
    wordings: dict[tuple[str, ...], list[int]] = {}
    for index, one in enumerate(parsed):
        wordings.setdefault(one.literals, []).append(index)
    for indices in sorted(wordings.values(), key=len, reverse=True):
        members, first = [parsed[index] for index in indices], parsed[indices[0]]
        place = first.numbers.index(counter.numbers[indices[0]])
        fixed = _fixed(members, place) | (set() if split is None else {first.numbers.index(split.numbers[indices[0]])})
        groups = dict.fromkeys(tuple((index, one.numbers[index].text) for index in sorted(fixed)) for one in members)
        yield from (pattern_for(members, place, dict(group)) for group in groups)


def _fixed(parsed: Sequence[Parsed], place: int) -> set[int]:
    """Return the numbers that a pattern must fix so that a counter distinguishes names of one wording."""
    numbers = range(len(parsed[0].numbers))
    texts = [[one.numbers[index].text for one in parsed] for index in numbers]
    parts = (Role.RUN, Role.STAGE)
    runs = {index for index in numbers if index != place and parsed[0].numbers[index].role in parts}
    for further in ((), *((index,) for index in numbers if index != place)):
        fixed = runs | set(further)
        groups = list(zip(*(texts[index] for index in fixed), strict=True)) or [()] * len(parsed)
        # A group of one name is not a sequence.
        if len(set(zip(groups, texts[place], strict=True))) == len(parsed) > len(set(groups)):
            return fixed
    return runs
