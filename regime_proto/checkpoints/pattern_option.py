"""``--step-pattern``: applies and proposes regular expressions that find the step in a name."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from regime_proto.checkpoints.step_in_name import UNIT_LETTERS, Number, Parsed, Role, integer
from regime_proto.schema.errors import RegimeError

_UNIT = rf"[{UNIT_LETTERS}](?![^\W_])"
# Text that continues a number which a pattern cut off in the middle.
_GOES_ON = re.compile(rf"\d|\.\d|,\d{{3}}(?!\d)|{_UNIT}")
_WENT_BEFORE = re.compile(r"\d[.,]?$")


@dataclass(frozen=True)
class StepPattern:
    """A regular expression with one group around the step, or the epoch if the group is named ``epoch``.

    Parameters
    ----------
    text : str
    """

    text: str

    @property
    def kind(self) -> str:
        """What the group counts: ``step`` or ``epoch``."""
        return "epoch" if "epoch" in self._expression().groupindex else "step"

    def numbers_in(self, names: Sequence[str]) -> list[int | None]:
        """Return the step in every name; None where the expression does not match.

        Raises
        ------
        RegimeError
            It is not a regular expression with one integer group, or matches no name.
        """
        expression = self._expression()
        if expression.groups != 1:
            raise RegimeError(
                f"{self}: has {expression.groups} groups; expected one around the step, for example 'ckpt_(\\d+)'"
            )
        matches = [expression.search(name) for name in names]
        found = [self._number(match) if match and match[1] else None for match in matches]
        if all(number is None for number in found):
            raise RegimeError(f"{self}: matches no name, for example not {names[0]}")
        return found

    def _expression(self) -> re.Pattern[str]:
        try:
            return re.compile(self.text)
        except re.error as error:
            raise RegimeError(f"{self}: not a valid regular expression ({error})") from None

    def _number(self, match: re.Match[str]) -> int:
        value, name = integer(match[1]), match.string
        if value is None:
            raise RegimeError(f"{self}: finds {match[1]!r} in {name}; expected digits, optionally with k, M or B")
        # The user excludes on purpose what the expression matches outside its group.
        after = _GOES_ON.match(name, match.end()) if match.end() == match.end(1) else None
        if after or (match.start() == match.start(1) and _WENT_BEFORE.search(name[: match.start()])):
            whole = _whole(name, match.start(1), match.end(1))
            raise RegimeError(
                f"{self}: finds {match[1]!r} in {name}, which is only part of {whole!r}; put the "
                f"whole number into the group, as in '(\\d+[{UNIT_LETTERS}]?)' for thousands, "
                "millions and billions, or match the rest of it outside the group"
            )
        return value

    def __str__(self) -> str:
        return f"--step-pattern {self.text!r}"


def _whole(name: str, start: int, stop: int) -> str:
    """Return the whole number of which a part was found."""
    before = re.search(r"[\d.,]*$", name[:start])
    after = re.match(rf"[\d.,]*(?:{_UNIT})?", name[stop:])
    return f"{before[0] if before else ''}{name[start:stop]}{after[0] if after else ''}".rstrip(".,")


def option(pattern: str) -> str:
    """Return the option, quoted for the shell."""
    return f"--step-pattern {shlex.quote(pattern)}"


def pattern_for(parsed: Sequence[Parsed], place: int, fixed: Mapping[int, str]) -> str:
    """Return a pattern for names that differ only in their numbers.

    Parameters
    ----------
    parsed : sequence of Parsed
    place : int
        Index of the number that is the step.
    fixed : mapping of int to str
        Numbers, by index, that must have the given text.
    """
    first, columns = parsed[0], list(zip(*(one.numbers for one in parsed), strict=True))
    parts = [escaped(first.literals[0])]
    for index, (column, literal) in enumerate(zip(columns, first.literals[1:], strict=True)):
        anything = r"\d+" if all(number.text.isdecimal() for number in column) else ".+"
        other = escaped(fixed[index]) if index in fixed else anything
        parts += [_group(column) if index == place else other, escaped(literal)]
    return f"^{''.join(parts)}$"


def loose_pattern(parsed: Parsed, numbers: Sequence[Number]) -> str | None:
    """Return a pattern for a number after its word, in any context; None if no word precedes it."""
    word = re.search(r"[^\W\d_]+[\W_]*$", parsed.name[: numbers[0].start])
    return f"{escaped(word[0])}{_group(numbers)}" if word else None


def _group(numbers: Sequence[Number]) -> str:
    written = "".join(number.text for number in numbers)
    digits = r"\d+"
    if "." in written or "," in written or "_" in written:
        digits = rf"[\d{''.join(sign for sign in '.,_' if sign in written)}]+"
    kind = "?P<epoch>" if numbers[0].role is Role.EPOCH else ""
    return f"({kind}{digits}{f'[{UNIT_LETTERS}]?' if any(number.unit for number in numbers) else ''})"


def escaped(text: str) -> str:
    """Escape only the characters special in a regular expression, so that it stays readable."""
    return re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", text)
