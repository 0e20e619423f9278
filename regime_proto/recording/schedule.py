"""Which steps of a training are looked at."""

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from regime_proto.recording.strides import STRIDES, Strides
from regime_proto.schema.errors import RegimeError

Predicate = Callable[[int], bool]
_PERCENTAGE = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*%\s*", re.ASCII)


@dataclass(frozen=True)
class Share:
    """At most so much of the time of a training is spent on observing it: what ``every="5%"`` asks for.

    Parameters
    ----------
    value : float
        Above 0 and below 1.
    clock : callable
        Returns seconds.
    """

    value: float
    clock: Callable[[], float] = time.perf_counter

    def __str__(self) -> str:
        return f"{100 * self.value:.10g}%"


Every = int | str | Predicate | Share
"""Every k-th step (those that k divides), a function that says of a step whether it is looked at, or a share of the
time as a percentage."""


def as_every(every: object) -> int | Predicate | Share:
    """Return what was asked for in a form that needs no more checks.

    Raises
    ------
    RegimeError
        It is neither a function, nor a whole number of 1 or more, nor a percentage between 0 and 100.
    """
    if isinstance(every, Share) or callable(every):
        return every
    if isinstance(every, int) and not isinstance(every, bool) and every >= 1:
        return every
    found = _PERCENTAGE.fullmatch(every) if isinstance(every, str) else None
    if found and 0 < float(found[1]) < 100:
        return Share(float(found[1]) / 100)
    raise RegimeError(
        f"every={every!r}: expected a whole number of 1 or more, or a function of the step, or a share of the time "
        'between 0% and 100%, for example every="5%"'
    )


class Schedule(Protocol):
    """Says of each step whether it is observed."""

    strides: Strides
    """Those that it chose, and those of an earlier run that it goes on with."""
    stride: int | None
    """The stride that it has chosen for now, in steps; None where it chooses none."""
    share: float
    """The share of the time that observing has taken; NaN where it is not measured."""

    def is_due(self, step: int) -> bool:
        """Whether a step is observed; to ask changes nothing."""

    def start(self) -> None:
        """Take note that an observation begins."""

    def count_device(self, seconds: float) -> None:
        """Take note of how long a device was at work on the observation before this one, while the host went on."""

    def finish(self, step: int) -> int | None:
        """Take note that an observation has ended, and return the stride that should hold from now on."""

    def keep_to(self, step: int, stride: int | None) -> None:
        """Observe at this stride after the observation at `step`."""

    @property
    def attributes(self) -> dict[str, object]:
        """What a trajectory says of it."""


class Steps:
    """A schedule that is given.

    Parameters
    ----------
    every : int or callable
    """

    def __init__(self, every: int | Predicate) -> None:
        self.stride: int | None = None
        self.share = math.nan
        self.strides = Strides()
        self._every = every
        self._begun = False

    def is_due(self, step: int) -> bool:
        """See `Schedule`."""
        return bool(self._every(step)) if callable(self._every) else step % self._every == 0

    def start(self) -> None:
        """See `Schedule`."""

    def count_device(self, seconds: float) -> None:
        """See `Schedule`."""

    def finish(self, step: int) -> int | None:
        """See `Schedule`; a run that it goes on with may have had other strides."""
        if not self._begun and self.strides.resume(step):
            self.strides.add(step, 0 if callable(self._every) else self._every)
        self._begun = True
        return None

    def keep_to(self, step: int, stride: int | None) -> None:
        """See `Schedule`."""

    @property
    def attributes(self) -> dict[str, object]:
        """See `Schedule`; nothing where nobody ever chose a stride."""
        if not self.strides.text:
            return {}
        requested = "a function" if callable(self._every) else str(self._every)
        return {"every_requested": requested, STRIDES: self.strides.text, "every_share": self.share}
