"""Chooses strides, so that observing takes at most a share of the time of a training."""

import math
from collections import deque
from statistics import median

from regime_proto.recording.schedule import Share
from regime_proto.recording.strides import STRIDES, Strides

# The stride before anything has been measured. Strides are powers of two: the steps of one are among those of the next
# smaller one, and runs of one kind have few of them.
FIRST = 4
LONGEST = 2**30
# The first steps may take a time of their own, so that a stride grows by no more at once.
STEEPEST = 16
# So many observations are looked back at: a single slow step or observation does not change a median of them.
WINDOW = 9
# Parts of the share: a stride is raised where observations take more than the first, to where they take the second, and
# lowered where they would take no more than the third. Strides change seldom, because changes of weights and patterns
# over different strides are different quantities.
ABOVE, ROOM, MUCH_ROOM = 1.15, 0.9, 0.7
# A stride is lowered where there is much room at so many observations in a row; the first one of a run earlier.
EARLY = 3


class Pace:
    """A schedule that chooses its stride by what was measured: how long steps take, and how long observations do.

    Decisions are made at observations only, so that processes that train together can agree on them.

    Parameters
    ----------
    share : Share
    """

    def __init__(self, share: Share) -> None:
        self.strides = Strides()
        self.stride: int | None = FIRST
        self.share = 0.0
        self._requested = share
        self._clock = share.clock
        self._costs: deque[float] = deque(maxlen=WINDOW)
        self._per_step: deque[float] = deque(maxlen=WINDOW)
        self._between: deque[float] = deque(maxlen=WINDOW)
        self._first: float | None = None
        self._began = self._ended = self._spent = self._waited = 0.0
        self._step: int | None = None
        self._next: int | None = None
        self._since = self._low = 0

    def is_due(self, step: int) -> bool:
        """See `Schedule`; a step that is passed over, since nobody asked at it, is made up for by the next."""
        return self._next is None or step >= self._next

    def start(self) -> None:
        """See `Schedule`."""
        self._began = self._clock()
        self._first = self._began if self._first is None else self._first

    def count_device(self, seconds: float) -> None:
        """See `Schedule`; it counts where it is longer than the host took: the training has waited for the rest."""
        self._waited = max(0.0, seconds - self._costs[-1]) if self._costs else 0.0
        if self._waited:
            self._spent += self._waited
            self._costs[-1] = seconds

    def finish(self, step: int) -> int | None:
        """See `Schedule`."""
        now = self._clock()
        cost = now - self._began
        self._spent += cost
        assert self._first is not None  # noqa: S101
        self.share = self._spent / (now - self._first) if now > self._first else 0.0
        between, self._ended = max(0.0, self._began - self._ended - self._waited), now
        if self._step is None:
            self.strides.resume(step)
            return self.strides.last or FIRST
        # Not of the first observation, which makes room for what is kept: it is none to go by.
        self._between.append(between)
        self._per_step.append(between / (step - self._step))
        self._costs.append(cost)
        return self._chosen()

    def keep_to(self, step: int, stride: int | None) -> None:
        """See `Schedule`."""
        assert stride is not None  # noqa: S101
        if stride != self.stride:
            self._since = self._low = 0
        self._since += 1
        self.stride, self._step = stride, step
        self._next = (step // stride + 1) * stride
        self.strides.add(step, stride)

    @property
    def attributes(self) -> dict[str, object]:
        """See `Schedule`."""
        return {
            "every_requested": str(self._requested),
            STRIDES: self.strides.text,
            "every_share": self.share,
        }

    def _chosen(self) -> int:
        """Return the stride that what was measured of late asks for."""
        assert self.stride is not None  # noqa: S101
        if self._needed(ABOVE) > self.stride:
            return _power(min(self._needed(ROOM), STEEPEST * self.stride))
        recent = sum(self._costs) / (sum(self._costs) + sum(self._between))
        if self._since >= WINDOW and min(recent, self.share) > self._requested.value:
            # By little, or by observations that are far above the median and often enough to count.
            return _power(2 * self.stride)
        has_room = 2 * self._needed(MUCH_ROOM) <= self.stride and self.share <= self._requested.value
        self._low = self._low + 1 if has_room else 0
        is_low = self._low >= (EARLY if len(self._costs) == EARLY else WINDOW)
        return _power(self._needed(MUCH_ROOM)) if is_low else self.stride

    def _needed(self, room: float) -> float:
        """Return the stride at which a typical observation takes just this part of the share."""
        share = room * self._requested.value
        per_step = median(self._per_step)
        return median(self._costs) * (1 - share) / (share * per_step) if per_step > 0 else math.inf


def _power(least: float) -> int:
    """Return the smallest power of two that is at least this much."""
    return int(2 ** math.ceil(math.log2(min(max(least, 1.0), LONGEST))))
