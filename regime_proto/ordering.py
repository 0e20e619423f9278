"""Puts checkpoints in step order: by what they say of themselves, else by their names.

Never lexicographic and never by time: ``step_10`` comes after ``step_9``, and copying a folder changes times.
"""

import contextlib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from regime_proto.payload import Label
from regime_proto.schema.errors import RegimeError

_STEP_NAME = re.compile(r"(?:global_?step|step|iteration|iter)s?[=_\-.]?(\d+)", re.IGNORECASE)
_EPOCH_NAME = re.compile(r"(?:epoch|ep)[=_\-.]?(\d+)", re.IGNORECASE)
_LAST_INTEGER = re.compile(r"(\d+)(?=\D*$)")
_SUFFIX = re.compile(r"(?<=.)\.[A-Za-z_]\w*$")
_POINTER = re.compile(r"(?:^|[_\-.])(?:last|latest|best|final)(?:$|[_\-.])|-v\d+$", re.IGNORECASE)


@dataclass(frozen=True)
class Order:
    """Steps of checkpoints.

    Parameters
    ----------
    steps : mapping of Path to int
        In increasing order.
    kind : str
        ``step``, ``epoch`` or ``ordinal``.
    reason : str
        In words, where the steps were taken from.
    """

    steps: Mapping[Path, int]
    kind: str
    reason: str


def is_pointer(path: Path) -> bool:
    """Whether the name says that the file is a copy of another, such as ``last.ckpt``."""
    return bool(_POINTER.search(_stem(path)))


def has_number(path: Path) -> bool:
    """Whether the name alone may tell the order."""
    return bool(_LAST_INTEGER.search(_stem(path)))


def number_by(pattern: str, paths: Sequence[Path]) -> dict[Path, int]:
    """Return the steps that the group of a regular expression finds in names, for those names that have one.

    Raises
    ------
    RegimeError
        It is no regular expression with one group of digits, or fits no name.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise RegimeError(f"--step-pattern {pattern!r}: no regular expression ({error})") from None
    if expression.groups != 1:
        raise RegimeError(
            f"--step-pattern {pattern!r}: has {expression.groups} groups, expected one around the step, "
            r"for example 'ckpt_(\d+)'"
        )
    found = {path: match[1] for path in paths if (match := expression.search(path.name)) and match[1]}
    if not found:
        raise RegimeError(f"--step-pattern {pattern!r}: fits no name, for example not {paths[0].name}")
    for path, text in found.items():
        if not text.isdecimal():
            raise RegimeError(f"--step-pattern {pattern!r}: finds {text!r} in {path.name}, expected digits")
    return {path: int(text) for path, text in found.items()}


def order(paths: Sequence[Path], peek: Callable[[Path], Label]) -> Order:
    """Find the step of every checkpoint.

    The rules, in turn: the step in the payload, a step in the name, the epoch in the payload, an epoch in the
    name, the last integer in the name. The first rule that gives every file a step of its own is taken.

    Parameters
    ----------
    paths : sequence of Path
    peek : callable
        Reads a label. It is called for three files only when their names agree with it, or when it says nothing.

    Raises
    ------
    RegimeError
        Two files have one step, or no rule tells the steps.
    """
    numbered = _by_name(paths, _LAST_INTEGER)
    named = _by_name(paths, _STEP_NAME)
    sample = [] if numbered is None else _sample(named or numbered, peek)
    if named is not None and _is_distinct(named) and all(label.step in (None, named[path]) for path, label in sample):
        return arranged(named, "step", "a step in the file name")
    if (
        numbered is not None
        and _is_distinct(numbered)
        and sample
        and all(label.step == numbered[path] for path, label in sample)
    ):
        return arranged(numbered, "step", "the number in the name, which the payloads say is the step")
    silent = bool(sample) and all(label.step is None and label.epoch is None for _, label in sample)
    labels = {} if silent else {path: peek(path) for path in paths}
    in_payload = {path: label.step for path, label in labels.items() if label.step is not None}
    epochs = {
        path: int(label.epoch)
        for path, label in labels.items()
        if label.epoch is not None and float(label.epoch).is_integer()
    }
    rules = (
        (in_payload if len(in_payload) == len(paths) else None, "step", "the step in the payload"),
        (named, "step", "a step in the file name"),
        (epochs if len(epochs) == len(paths) else None, "epoch", "the epoch in the payload"),
        (_by_name(paths, _EPOCH_NAME), "epoch", "an epoch in the file name"),
        (numbered, "ordinal", "the last number in the file name"),
    )
    usable = [(steps, kind, reason) for steps, kind, reason in rules if steps is not None]
    if not usable:
        unknown = next(path for path in paths if not has_number(path))
        raise RegimeError(
            f"{unknown}: no step in the payload and no number in the name; "
            "name checkpoints like step_000100.pt, or save a dict with a 'step'"
        )
    for steps, kind, reason in usable:
        # Several checkpoints may well share an epoch, but not a step.
        if kind == "step" or _is_distinct(steps):
            return arranged(steps, kind, reason)
    return arranged(*usable[-1])


def arranged(steps: Mapping[Path, int], kind: str, reason: str) -> Order:
    """Return checkpoints whose steps are known, in their order.

    Raises
    ------
    RegimeError
        Two have one step.
    """
    paths = sorted(steps, key=steps.__getitem__)
    for path, following in itertools.pairwise(paths):
        if steps[path] == steps[following]:
            raise RegimeError(
                f"{path} and {following.name} both have {kind} {steps[path]} ({reason}); "
                "move one of them out of the folder"
            )
    return Order({path: steps[path] for path in paths}, kind, reason)


def _stem(path: Path) -> str:
    """Return a name without its suffix; what begins with a digit is none (``v1.2``)."""
    return _SUFFIX.sub("", path.name)


def _by_name(paths: Sequence[Path], pattern: re.Pattern[str]) -> dict[Path, int] | None:
    matches = {path: pattern.findall(_stem(path)) for path in paths}
    return {path: int(found[-1]) for path, found in matches.items()} if all(matches.values()) else None


def _is_distinct(steps: Mapping[Path, int]) -> bool:
    return len(set(steps.values())) == len(steps)


def _sample(numbers: Mapping[Path, int], peek: Callable[[Path], Label]) -> list[tuple[Path, Label]]:
    """Return the labels of the first, middle and last file, those left out that cannot be read.

    A damaged file is an error when its turn to be read comes, after the steps before it.
    """
    paths = sorted(numbers, key=numbers.__getitem__)
    labels = []
    for path in dict.fromkeys((paths[0], paths[len(paths) // 2], paths[-1])):
        with contextlib.suppress(RegimeError):
            labels.append((path, peek(path)))
    return labels
