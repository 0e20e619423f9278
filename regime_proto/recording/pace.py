"""Chooses strides so that observing takes at most a given share of the training time."""

import math
from collections import deque
from statistics import median

from regime_proto.recording.schedule import Share
from regime_proto.recording.strides import STRIDES, Strides

# Stride before any time is measured. Strides are powers of two, so that the steps of a stride include those of the next
# larger one, and similar runs have few different strides.
FIRST = 4
LONGEST = 2**30
# Largest growth of a stride at once: the first steps may be unusually slow or fast.
STEEPEST = 16
# Number of past observations in a median, which a single slow step or observation does not change.
WINDOW = 9
# Fractions of the share. If observations take more than the first, the stride is raised until they take the second. It
# is lowered if they would take no more than the third. Strides rarely change, since changes of weights and patterns
# over different strides are different quantities.
ABOVE, ROOM, MUCH_ROOM = 1.15, 0.9, 0.7
# Consecutive observations well below the share before a stride is lowered; fewer for the first stride of a run.
EARLY = 3


class Pace:
    """A schedule that chooses its stride from the measured times of training steps and observations.

    The stride changes only at observations, so that processes that train together can agree on it.

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
        """See `Schedule`; if this was not called at a due step, the next step is due instead."""
        return self._next is None or step >= self._next

    def start(self) -> None:
        """See `Schedule`."""
        self._began = self._clock()
        self._first = self._began if self._first is None else self._first

    def count_device(self, seconds: float) -> None:
        """See `Schedule`; only time beyond that of the host counts, for which the training had to wait."""
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
        # The first observation is not typical, since it allocates memory.
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
        """Return the stride that follows from the latest measured times."""
        assert self.stride is not None  # noqa: S101
        if self._needed(ABOVE) > self.stride:
            return _power(min(self._needed(ROOM), STEEPEST * self.stride))
        recent = sum(self._costs) / (sum(self._costs) + sum(self._between))
        if self._since >= WINDOW and min(recent, self.share) > self._requested.value:
            # Either slightly too long, or too many observations are far above the median.
            return _power(2 * self.stride)
        has_room = 2 * self._needed(MUCH_ROOM) <= self.stride and self.share <= self._requested.value
        self._low = self._low + 1 if has_room else 0
        is_low = self._low >= (EARLY if len(self._costs) == EARLY else WINDOW)
        return _power(self._needed(MUCH_ROOM)) if is_low else self.stride

    def _needed(self, room: float) -> float:
        """Return the stride at which a typical observation takes exactly this fraction of the share."""
        share = room * self._requested.value
        per_step = median(self._per_step)
        return median(self._costs) * (1 - share) / (share * per_step) if per_step > 0 else math.inf


def _power(least: float) -> int:
    """Return the smallest power of two that is not below `least`."""
    return int(2 ** math.ceil(math.log2(min(max(least, 1.0), LONGEST))))
