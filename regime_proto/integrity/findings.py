"""What a check finds, and how it is put into words."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from regime_proto.schema.words import few

ERROR = "error"
WARNING = "warning"

ADVICE = {
    "unreadable": "copy it from where it was saved once more, or move it out of the directory",
    "mixed-shards": "copy the whole folder from where it was saved once more, or move it out of the directory",
    "final-weights": "it holds the end of the run under an early step: ask who published it, or leave these steps out",
    "duplicate": "one of them is a copy under a wrong name, or nothing was trained in between: leave all but one out",
    "odd-tensors": "it may be of another model, or saved in another way: save it again as the others, or move it out",
    "non-finite": "the run broke here, or the file did: look where the training wrote it, and train or copy again",
    "order": "look where the order is taken from (regime inspect); --step-pattern takes the step from the names",
    "another-run": "look which run they belong to: copy them from where they were saved once more, or leave them out",
    "shared-start": "look whether both runs are meant to begin with these weights",
    "missing-steps": "copy what is missing, or use fewer (--every K): changes over a gap are of another size",
    "detour": "it seems to be of another run, or damaged: copy it from where it was saved once more, or leave it out",
    "jump": "the sequence seems to go on with another run: check where each part comes from",
    "never-changes": "if meant, say so: --frozen GLOB; a bias before a norm may stand still; else look what is trained",
    "frozen-changes": "look whether it is left out of the optimizer",
}
"""What to do, by rule."""

_SHOWN = 3
_SHOWN_STEPS = 6


@dataclass(frozen=True)
class Finding:
    """Something that is wrong in a sequence of checkpoints.

    Parameters
    ----------
    rule : str
        One of `ADVICE`.
    message : str
        What was found.
    steps : tuple of int
        Where; the checkpoint that is at fault comes first, if that can be told. Empty where it is the whole run.
    tensors : tuple of str
    severity : str
        `ERROR`, or `WARNING` for what a sound run may show.
    remedy : str
        What to do, where that is not the same for all findings of the rule.
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
    """Return steps in a few words: all, or the first ones and how many."""
    if len(steps) <= _SHOWN_STEPS:
        return ", ".join(map(str, steps))
    return f"{', '.join(map(str, steps[:_SHOWN]))} … {steps[-1]} ({len(steps)})"


def spell_names(names: Sequence[str]) -> str:
    """Return names in a few words: all, or by common fronts and how many."""
    fronts = Counter(_fronts(names))
    if len(names) <= _SHOWN or len(fronts) == len(names):
        return few(names)
    shown = [f"{front} ({count})" if count > 1 else front for front, count in fronts.most_common(_SHOWN)]
    rest = len(names) - sum(count for _, count in fronts.most_common(_SHOWN))
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _fronts(names: Sequence[str]) -> list[str]:
    """Return for each name the group it belongs to: where names part for the first time, ``encoder.0.*``."""
    parts = [name.split(".") for name in names]
    common = 0
    while all(len(part) > common + 1 for part in parts) and len({part[common] for part in parts}) == 1:
        common += 1
    deeper = [len(part) > common + 1 for part in parts]
    return [
        ".".join(part[: common + 1]) + ".*" if deep else ".".join(part)
        for part, deep in zip(parts, deeper, strict=True)
    ]
