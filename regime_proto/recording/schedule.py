"""Schedules: which steps of a training run are observed."""

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
    """Largest share of the training time to spend on observing, as requested by ``every="5%"``.

    Parameters
    ----------
    value : float
        The share, above 0 and below 1.
    clock : callable
        Returns the current time in seconds.
    """

    value: float
    clock: Callable[[], float] = time.perf_counter

    def __str__(self) -> str:
        return f"{100 * self.value:.10g}%"


Every = int | str | Predicate | Share
"""Every k-th step (those that k divides), a function that decides whether to observe a step, or a share of the time as
a percentage."""


def as_every(every: object) -> int | Predicate | Share:
    """Check and convert the argument `every` of `regime_proto.record`.

    Parameters
    ----------
    every : int, callable or str

    Returns
    -------
    int, callable or Share

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
    """Decides for each step whether it is observed."""

    strides: Strides
    """The strides that it has chosen, and those of an earlier run that it resumes."""
    stride: int | None
    """The current stride in steps; None if the schedule does not choose strides."""
    share: float
    """The share of the time spent on observing, from 0 to 1; NaN if it is not measured."""

    def is_due(self, step: int) -> bool:
        """Whether a step is observed; calling this changes nothing."""

    def start(self) -> None:
        """Register the start of an observation."""

    def count_device(self, seconds: float) -> None:
        """Register how long a device worked on the previous observation while the host continued, in seconds."""

    def finish(self, step: int) -> int | None:
        """Register the end of an observation, and return the stride to use from now on."""

    def keep_to(self, step: int, stride: int | None) -> None:
        """Use this stride after the observation at `step`."""

    @property
    def attributes(self) -> dict[str, object]:
        """The attributes that a trajectory stores."""


class Steps:
    """A schedule with a fixed stride or function.

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
        """See `Schedule`; a run that is resumed may have had different strides."""
        if not self._begun and self.strides.resume(step):
            self.strides.add(step, 0 if callable(self._every) else self._every)
        self._begun = True
        return None

    def keep_to(self, step: int, stride: int | None) -> None:
        """See `Schedule`."""

    @property
    def attributes(self) -> dict[str, object]:
        """See `Schedule`; empty if no stride was ever chosen."""
        if not self.strides.text:
            return {}
        requested = "a function" if callable(self._every) else str(self._every)
        return {"every_requested": requested, STRIDES: self.strides.text, "every_share": self.share}
