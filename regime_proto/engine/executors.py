"""Runs a sequence of checkpoints through a meter: several are in flight, each in a thread."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from regime_proto.checkpoints.source import Checkpoint, Copies, State
from regime_proto.engine.measure import Bound, Measured, Meter
from regime_proto.schema.header import Observation

# Observations that may wait to be taken: some, and not more than so many bytes of masks.
_AHEAD = 64
_AHEAD_BYTES = 8 * 2**20

Task = Callable[[Bound, Callable[[], Measured]], object]
"""What is done with a state beside its observation: given the state, and what waits for its masks."""


def observe(
    meter: Meter,
    checkpoints: Sequence[Checkpoint],
    read: Callable[[Checkpoint], State],
    *,
    first: int = 0,
    workers: int = 2,
    copies: Copies | None = None,
    with_first: Task | None = None,
    with_last: Task | None = None,
) -> Iterator[Observation]:
    """Yield the observations of `checkpoints` from number `first` on, in order.

    Each worker takes a checkpoint through all of reading, running, packing and comparing, so reading one
    overlaps computing another. An error of a checkpoint is raised when its turn comes, after the
    observations before it. At most `workers` + 1 states are in memory: each is let go once its successor
    has been compared with it.

    Parameters
    ----------
    meter : Meter
    checkpoints : sequence of Checkpoint
    read : callable
    first : int
        Where to begin; the checkpoint before it is read once more, to compare with.
    workers : int
        States in flight. The result does not depend on it.
    copies : Copies, optional
        Those that reading leaves: that of a checkpoint goes once its successor was compared with it.
    with_first, with_last : callable, optional
        What else a worker does with the first and the last state that are run: the former before any observation is
        yielded, the latter before the last one is.
    """

    def work(number: int, before: "_Turn | None", turn: _Turn) -> Observation:
        try:
            turn.bound.set_result(meter.bind(checkpoints[number], read(checkpoints[number])))
            turn.measured.set_result(meter.measure(turn.bound.result()))
        except BaseException as error:
            turn.fail(error)
            raise
        previous = before.measured.result() if before else None
        observation = meter.compare(turn.measured.result(), previous)
        if copies is not None and previous is not None:
            copies.release(previous.state.checkpoint.path)
        return observation

    start, stop = max(0, first - 1), len(checkpoints)
    ahead = min(_AHEAD, _AHEAD_BYTES // max(1, sum(layer.bytes for layer in meter.layers) * meter.rows[0].samples))
    in_flight: deque[Future[Observation]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="regime")

    def beside(task: Task | None, turn: _Turn | None) -> "Future[object]":
        return _nothing() if task is None or turn is None else pool.submit(turn.do, task)

    before: _Turn | None = None
    first_done = _nothing()
    try:
        for number in range(start, stop):
            turn = _Turn()
            result = pool.submit(work, number, before, turn)
            before = turn
            if number == start:
                first_done = beside(with_first, turn)
            if number >= first:
                in_flight.append(result)
            # So many wait for the caller, who is now and then busy with writing, that no worker does.
            if len(in_flight) > workers + ahead:
                first_done.result()
                yield in_flight.popleft().result()
        last_done, before = beside(with_last, before), None
        first_done.result()
        while len(in_flight) > 1:
            yield in_flight.popleft().result()
        last_done.result()
        while in_flight:
            yield in_flight.popleft().result()
    except BaseException:
        # Else the pool would wait for downloads that nobody needs.
        if copies is not None:
            copies.stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Turn:
    """What becomes of a checkpoint, for those who wait for it."""

    def __init__(self) -> None:
        self.bound: Future[Bound] = Future()
        self.measured: Future[Measured] = Future()

    def fail(self, error: BaseException) -> None:
        """Let those who wait have the error."""
        for future in (self.bound, self.measured):
            if not future.done():
                future.set_exception(error)

    def do(self, task: Task) -> object:
        """Do something beside the observation."""
        return task(self.bound.result(), self.measured.result)


def _nothing() -> "Future[object]":
    """Return what is done already."""
    done: Future[object] = Future()
    done.set_result(None)
    return done
