"""Tells, while a run is going on, that the patterns have settled: without looking ahead."""

import math
from collections import deque
from dataclasses import dataclass

from regime_proto.schema.errors import RegimeError


@dataclass(frozen=True)
class Settling:
    """When patterns count as settled.

    The mean of Δa over the last `window` observations is followed. Patterns are settled once that mean has been at or
    below the threshold at `window` observations in a row. Only the past is used: what is said at an observation does
    not depend on any later one, so it comes up to two windows after the change of regime, and it can be wrong about
    what comes. Activity that returns takes it back (`Detector.is_settled`).

    Parameters
    ----------
    threshold : float
        A share of the largest mean so far; with `absolute`, a value of Δa.
    window : int
        In observations. Those that hold NaN or Inf are passed over. Where the recorder chooses another stride
        (``every="5%"``), changes are over more or fewer steps, and mean and peak begin anew.
    absolute : bool
        A curve that grows for a while (the learning rate warms up) has its peak to come, and a share of the peak so
        far says little until then; where the scale of Δa is known, an absolute threshold is free of that.

    Raises
    ------
    RegimeError
        The threshold is not positive, or a share of 1 or more; or the window is shorter than one observation.
    """

    threshold: float = 0.1
    window: int = 100
    absolute: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.threshold < (math.inf if self.absolute else 1):
            expected = "a positive number" if self.absolute else "a share of the peak, above 0 and below 1"
            raise RegimeError(f"settling threshold {self.threshold:g}: expected {expected}")
        if self.window < 1:
            raise RegimeError(f"settling window {self.window}: expected 1 observation or more")

    @property
    def attributes(self) -> dict[str, object]:
        """What a trajectory says of it."""
        return {
            "settling_threshold": self.threshold,
            "settling_scale": "absolute" if self.absolute else "peak",
            "settling_window": self.window,
        }


class Detector:
    """Applies a `Settling` to one observation after the other.

    Parameters
    ----------
    settling : Settling
    """

    def __init__(self, settling: Settling) -> None:
        self._settling = settling
        self._last: deque[float] = deque(maxlen=settling.window)
        self._stride: int | None = None
        self._begin()
        self.settled_at: int | None = None

    def _begin(self) -> None:
        self._last.clear()
        self._peak = 0.0
        self._below = 0
        self._since: int | None = None

    @property
    def is_settled(self) -> bool:
        """Whether patterns are settled now."""
        return self._below >= self._settling.window

    @property
    def since(self) -> int | None:
        """The first step of the calm that lasts now, None while there is none."""
        return self._since

    def update(self, step: int, pattern_change: float, *, stride: int | None = None) -> bool:
        """Take one observation, and say whether with it patterns have settled for the first time.

        Parameters
        ----------
        step : int
        pattern_change : float
            Δa towards this step; NaN is passed over.
        stride : int, optional
            The one that led to it. Changes over different strides are not held against each other.
        """
        if stride != self._stride:
            self._stride = stride
            self._begin()
        if math.isnan(pattern_change):
            return False
        self._last.append(pattern_change)
        if len(self._last) < self._settling.window:
            return False
        # A mean of few numbers each time: a running sum would gather rounding over a million steps.
        mean = math.fsum(self._last) / len(self._last)
        self._peak = max(self._peak, mean)
        scale = 1.0 if self._settling.absolute else self._peak
        if scale and mean <= self._settling.threshold * scale:
            self._below += 1
            self._since = step if self._since is None else self._since
        else:
            self._below, self._since = 0, None
        if self.is_settled and self.settled_at is None:
            self.settled_at = step
            return True
        return False
