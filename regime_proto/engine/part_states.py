"""Runs checkpoints through a program in parts: part by part, and checkpoint by checkpoint within a part."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from threading import Lock

import numpy as np

from regime_proto.checkpoints.deferred import loaded
from regime_proto.checkpoints.locations import stamps
from regime_proto.checkpoints.source import Checkpoint, Copies, State
from regime_proto.engine.noise_floor import NoiseFloor, noise_of
from regime_proto.engine.part_graphs import Lane
from regime_proto.engine.parts import PartsMeter, Step
from regime_proto.quantities import base as quantities
from regime_proto.quantities.deltas import non_finite, state_sums
from regime_proto.quantities.measuring import guarded
from regime_proto.runtime.device import Placed, Session
from regime_proto.runtime.memory import give_back
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.flips import FlipCounter
from regime_proto.schema.header import Observation
from regime_proto.schema.types import Array

Read = Callable[[Checkpoint], State]


@dataclass(frozen=True)
class Besides:
    """Work in addition to the observations.

    Parameters
    ----------
    verify : bool
        Verify, on the first state to run, that every gate follows the samples of the probe.
    take_noise : callable, optional
        Receives the noise floor of the last state, measured by an additional pass, before that state is yielded.
    """

    verify: bool = False
    take_noise: Callable[[NoiseFloor], None] | None = None


def observe_parts(
    meter: PartsMeter,
    checkpoints: Sequence[Checkpoint],
    read: Read,
    *,
    rows: range | None = None,
    group: int = 16,
    workers: int = 2,
    copies: Copies | None = None,
    besides: Besides = Besides(),
) -> Iterator[Observation]:
    """Yield observations of `checkpoints`, in order; they equal those of `threads.observe`, bit for bit.

    A group of checkpoints goes through the parts together: for each part, its tensors are read once
    from each checkpoint, compared with those of the preceding checkpoint, and run. Only these are
    in memory. The checkpoint before a group is read again, for comparison. A checkpoint is closed
    between two visits; it must not change in between.

    Parameters
    ----------
    meter : PartsMeter
    checkpoints : sequence of Checkpoint
    read : callable
        Reads a checkpoint without holding its tensors in memory.
    rows : range, optional
        Indices of the checkpoints to observe; default: all. The checkpoint before them also runs, for comparison.
    group : int
        Checkpoints that go through the parts together.
    workers : int
        Number of threads, each on one checkpoint. Neither `workers` nor `group` affects the result.
    copies : Copies, optional
        See `threads.observe`.
    besides : Besides
    """
    first, stop = (0, len(checkpoints)) if rows is None else (rows.start, rows.stop)
    run = range(max(0, first - 1), stop)
    opened = _Opened(meter, checkpoints, read, run.start)
    before: _Turn | None = None
    pool = ThreadPoolExecutor(workers, thread_name_prefix="regime")
    try:
        if meter.measures.keep_first_masks and run and run.start > 0:
            for turn in _carried_out(meter, opened, pool, [_Turn.of(meter, 0)]):
                opened.first_masks = turn.packed
            opened.require_sound()
        for begin in range(run.start, run.stop, group):
            turns = _turns(meter, range(begin, min(begin + group, stop)), run, besides)
            for turn in _carried_out(meter, opened, pool, turns):
                _finish(meter, opened, turn, besides)
                if turn.number >= first:
                    yield _observation(meter, opened, turn, before)
                if copies is not None and before is not None:
                    copies.release(checkpoints[before.number].path)
                before = turn
            opened.require_sound()
    except BaseException:
        # Otherwise an unneeded download would continue.
        if copies is not None:
            copies.stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _turns(meter: PartsMeter, numbers: range, run: range, besides: Besides) -> "list[_Turn]":
    """Return the initial states of a group of checkpoints, with their additional passes."""
    turns = [_Turn.of(meter, number) for number in numbers]
    if numbers.start == run.start and besides.verify and meter.unverified is not None:
        turns[0].lanes["permuted"] = Lane(meter.graph, meter.graph.begin(meter.unverified.permuted))
    if numbers.stop == run.stop and besides.take_noise is not None:
        turns[-1].lanes["nudged"] = Lane(*meter.nudged())
    return turns


@dataclass
class _Turn:
    """The results of a checkpoint so far.

    Parameters
    ----------
    number : int
    lanes : dict of str to Lane
        Its passes: ``usual``, and additional ones.
    sums : (tensor, 2) float64
        Σ|Δ| and ΣΔ² relative to the previous checkpoint; NaN if there is none.
    terms : (tensor, quantity) float64
        Sums of the quantities' terms.
    """

    number: int
    lanes: dict[str, Lane]
    sums: Array
    terms: Array
    weights_are_finite: bool = True
    state: State = field(default_factory=lambda: State({}))

    @classmethod
    def of(cls, meter: PartsMeter, number: int) -> "_Turn":
        """Begin."""
        lanes = {"usual": Lane(meter.graph, meter.begun)}
        tensors = len(meter.names)
        sums, terms = (np.full((tensors, count), np.nan) for count in (2, len(meter.measures.terms)))
        return cls(number, lanes, sums, terms)

    @property
    def packed(self) -> Array:
        """Its masks."""
        return self.lanes["usual"].packed


class _Opened:
    """Reads parts of checkpoints.

    Attributes
    ----------
    first_masks : (sample, byte) uint8, optional
        Masks of the first checkpoint, once known.
    error : Exception, optional
        The error that prevents a checkpoint, and those after it, from being observed.
    """

    def __init__(self, meter: PartsMeter, checkpoints: Sequence[Checkpoint], read: Read, start: int) -> None:
        self.start = start
        self._meter = meter
        self._read = read
        self._stamps: dict[int, object] = {}
        self.checkpoints = checkpoints
        self.first_masks: Array | None = None
        self.error: Exception | None = None
        self.failed = len(checkpoints)
        self._lock = Lock()

    def where(self, number: int) -> str:
        """Return the name of a checkpoint."""
        return str(self.checkpoints[number].path)

    def tensors(self, number: int, names: Sequence[str]) -> tuple[State, dict[str, Array]]:
        """Return some tensors of a checkpoint, and the step, epoch and metrics stored in it.

        Raises
        ------
        RegimeError
            The checkpoint is damaged, or has changed since its first part was read.
        """
        path = self.checkpoints[number].path
        state = self._read(self.checkpoints[number])
        weights = self._meter.program.bind(state, str(path), lazily=True)
        found = {name: loaded(weights[name]) for name in names}
        held = stamps(path)
        if self._stamps.setdefault(number, held) != held:
            raise RegimeError(
                f"{path}: the checkpoint changed during the measurement; run the same command again once it is complete"
            )
        return State({}, state.epoch, state.metrics), found

    def require_sound(self) -> None:
        """Raise the error that prevented a checkpoint from being observed."""
        if self.error is not None:
            raise self.error

    def fail(self, number: int, error: Exception) -> None:
        """Drop a checkpoint and those after it."""
        with self._lock:
            if number < self.failed:
                self.failed, self.error = number, error


def _carried_out(meter: PartsMeter, opened: _Opened, pool: ThreadPoolExecutor, turns: Sequence[_Turn]) -> list[_Turn]:
    """Run checkpoints through all parts; return those before the first that cannot be observed."""
    graphs = {id(lane.graph): lane.graph for turn in turns for lane in turn.lanes.values()}
    steps = {step.index: step for step in meter.steps}
    for index in range(max(len(meter.steps), *map(len, graphs.values()))):
        sessions = {key: graph.session(index) for key, graph in graphs.items() if index < len(graph)}
        visit = _Visit(meter, opened, steps.get(index, Step(index, ())), sessions, [turn.number for turn in turns])
        futures: list[Future[None]] = [pool.submit(visit.carry_out, turn) for turn in turns]
        for turn, future in zip(turns, futures, strict=True):
            try:
                future.result()
            except Exception as error:
                opened.fail(turn.number, error)
        del visit, sessions
        give_back()
    return [turn for turn in turns if turn.number < opened.failed]


class _Visit:
    """One part of a group of checkpoints; used by several threads at once, which process the checkpoints in order."""

    def __init__(
        self, meter: PartsMeter, opened: _Opened, step: Step, sessions: Mapping[int, Session], numbers: Sequence[int]
    ) -> None:
        self._meter = meter
        self._opened = opened
        self._step = step
        self._sessions = sessions
        self._compared = [meter.names[place] for place in step.compared]
        # Kept until the next one has been compared with it.
        self._held: dict[int, Future[Mapping[str, Array]]] = {number: Future() for number in numbers}
        self._first: Mapping[str, Array] | None = None
        self._lock = Lock()

    def carry_out(self, turn: _Turn) -> None:
        """Read, run and compare the part of one checkpoint."""
        held = self._held[turn.number]
        try:
            if turn.number >= self._opened.failed:
                held.set_result({})
                return
            taken = {name for lane in turn.lanes.values() for name in lane.graph.weights(self._step.index)}
            turn.state, tensors = self._opened.tensors(turn.number, sorted(taken | set(self._compared)))
            compared = {name: tensors[name] for name in self._compared}
            held.set_result(compared)
        except BaseException as error:
            held.set_exception(error)
            raise
        self._run(turn, {name: tensors[name] for name in taken})
        del tensors
        if compared:
            self._compare(turn, compared)

    def _run(self, turn: _Turn, tensors: Mapping[str, Array]) -> None:
        placed: Mapping[str, Placed] = self._meter.place(tensors, self._opened.where(turn.number))
        for lane in turn.lanes.values():
            session = self._sessions.get(id(lane.graph))
            if session is not None:
                lane.run(self._step.index, session, placed)

    def _compare(self, turn: _Turn, current: Mapping[str, Array]) -> None:
        places, names = list(self._step.compared), self._compared
        previous = self._previous(turn.number)
        others = {"": None, "previous": previous, "first": self._first_one()}
        if previous:
            turn.sums[places] = state_sums(current, previous, names)
        suspects = [name for name, place in zip(names, places, strict=True) if not np.isfinite(turn.sums[place, 0])]
        turn.weights_are_finite &= not non_finite(current, suspects)
        for column, quantity in enumerate(self._meter.measures.terms):
            other = others[quantity.against]
            if not quantity.against or other:
                sums = partial(quantities.sums_of, quantity, current, other, names)
                turn.terms[places, column] = guarded(quantity, sums, self._opened.where(turn.number))

    def _previous(self, number: int) -> Mapping[str, Array] | None:
        """Return the tensors of the previous checkpoint; each is returned only once."""
        if number in (0, self._opened.start):
            return None
        with self._lock:
            held = self._held.pop(number - 1, None)
        return self._opened.tensors(number - 1, self._compared)[1] if held is None else held.result()

    def _first_one(self) -> Mapping[str, Array] | None:
        """Return the tensors of the first checkpoint, read once for all comparisons."""
        if not self._meter.measures.keep_first:
            return None
        with self._lock:
            if self._first is None:
                self._first = self._opened.tensors(0, self._compared)[1]
            return self._first


def _finish(meter: PartsMeter, opened: _Opened, turn: _Turn, besides: Besides) -> None:
    """Finish the additional work for a checkpoint."""
    if turn.number == 0:
        opened.first_masks = turn.packed
        _require_sound_first(meter, turn, opened.where(0))
    permuted, nudged = turn.lanes.pop("permuted", None), turn.lanes.pop("nudged", None)
    if permuted is not None and meter.unverified is not None:
        flips = FlipCounter(meter.layers).count(permuted.packed, turn.packed[meter.unverified.order])
        meter.unverified.require_followed(meter.gates, flips.sum(axis=1), meter.layer_units.sum(axis=1))
    if nudged is not None and besides.take_noise is not None:
        is_finite = turn.lanes["usual"].is_finite
        besides.take_noise(noise_of(meter, turn.packed, {"ulp": nudged.packed}) if is_finite else NoiseFloor())


def _observation(meter: PartsMeter, opened: _Opened, turn: _Turn, before: _Turn | None) -> Observation:
    packed = turn.packed
    previous = None if before is None else before.packed
    flips = (
        np.zeros((len(meter.layers), meter.rows[0].samples), np.uint32)
        if previous is None
        else FlipCounter(meter.layers).count(packed, previous)
    )
    return Observation(
        step=opened.checkpoints[turn.number].step,
        epoch=turn.state.epoch,
        valid=turn.lanes["usual"].is_finite and turn.weights_are_finite,
        weight_delta_l1=turn.sums[:, 0],
        weight_delta_l2=np.sqrt(turn.sums[:, 1]),
        flips=flips,
        mask=packed,
        metrics=turn.state.metrics,
        flip_fraction_error=meter.flip_fraction_error(packed, packed if previous is None else previous),
        quantities=_values(meter, opened, turn, before),
    )


def unusable_reference(where: str, *, against: str, quantity: str, leave_out: str = "--steps") -> RegimeError:
    """Return the error for a state with NaN or Inf with which a quantity compares all others.

    Parameters
    ----------
    where : str
        The checkpoint, and the tensor if it is known.
    against : {"first", "last"}
        Which checkpoint it is.
    quantity : str
        Name of a quantity that compares with it.
    leave_out : str
        The option that leaves the checkpoint out.

    Returns
    -------
    RegimeError
    """
    return RegimeError(
        f"{where} holds NaN or Inf, so other states cannot be compared with it; leave the checkpoint out "
        f"({leave_out}), or choose quantities with --measure that are not compared with the {against} checkpoint, as "
        f"{quantity} is"
    )


def _require_sound_first(meter: PartsMeter, turn: _Turn, where: str) -> None:
    """Raise an error if later states are compared with a first one that is not finite."""
    held = [one.name for one in meter.measures.quantities if one.against == "first"]
    if held and not turn.weights_are_finite:
        raise unusable_reference(f"{where}: a weight", against="first", quantity=held[0])


def _values(meter: PartsMeter, opened: _Opened, turn: _Turn, before: _Turn | None) -> dict[str, Array]:
    """Return the values of the requested quantities."""
    measures, where = meter.measures, opened.where(turn.number)
    values = measures.finished(turn.terms, where)
    if before is None:
        values |= {one.name: measures.unknown(one) for one in measures.terms if one.against == "previous"}
    masks = {"": None, "previous": None if before is None else before.packed, "first": opened.first_masks}
    others = {name: None if held is None else quantities.State({}, held) for name, held in masks.items()}
    for quantity in measures.computed.quantities:
        current = quantities.State({}, turn.packed)
        values[quantity.name] = measures.values(quantity, current, others[quantity.against], where)
    return {quantity.name: values[quantity.name] for quantity in measures.quantities}
