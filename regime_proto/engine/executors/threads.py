"""Measures a sequence of checkpoints with threads, each of which processes batches of consecutive checkpoints."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from regime_proto.checkpoints.source import Checkpoint, Copies, State
from regime_proto.engine.measure import Bound, Measured, Meter
from regime_proto.schema.header import Observation

# Limits on finished observations that wait for the caller: their number, and the bytes of their masks.
_AHEAD = 64
_AHEAD_BYTES = 8 * 2**20
# A thread receives enough checkpoints at a time to be busy for this long, since each hand-over costs some 0.5 ms. A
# batch of several holds up to three states, so large ones are processed one at a time.
_RUN_SECONDS = 0.03
_LONGEST_RUN = 16
_SMALL_BYTES = 32 * 2**20

Task = Callable[[Bound, Callable[[], Measured]], object]
"""Additional work on a state; its arguments are the state and a function that waits for its masks."""


def observe(
    meter: Meter,
    checkpoints: Sequence[Checkpoint],
    read: Callable[[Checkpoint], State],
    *,
    rows: range | None = None,
    workers: int = 2,
    copies: Copies | None = None,
    with_first: Task | None = None,
    with_last: Task | None = None,
) -> Iterator[Observation]:
    """Yield observations of `checkpoints`, in order.

    Each worker reads, runs, packs and compares its checkpoint, so that reading one overlaps computing another. The
    error of a checkpoint is raised in its turn, after the observations before it. At most `workers` + 1 large states
    are in memory: each is released once its successor has been compared with it.

    Parameters
    ----------
    meter : Meter
    checkpoints : sequence of Checkpoint
    read : callable
    rows : range, optional
        Indices of the checkpoints to observe; default: all. The checkpoint before them is also read, for comparison.
    workers : int
        Number of threads. It does not affect the result.
    copies : Copies, optional
        Copies left by reading: each is removed once the next checkpoint has been compared with its checkpoint.
    with_first, with_last : callable, optional
        Additional work on the first and last states of the run: completed before the first
        observation is yielded, and before the last one is.
    """
    first, stop = (0, len(checkpoints)) if rows is None else (rows.start, rows.stop)
    start = max(0, first - 1)
    ahead = min(_AHEAD, _AHEAD_BYTES // max(1, sum(layer.bytes for layer in meter.layers) * meter.rows[0].samples))
    worker = _Worker(meter, checkpoints, read, copies)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="regime")
    in_flight: deque[tuple[range, Future[_Done]]] = deque()
    first_done = last_done = _nothing()
    try:
        for run in _runs(start, stop, workers):
            in_flight.append((run.numbers, pool.submit(worker.carry_out, run)))
            if with_first and run.numbers.start == start:
                first_done = pool.submit(run.first.do, with_first)
            if with_last and run.numbers.stop == stop:
                last_done = pool.submit(run.last.do, with_last)
            longest = workers * len(run.numbers) + ahead
            # The previous batch holds the states needed for comparison.
            del run
            # Enough finished observations queue up that no worker waits while the caller is busy writing.
            while in_flight[-1][0].stop - in_flight[0][0].start > longest:
                first_done.result()
                yield from _observed(*in_flight.popleft(), first)
        first_done.result()
        while in_flight:
            numbers, result = in_flight.popleft()
            for number, observation in enumerate(_observed(numbers, result, first), start=max(numbers.start, first)):
                if number == stop - 1:
                    last_done.result()
                yield observation
        last_done.result()
    except BaseException:
        # Otherwise the pool would wait for unneeded downloads.
        if copies is not None:
            copies.stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Done:
    """The outcome of a batch: its observations, up to the first error."""

    observations: Sequence[Observation]
    error: BaseException | None = None


def _observed(numbers: range, result: "Future[_Done]", first: int) -> Iterator[Observation]:
    """Yield the observations of a batch from index `first` on, then raise its error."""
    done = result.result()
    yield from done.observations[max(0, first - numbers.start) :]
    if done.error is not None:
        raise done.error


class _Turn:
    """The pending results of a checkpoint, for threads that wait for them."""

    def __init__(self) -> None:
        self.bound: Future[Bound] = Future()
        self.measured: Future[Measured] = Future()

    def fail(self, error: BaseException) -> None:
        """Pass the error to waiting threads."""
        for future in (self.bound, self.measured):
            if not future.done():
                future.set_exception(error)

    def do(self, task: Task) -> object:
        """Do additional work on the state."""
        return task(self.bound.result(), self.measured.result)


@dataclass(frozen=True)
class _Run:
    """Consecutive checkpoints that one worker processes as a batch.

    Parameters
    ----------
    numbers : range
    before : _Turn, optional
        For the checkpoint before them.
    first, last : _Turn
        For the first and the last of them.
    seconds : Future of float
        Time for one of them; infinite if the states are large.
    """

    numbers: range
    before: _Turn | None
    first: _Turn
    last: _Turn
    seconds: "Future[float]" = field(default_factory=Future)

    @property
    def turns(self) -> dict[int, _Turn]:
        """The pending results, by index of the checkpoint."""
        return {self.numbers[0]: self.first, self.numbers[-1]: self.last}

    def fail(self, error: BaseException) -> None:
        """Pass the error to threads that wait for one of them."""
        for turn in (self.first, self.last):
            turn.fail(error)
        if not self.seconds.done():
            self.seconds.set_result(math.inf)


def _runs(start: int, stop: int, workers: int) -> Iterator[_Run]:
    """Yield the indices from `start` to `stop` in batches: first single ones per worker, then sized by their timing."""
    before: _Turn | None = None
    timed: list[Future[float]] = []
    while start < stop:
        length = 1
        if len(timed) >= workers:
            # The very first one takes longer than the others.
            timed[0].result()
            longest = _longest(min(seconds.result() for seconds in timed if seconds.done()))
            # All workers should end at about the same time.
            length = max(1, min(longest, (stop - start) // (2 * workers)))
        first = _Turn()
        run = _Run(range(start, start + length), before, first, first if length == 1 else _Turn())
        timed.append(run.seconds)
        before = run.last
        start += length
        yield run


def _longest(seconds: float) -> int:
    """Return the batch size for checkpoints that need this many seconds each."""
    return max(1, min(_LONGEST_RUN, int(_RUN_SECONDS / seconds)))


class _Worker:
    """Measures batches of checkpoints; used by several threads at once."""

    def __init__(
        self,
        meter: Meter,
        checkpoints: Sequence[Checkpoint],
        read: Callable[[Checkpoint], State],
        copies: Copies | None,
    ) -> None:
        self._meter = meter
        self._checkpoints = checkpoints
        self._read = read
        self._copies = copies

    def carry_out(self, run: _Run) -> _Done:
        """Observe the checkpoints of a batch; compare the first one last, since its predecessor may not be ready."""
        later: list[Observation] = []
        first = previous = None
        failed: BaseException | None = None
        try:
            for number in run.numbers:
                measured = self._measured(run, number)
                if previous is None:
                    first = measured
                else:
                    later.append(self._compared(measured, previous))
                previous = measured
        except BaseException as error:
            run.fail(error)
            failed = error
        del previous
        if first is None:
            return _Done([], failed)
        try:
            before = None if run.before is None else run.before.measured.result()
            return _Done([self._compared(first, before), *later], failed)
        except BaseException as error:
            return _Done([], error)

    def _measured(self, run: _Run, number: int) -> Measured:
        begin = time.perf_counter()
        turn = run.turns.get(number)
        checkpoint = self._checkpoints[number]
        bound = self._meter.bind(checkpoint, self._read(checkpoint))
        if turn is not None:
            turn.bound.set_result(bound)
        measured = self._meter.measure(bound)
        if turn is not None:
            turn.measured.set_result(measured)
        if number == run.numbers[0]:
            is_small = sum(array.nbytes for array in bound.weights.values()) <= _SMALL_BYTES
            run.seconds.set_result(time.perf_counter() - begin if is_small else math.inf)
        return measured

    def _compared(self, measured: Measured, previous: Measured | None) -> Observation:
        observation = self._meter.compare(measured, previous)
        if self._copies is not None and previous is not None:
            self._copies.release(previous.state.checkpoint.path)
        return observation


def _nothing() -> "Future[object]":
    """Return a completed future."""
    done: Future[object] = Future()
    done.set_result(None)
    return done
