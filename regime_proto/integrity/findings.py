"""The findings of a check, and their wording."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from regime_proto.schema.words import few

ERROR = "error"
WARNING = "warning"

ADVICE = {
    "unreadable": "copy it again from where it was saved, or move it out of the directory",
    "mixed-shards": "copy the whole folder again from where it was saved, or move it out of the directory",
    "final-weights": "an early step holds the end of the run: ask the publisher of the run, or leave these steps out",
    "duplicate": "one of them is a copy under a wrong name, or nothing was trained in between: leave all but one out",
    "odd-tensors": "it may belong to another model, or was saved differently: save it like the others, or move it out",
    "non-finite": "the run diverged here, or the file is damaged: check the original, then train or copy again",
    "order": "check where the order comes from (regime inspect); --step-pattern reads the step from the names",
    "another-run": "check which run they belong to: copy them again from where they were saved, or leave them out",
    "shared-start": "check whether both runs are meant to start from these weights",
    "missing-steps": "copy the missing checkpoints, or use fewer (--every K): changes across a gap differ in size",
    "detour": "it seems damaged, or belongs to another run: copy it again from where it was saved, or leave it out",
    "jump": "the sequence seems to continue with another run: check where each part comes from",
    "never-changes": "if intended, pass --frozen GLOB; a bias before a norm may not change; else check what is trained",
    "frozen-changes": "check that the optimizer does not train it",
}
"""Advice for each rule."""

_SHOWN = 3
_SHOWN_STEPS = 6


@dataclass(frozen=True)
class Finding:
    """A fault in a sequence of checkpoints.

    Parameters
    ----------
    rule : str
        One of `ADVICE`.
    message : str
        What was found.
    steps : tuple of int
        Where it was found. The faulty checkpoint comes first, if it can be determined. Empty for the whole run.
    tensors : tuple of str
    severity : str
        `ERROR`, or `WARNING` for something that also occurs in correct runs.
    remedy : str
        What to do, if this is not the same for all findings of the rule.
    """

    rule: str
    message: str
    steps: tuple[int, ...] = ()
    tensors: tuple[str, ...] = ()
    severity: str = ERROR
    remedy: str = ""

    @property
    def advice(self) -> str:
        """What to do."""
        return self.remedy or ADVICE[self.rule]

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON types."""
        found = asdict(self)
        del found["remedy"]
        return {**found, "advice": self.advice}


def spell_steps(steps: Sequence[int]) -> str:
    """Return a short text for steps: all of them, or the first few, the last and the count."""
    if len(steps) <= _SHOWN_STEPS:
        return ", ".join(map(str, steps))
    return f"{', '.join(map(str, steps[:_SHOWN]))} … {steps[-1]} ({len(steps)})"


def spell_names(names: Sequence[str]) -> str:
    """Return a short text for names: all of them, or their common prefixes with counts."""
    fronts = Counter(_fronts(names))
    if len(names) <= _SHOWN or len(fronts) == len(names):
        return few(names)
    shown = [f"{front} ({count})" if count > 1 else front for front, count in fronts.most_common(_SHOWN)]
    rest = len(names) - sum(count for _, count in fronts.most_common(_SHOWN))
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _fronts(names: Sequence[str]) -> list[str]:
    """Return the group of each name, up to the first part in which the names differ: ``encoder.0.*``."""
    parts = [name.split(".") for name in names]
    common = 0
    while all(len(part) > common + 1 for part in parts) and len({part[common] for part in parts}) == 1:
        common += 1
    deeper = [len(part) > common + 1 for part in parts]
    return [
        ".".join(part[: common + 1]) + ".*" if deep else ".".join(part)
        for part, deep in zip(parts, deeper, strict=True)
    ]
