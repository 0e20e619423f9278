"""Finds the numbers in a checkpoint's name, one of which is its step, and the word that belongs to each."""

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

UNITS = {"k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
UNIT_LETTERS = "kKmMbBT"
"""A lower-case t is not a unit, since many words end with it."""

_LETTERS = re.compile(r"[^\W\d_]+")
_SUFFIX = re.compile(r"(?<=.)\.(?:[^\W\d_]+|h5|hdf5|pt2)$", re.IGNORECASE)
_POINTER = re.compile(r"(?:^|[_\-.])(?:last|latest|best|final)(?:$|[_\-.])|-v\d+(?=$|\.\D)", re.IGNORECASE)
_STEP = r"\w*?(?:step|iter|iteration|update)s?|itr"
_EPOCH = r"\w*?epochs?|ep"
_TOKENS = r"tokens?|toks?"
_SCORE = (
    r"\w*?loss|\w*?acc|accuracy|score|err|error|auc|m?iou|map|bleu|rouge|ppl|perplexity|psnr|ssim|fid|wer|cer|"
    r"r?mse|mae|reward|return|recall|precision"
)
_RUN = r"seed|fold|rank|ingredient|shard|replica|worker|member"
_STAGE = r"stage|phase"
# The word for a number in the form ``1-of-4``.
_PART = "shard"

_NUMBER = rf"""
    (?:
        (?<![^\W_])[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}(?![^\W_])  # a UUID
      | \d+(?:\.\d+)?[eE][-+]\d+ | \d+\.\d+[eE]\d+ | (?<![^\W_])\d+[eE]\d+(?![^\W_])
      | (?<![\d,.])\d{{1,3}}(?:,\d{{3}})+(?![\d,])
      | (?<!\d)(?<!\d\.)\d+(?=\.\d+\.\d+(?!\d|\.\d))  # an integer, then a decimal: 3.0.25
      | \d+(?:\.\d+)*
    )
    (?P<unit>[{UNIT_LETTERS}](?=(?:{_STEP}|{_EPOCH}|{_TOKENS})?(?![^\W_])))?
"""
_HASH = r"(?<![^\W_])(?!\d+[bB](?![^\W_]))(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{6,}(?![^\W_]) | "
_NUMBERS = re.compile(_NUMBER, re.VERBOSE)
_NUMBERS_OR_HASHES = re.compile(_HASH + _NUMBER, re.VERBOSE)
_INTEGER = re.compile(r"\d+|\d{1,3}(?:[,_]\d{3})+")
_MORE_DIGITS = re.compile(r"_\d")
_ANY_DIGIT = str.maketrans("123456789", "000000000")


class Role(enum.Enum):
    """What a number counts, inferred from its word."""

    STEP = _STEP
    EPOCH = _EPOCH
    TOKENS = _TOKENS
    SCORE = _SCORE
    RUN = _RUN
    """One of several parallel runs, or parts of runs."""
    STAGE = _STAGE
    """One of several parts of a run, each of which may restart the count."""
    OTHER = ""


_PATTERNS = [(role, re.compile(role.value)) for role in Role if role is not Role.OTHER]
_AFTER = (Role.STEP, Role.EPOCH, Role.TOKENS)


class Number(NamedTuple):
    """A number in a name.

    Parameters
    ----------
    text : str
        With its unit.
    start, stop : int
        Its position in the name.
    word : str
        The letters before it, or after it if those name a counter (``1000_steps``); lower case,
        empty if there are none.
    tail : str
        Letters that follow it directly and are not a unit.
    unit : str
        ``k``, ``m``, ``b``, ``t`` or empty.
    value : int, optional
        None if it is not a separate integer: a decimal, a negative number, a hash.
    """

    text: str
    start: int
    stop: int
    word: str = ""
    tail: str = ""
    unit: str = ""
    value: int | None = None

    @property
    def role(self) -> Role:
        """What it counts."""
        return role_of(self.word)

    @property
    def form(self) -> tuple[str, str]:
        """The part shared by all names of one scheme; all words for a step are equivalent."""
        return _form_of(self.word, self.tail)


class Parsed(NamedTuple):
    """A name, the numbers in it, and the words that belong to no number."""

    name: str
    numbers: tuple[Number, ...]
    words: tuple[str, ...] = ()

    @property
    def has_integer(self) -> bool:
        """Whether this number alone may determine the order."""
        return any(number.value is not None for number in self.numbers)

    @property
    def literals(self) -> tuple[str, ...]:
        """The text before, between and after the numbers."""
        edges = [0, *(edge for number in self.numbers for edge in (number.start, number.stop)), len(self.name)]
        return tuple(self.name[start:stop] for start, stop in zip(edges[::2], edges[1::2], strict=True))


def is_pointer(name: str) -> bool:
    """Whether a name marks the checkpoint as a copy of a different one, such as ``last.ckpt``."""
    return bool(_POINTER.search(name))


def has_integer(name: str) -> bool:
    """Whether the name alone may determine the order."""
    return parse(name).has_integer


def has_number(name: str) -> bool:
    """Whether a name has a number of any kind, in which other names may differ."""
    return bool(parse(name).numbers)


def integer(text: str) -> int | None:
    """Return the integer in a text, also as ``1,000``, ``1_000``, ``20k`` or ``1.5B``; None if it is not one."""
    if text.isdecimal():
        return int(text)
    scale = UNITS[text[-1].lower()] if text and text[-1] in UNIT_LETTERS else 1
    digits = text if scale == 1 else text[:-1]
    if _INTEGER.fullmatch(digits):
        value = int(digits.replace(",", "").replace("_", "")) * scale
    elif scale > 1 and re.fullmatch(r"\d+\.\d+", digits) and (exact := Decimal(digits) * scale) % 1 == 0:
        value = int(exact)
    else:
        return None
    return value


@lru_cache(2**15)
def parse(name: str, *, hashes: bool = False) -> Parsed:
    """Return the numbers in a name, without its suffix.

    Parameters
    ----------
    name : str
    hashes : bool
        Whether six or more hexadecimal digits count as one hash, not as words and numbers.
    """
    slots, free = _slots(_SUFFIX.sub("", name).translate(_ANY_DIGIT), _NUMBERS_OR_HASHES if hashes else _NUMBERS)
    numbers = []
    for slot in slots:
        text = name[slot.start : slot.stop]
        value = None if slot.is_negative else integer(text)
        number = Number(text, slot.start, slot.stop, slot.word, slot.tail, slot.unit, value)
        numbers.append(number)
        # All words before a score belong to its name.
        free += () if value is None or number.role is Role.SCORE else slot.words_before
    return Parsed(name, tuple(numbers), tuple(sorted(free)))


@dataclass(frozen=True)
class _Slot:
    """The position of a number in names that differ only in digits."""

    start: int
    stop: int
    word: str
    tail: str
    unit: str
    is_negative: bool
    words_before: tuple[str, ...]
    """The preceding words other than its own."""


@lru_cache(4096)
def _slots(stem: str, numbers: re.Pattern[str]) -> tuple[tuple[_Slot, ...], tuple[str, ...]]:
    """Return the positions of numbers in a name with masked digits, and the words after the last one."""
    matches = list(numbers.finditer(stem))
    edges = [0, *(edge for match in matches for edge in match.span()), len(stem)]
    gaps = [stem[start:stop] for start, stop in zip(edges[::2], edges[1::2], strict=True)]
    tails = ["", *(_tail(gap, is_last=place == len(matches)) for place, gap in enumerate(gaps) if place)]
    words = [_LETTERS.findall(gap[len(tail) :].lower()) for gap, tail in zip(gaps, tails, strict=True)]
    slots = []
    for place, match in enumerate(matches):
        follows = [tails[place + 1].lower()] if tails[place + 1] else words[place + 1]
        # The only word between two numbers belongs to the second.
        is_free = bool(tails[place + 1]) or place + 1 == len(matches) or len(follows) > 1
        is_part = words[place + 1] == ["of"] and place + 1 < len(matches)
        slot = _Slot(
            *match.span(),
            word=_PART if is_part else _word(words[place][-1:], follows[:1] if is_free else []),
            tail=tails[place + 1],
            unit=(match["unit"] or "").lower(),
            is_negative=gaps[place].endswith("=-"),
            words_before=tuple(words[place][:-1]),
        )
        slots.append(slot)
    return tuple(slots), tuple(words[-1])


def parse_all(names: Sequence[str]) -> list[Parsed]:
    """Return the numbers in related names; hashes are recognised because their form differs between names."""
    parsed = [parse(name) for name in names]
    if len({_form(one) for one in parsed}) > 1:
        hashed = [parse(name, hashes=True) for name in names]
        if len({_form(one) for one in hashed}) < len({_form(one) for one in parsed}):
            parsed = hashed
    return _with_thousands(parsed)


def _form(parsed: Parsed) -> tuple[tuple[str, str], ...]:
    return tuple(number.form for number in parsed.numbers)


def _tail(gap: str, *, is_last: bool) -> str:
    """Return the letters directly after a number, unless they also directly precede the next one."""
    found = _LETTERS.match(gap)
    return "" if found is None or (found[0] == gap and not is_last) else found[0]


def _word(before: Sequence[str], after: Sequence[str]) -> str:
    word = before[0] if before else ""
    if role_of(word) is Role.OTHER and after and role_of(after[0]) in _AFTER:
        return after[0]
    return word


@lru_cache(4096)
def role_of(word: str) -> Role:
    """Return what a number with this word counts."""
    return next((role for role, pattern in _PATTERNS if word and pattern.fullmatch(word)), Role.OTHER)


@lru_cache(4096)
def _form_of(word: str, tail: str) -> tuple[str, str]:
    role = role_of(word)
    return (role.name if role in (Role.STEP, Role.EPOCH, Role.TOKENS) else word), tail


def _with_thousands(parsed: list[Parsed]) -> list[Parsed]:
    """Join ``1_000`` if steps are grouped by thousands; only ungrouped steps below 1000 among the names show this."""
    joined = [_joined(one) for one in parsed]
    if all(before is after for before, after in zip(parsed, joined, strict=True)):
        return parsed
    plain, grouped = set(), set()
    for before, after in zip(parsed, joined, strict=True):
        steps = [number for number in after.numbers if number.role is Role.STEP]
        if len(steps) != 1:
            return parsed
        if _MORE_DIGITS.match(after.name, steps[0].stop):
            return parsed
        if after is before:
            plain.add(steps[0].text)
        else:
            grouped.add(steps[0].text.partition("_")[0])
    fits = all(len(text) <= 3 and not text.startswith("00") for text in plain)
    # If there is a step 1, 1_500 could also be its substep 500.
    return joined if plain and grouped and fits and not plain & grouped else parsed


def _joined(parsed: Parsed) -> Parsed:
    if len(parsed.numbers) < 2:
        return parsed
    numbers: list[Number] = []
    for number in parsed.numbers:
        first = numbers[-1] if numbers else None
        if (
            first is not None
            and first.role is Role.STEP
            and parsed.name[first.stop : number.start] == "_"
            and re.fullmatch(r"\d{3}", number.text)
            and re.fullmatch(r"[1-9]\d{0,2}(?:_\d{3})*", first.text)
        ):
            text = f"{first.text}_{number.text}"
            numbers[-1] = first._replace(text=text, stop=number.stop, tail=number.tail, value=integer(text))
        else:
            numbers.append(number)
    return parsed if len(numbers) == len(parsed.numbers) else Parsed(parsed.name, tuple(numbers), parsed.words)
