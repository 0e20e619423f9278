"""Runs a sequence of checkpoints through a meter: several are in flight, each in a thread."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from regime_proto.checkpoints.source import Checkpoint, Copies, State
from regime_proto.engine.measure import Measured, Meter
from regime_proto.schema.header import Observation

# Observations that may wait to be taken: some, and not more than so many bytes of masks.
_AHEAD = 64
_AHEAD_BYTES = 8 * 2**20


def observe(
    meter: Meter,
    checkpoints: Sequence[Checkpoint],
    read: Callable[[Checkpoint], State],
    *,
    first: int = 0,
    workers: int = 2,
    copies: Copies | None = None,
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
    """

    def work(checkpoint: Checkpoint, before: "Future[Measured] | None", own: "Future[Measured]") -> Observation:
        try:
            measured = meter.measure(checkpoint, read(checkpoint))
        except BaseException as error:
            own.set_exception(error)
            raise
        own.set_result(measured)
        previous = before.result() if before else None
        observation = meter.compare(measured, previous)
        if copies is not None and previous is not None:
            copies.release(previous.checkpoint.path)
        return observation

    start = max(0, first - 1)
    ahead = min(_AHEAD, _AHEAD_BYTES // max(1, sum(layer.bytes for layer in meter.layers) * meter.rows[0].samples))
    in_flight: deque[Future[Observation]] = deque()
    before: Future[Measured] | None = None
    pool = ThreadPoolExecutor(workers, thread_name_prefix="regime")
    try:
        for number in range(start, len(checkpoints)):
            own: Future[Measured] = Future()
            result = pool.submit(work, checkpoints[number], before, own)
            before = own
            if number >= first:
                in_flight.append(result)
            # So many wait for the caller, who is now and then busy with writing, that no worker does.
            if len(in_flight) > workers + ahead:
                yield in_flight.popleft().result()
        while in_flight:
            yield in_flight.popleft().result()
    except BaseException:
        # Else the pool would wait for downloads that nobody needs.
        if copies is not None:
            copies.stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
