"""Measures parameter states: masks, flips and weight deltas, several states in flight."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from regime_proto.engine.deltas import non_finite, weight_deltas
from regime_proto.engine.masks import MaskLayout, count_flips
from regime_proto.engine.program import Program
from regime_proto.engine.session import MaskSession
from regime_proto.schema.header import Observation
from regime_proto.source import Array, Checkpoint, State


@dataclass(frozen=True)
class Measured:
    """A state whose masks are known.

    Parameters
    ----------
    checkpoint : Checkpoint
    state : State
    weights : mapping of str to array
        The state's arrays under the program's names.
    mask : (sample, byte) uint8
    finite : bool
        Whether no activation was NaN or Inf.
    """

    checkpoint: Checkpoint
    state: State
    weights: Mapping[str, Array]
    mask: Array
    finite: bool


@dataclass(frozen=True)
class Meter:
    """Turns states into observations.

    Parameters
    ----------
    program : Program
    session : MaskSession
    layout : MaskLayout
    starts : (layer,) int64
        First byte of each layer in a mask.
    """

    program: Program
    session: MaskSession
    layout: MaskLayout
    starts: Array

    @property
    def names(self) -> list[str]:
        """The trainable tensors."""
        return [tensor.name for tensor in self.program.trainable]

    def measure(self, checkpoint: Checkpoint, state: State) -> Measured:
        """Run one state through the session."""
        weights = self.program.bind(state, str(checkpoint.path))
        masks, finite = self.session.run(weights)
        return Measured(checkpoint, state, weights, self.layout.pack(masks), finite)

    def compare(self, current: Measured, previous: Measured | None) -> Observation:
        """Return the observation of `current`."""
        names = self.names
        if previous is None:
            l1 = l2 = np.full(len(names), np.nan)
            flips = np.zeros((len(self.starts), self.layout.samples), np.uint32)
        else:
            l1, l2 = weight_deltas(current.weights, previous.weights, names)
            flips = count_flips(current.mask, previous.mask, self.starts)
        # A finite sum of |Δ| shows that both states are finite; otherwise one of them is to blame.
        suspects = [name for name, value in zip(names, l1, strict=True) if not np.isfinite(value)]
        return Observation(
            step=current.checkpoint.step,
            epoch=current.state.epoch,
            valid=current.finite and not non_finite(current.weights, suspects),
            weight_delta_l1=l1,
            weight_delta_l2=l2,
            flips=flips,
            mask=current.mask,
            metrics=current.state.metrics,
        )


@dataclass
class _Slot:
    """One state in flight: what the next state waits for, and what the caller waits for."""

    measured: "Future[Measured]" = field(default_factory=Future)
    result: "Future[Observation] | None" = None


def observe(
    meter: Meter,
    checkpoints: Sequence[Checkpoint],
    read: Callable[[Checkpoint], State],
    *,
    first: int = 0,
    workers: int = 2,
) -> Iterator[Observation]:
    """Yield the observations of `checkpoints` from number `first` on, in order.

    Each worker takes a checkpoint through all of reading, running, packing and comparing, so reading one
    overlaps computing another. An error of a checkpoint is raised when its turn comes, after the
    observations before it.

    Parameters
    ----------
    meter : Meter
    checkpoints : sequence of Checkpoint
    read : callable
    first : int
        Where to begin; the checkpoint before it is read once more, to compare with.
    workers : int
        States in flight. The result does not depend on it.
    """

    def work(slot: _Slot, before: "_Slot | None", checkpoint: Checkpoint) -> Observation:
        try:
            measured = meter.measure(checkpoint, read(checkpoint))
        except BaseException as error:
            slot.measured.set_exception(error)
            raise
        slot.measured.set_result(measured)
        return meter.compare(measured, before.measured.result() if before else None)

    start = max(0, first - 1)
    in_flight: deque[_Slot] = deque()
    before: _Slot | None = None
    pool = ThreadPoolExecutor(workers, thread_name_prefix="regime")
    try:
        for number in range(start, len(checkpoints)):
            slot = _Slot()
            slot.result = pool.submit(work, slot, before, checkpoints[number])
            before = slot
            if number >= first:
                in_flight.append(slot)
            # One more than there are workers: none of them waits for the caller.
            if len(in_flight) > workers:
                yield _take(in_flight)
        while in_flight:
            yield _take(in_flight)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _take(in_flight: deque[_Slot]) -> Observation:
    slot = in_flight.popleft()
    assert slot.result is not None  # noqa: S101
    return slot.result.result()
