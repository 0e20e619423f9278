"""Detects during a run that the patterns have settled, from past observations only."""

import math
from collections import deque
from dataclasses import dataclass

from regime_proto.schema.errors import RegimeError


@dataclass(frozen=True)
class Settling:
    """Criterion by which patterns count as settled.

    The criterion follows the mean of Δa over the last `window` observations. Patterns are settled once this mean has
    been at or below the threshold at `window` consecutive observations. Only past observations are used. The result
    therefore comes up to two windows after the change of regime, and later observations may contradict it: patterns no
    longer count as settled once the mean rises above the threshold (`Detector.is_settled`).

    Parameters
    ----------
    threshold : float
        Share of the largest mean so far, below 1; with `absolute`, a value of Δa.
    window : int
        Number of observations. Those that hold NaN or Inf are ignored. When the recorder changes the stride
        (``every="5%"``), changes cover a different number of steps, so mean and peak restart.
    absolute : bool
        Whether `threshold` is a value of Δa. Useful if the scale of Δa is known: while a curve still grows, as during
        learning rate warm-up, a share of the peak so far means little.

    Raises
    ------
    RegimeError
        The threshold is not positive, or is a share of 1 or more; or the window is shorter than one observation.
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
        """The attributes that a trajectory stores."""
        return {
            "settling_threshold": self.threshold,
            "settling_scale": "absolute" if self.absolute else "peak",
            "settling_window": self.window,
        }


class Detector:
    """Applies a `Settling` to successive observations.

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
        """First step from which the mean has stayed at or below the threshold; None if it is above it now."""
        return self._since

    def update(self, step: int, pattern_change: float, *, stride: int | None = None) -> bool:
        """Process one observation, and return whether patterns have settled with it for the first time.

        Parameters
        ----------
        step : int
        pattern_change : float
            Δa between the previous observation and this step; NaN is ignored.
        stride : int, optional
            Steps since the previous observation. Changes over different strides are not compared.
        """
        if stride != self._stride:
            self._stride = stride
            self._begin()
        if math.isnan(pattern_change):
            return False
        self._last.append(pattern_change)
        if len(self._last) < self._settling.window:
            return False
        # Computed from few numbers each time: a running sum would accumulate rounding errors over a million steps.
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
