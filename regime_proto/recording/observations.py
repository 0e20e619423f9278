"""Turns measurements into observations, derives the status of the run, and passes them to the journal."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from regime_proto.engine.live_model import Measurement, Pending
from regime_proto.engine.masks import is_same_but_rounding
from regime_proto.engine.measure import Meter
from regime_proto.engine.sampling import flip_fraction_errors
from regime_proto.recording.background_writer import Journal
from regime_proto.recording.schedule import Schedule
from regime_proto.recording.settling import Detector, Settling
from regime_proto.recording.strides import STRIDES
from regime_proto.schema.display import Display, Displayed, Table
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.flips import FlipCounter, pattern_change
from regime_proto.schema.header import Observation
from regime_proto.schema.numbers import number
from regime_proto.schema.types import Array
from regime_proto.schema.words import counted


@dataclass(frozen=True, repr=False)
class Status(Displayed):
    """State of a run, as known to its recorder.

    Parameters
    ----------
    step : int or None
        Step of the newest measured observation; None before the first.
    epoch : float
        Epoch of that observation; NaN if unknown.
    observations : int
        Number of observations, including those of an earlier run that was resumed.
    weight_change : float
        Δw between the previous observation and this one, with parameter weighting (docs/protocol.md, Eq. 2); NaN for
        the first.
    pattern_change : float
        Δa between the previous observation and this one, with layer weighting (docs/protocol.md, Eq. 3), from 0 to 1;
        NaN for the first.
    settled : bool
        Whether patterns are settled now; see `Settling`.
    settled_at : int or None
        Step at which patterns were first found to be settled.
    stopped : str
        Why recording has stopped, for example because the disk is full; empty while it works.
    stride : int or None
        Current stride, in steps, that the recorder has chosen; None unless `every` is a share of the time, as in
        ``every="5%"``.
    observing_share : float
        Share of the time since the first observation that was spent on observing, from 0 to 1; NaN unless `every` is a
        share of the time.
    """

    step: int | None = None
    epoch: float = math.nan
    observations: int = 0
    weight_change: float = math.nan
    pattern_change: float = math.nan
    settled: bool = False
    settled_at: int | None = None
    stopped: str = ""
    stride: int | None = None
    observing_share: float = math.nan

    def _display(self) -> Display:
        if self.step is None:
            return Display("no observation yet", (self.stopped,))
        epoch = "" if math.isnan(self.epoch) else f" (epoch {self.epoch:.2f})"
        settled = "settled" if self.settled else "not settled"
        first = "" if self.settled_at is None else f", for the first time at step {self.settled_at}"
        facts = [
            ("observations", str(self.observations)),
            ("Δw", number(self.weight_change, ".3g")),
            ("Δa", number(self.pattern_change, ".3g")),
            ("patterns", f"{settled}{first}"),
        ]
        facts += [] if self.stride is None else [("stride", str(self.stride))]
        facts += [] if math.isnan(self.observing_share) else [("observing", f"{self.observing_share:.1%} of the time")]
        facts += [("stopped", self.stopped)] if self.stopped else []
        return Display(f"step {self.step}{epoch}", (Table(tuple(facts)),))


Callback = Callable[[Status], object]


@dataclass
class _Entry:
    """An observation that is not yet written, so that metrics can still be added."""

    step: int
    epoch: float
    metrics: dict[str, object]
    pending: Pending
    is_resolved: bool = False
    observation: Observation | None = None


class Ledger:
    """The observations of one run, the newest of which is open.

    Parameters
    ----------
    journal : Journal
    meter : Meter
    settling : Settling
    schedule : Schedule
        Chooses the steps of the observations.
    batches_per_epoch : float, optional
        Training steps per epoch, to compute epochs that are not passed.
    on_observation, on_settled : callable, optional
        Called with the `Status`, in the thread of the training.
    """

    def __init__(
        self,
        journal: Journal,
        meter: Meter,
        settling: Settling,
        schedule: Schedule,
        *,
        batches_per_epoch: float | None = None,
        on_observation: Callback | None = None,
        on_settled: Callback | None = None,
    ) -> None:
        self._journal = journal
        self._meter = meter
        self._flips = FlipCounter(meter.layers)
        self._units = meter.layer_units.sum(axis=1)
        self._elements = sum(tensor.size for tensor in meter.program.trainable)
        self._settling = settling
        self._schedule = schedule
        self._batches_per_epoch = batches_per_epoch
        self._detector = Detector(settling)
        self._on_observation = on_observation
        self._on_settled = on_settled
        self._entry: _Entry | None = None
        self._packed: Array | None = None
        self._valid = True
        self._broken: list[int] = []
        self._resumed: int | None = None
        self._resuming = False
        self._noise: dict[str, float] = {}
        self._told: dict[str, object] = {}
        self.device_seconds = 0.0
        self._status = Status()

    @property
    def stopped(self) -> str:
        """Why recording has stopped; empty while it works."""
        return self._journal.stopped

    def status(self) -> Status:
        """Return the current status."""
        schedule = self._schedule
        return replace(self._status, stopped=self.stopped, stride=schedule.stride, observing_share=schedule.share)

    def go_on(self, state: Measurement, step: int | None) -> None:
        """Resume an earlier run, which the journal has read, at the next observation.

        Parameters
        ----------
        state : Measurement
            The state from which the training resumes.
        step : int, optional
            Step of that state, if known.
        """
        self._packed, self._resumed, self._resuming = state.packed, step, bool(self._journal.past)

    def begins(self, step: int) -> bool:
        """Whether an observation at this step, the first of this recorder, is the first of the trajectory.

        Also true if the first observation of an earlier run was made at this step: its state is then the current one.
        """
        return not self._resuming or self._past_before(step) == 0

    def keep_start(self, step: int, start: Mapping[str, Array]) -> None:
        """Store the state of the first observation, made at `step`, for a run that resumes."""
        if start:
            self._journal.keep_start(step, list(start.values()))

    def enter(
        self, step: int, epoch: float | None, metrics: Mapping[str, object], pending: Pending, *, at_once: bool
    ) -> None:
        """Add a new observation; the previous one is then complete, and is passed to the journal.

        Parameters
        ----------
        step : int
        epoch : float or None
        metrics : mapping of str to object
            Numbers, or objects that `float` accepts.
        pending : Pending
            The measurement, which may still be running.
        at_once : bool
            Wait for the measurement now; otherwise the next call does.
        """
        self._write()
        if epoch is None:
            epoch = math.nan if self._batches_per_epoch is None else step / self._batches_per_epoch
        self._entry = _Entry(step, float(epoch), _taken(metrics), pending)
        if at_once:
            self._resolve(self._entry)

    def log(self, metrics: Mapping[str, object]) -> None:
        """Add metrics to the newest observation."""
        taken = _taken(metrics)
        if self._entry is not None:
            self._entry.metrics.update(taken)

    def annotate(self, noise: Mapping[str, float]) -> None:
        """Store a noise floor; the largest of several is kept."""
        for name, value in noise.items():
            self._noise[name] = max(value, self._noise.get(name, 0.0))
        self._journal.annotate(**self._noise)

    def note_strides(self) -> None:
        """Store the chosen strides, if there is a new one."""
        found = self._schedule.attributes
        if found.get(STRIDES) != self._told.get(STRIDES):
            self._note(found)

    def _note(self, found: dict[str, object]) -> None:
        if found and found != self._told:
            self._told = found
            self._journal.note(**found)

    def flush(self) -> None:
        """Write all observations to segments; no metrics can be added to the newest one afterwards."""
        self._write()
        self._journal.flush()

    def close(self) -> None:
        """Finish the trajectory."""
        self._write()
        self._note(self._schedule.attributes)
        self._journal.close()
        if self._broken:
            found = f"{counted(len(self._broken), 'observation')} {'holds' if len(self._broken) == 1 else 'hold'}"
            warnings.warn(
                f"{found} NaN or Inf, the first at step {self._broken[0]}; they are kept, but marked invalid and left "
                "out of the curves",
                RegimeWarning,
                stacklevel=3,
            )

    def abandon(self) -> None:
        """Leave the trajectory in segments."""
        try:
            self._write()
        finally:
            self._journal.abandon()

    def _write(self) -> None:
        entry, self._entry = self._entry, None
        if entry is None:
            return
        self._resolve(entry)
        if entry.observation is not None:
            metrics = {name: _number(name, value) for name, value in entry.metrics.items()}
            self._journal.append(replace(entry.observation, metrics=metrics))

    def _resolve(self, entry: _Entry) -> None:
        """Wait for the measurement of an entry, unless that is done."""
        if entry.is_resolved:
            return
        entry.is_resolved = True
        measurement = entry.pending()
        self.device_seconds = measurement.seconds
        connected = self._continues(entry.step, measurement) if self._resuming else True
        if connected is None:
            # The state from which the run resumes, whose observation exists already.
            self._packed = measurement.packed
        else:
            self._observe(entry, measurement, connected=connected)

    def _observe(self, entry: _Entry, measurement: Measurement, *, connected: bool) -> None:
        before = self._packed if self._packed is not None and self._status.observations else measurement.packed
        known = connected and bool(self._status.observations)
        sums = measurement.sums if known else np.full_like(measurement.sums, np.nan)
        flips = self._flips.count(measurement.packed, before)
        errors = None
        if self._meter.is_sampled:
            errors = flip_fraction_errors(self._meter.layers, self._meter.rows, measurement.packed, before)
        valid = measurement.finite and connected
        if measurement.problem:
            self._journal.stop(f"step {entry.step}: {measurement.problem}")
        elif self._meter.measures.keep_first and not self._status.observations and not measurement.finite:
            self._journal.stop(f"step {entry.step} holds NaN or Inf, so later states cannot be compared with it")
        if not measurement.finite:
            self._broken.append(entry.step)
        entry.observation = Observation(
            step=entry.step,
            epoch=entry.epoch,
            valid=valid,
            weight_delta_l1=sums[:, 0],
            weight_delta_l2=np.sqrt(sums[:, 1]),
            flips=flips,
            mask=measurement.packed,
            flip_fraction_error=errors,
            quantities=self._quantities(measurement, is_known=known),
        )
        usable = known and valid and self._valid
        self._packed, self._valid = measurement.packed, valid
        change = pattern_change(flips.sum(axis=1), self._units) if usable else math.nan
        self._tell(entry, float(sums[:, 0].sum() / self._elements) if usable else math.nan, change)

    def _quantities(self, measurement: Measurement, *, is_known: bool) -> dict[str, Array]:
        """Return the measured quantities, with NaN for comparisons if the previous state is not known."""
        measures = self._meter.measures
        return {
            quantity.name: measures.unknown(quantity)
            if quantity.against == "previous" and not is_known
            else measurement.quantities[quantity.name]
            for quantity in measures.quantities
        }

    def _tell(self, entry: _Entry, weights: float, patterns: float) -> None:
        """Update the status, and call the callbacks."""
        first_calm = self._detector.update(entry.step, patterns, stride=self._schedule.strides.at(entry.step))
        self._status = Status(
            step=entry.step,
            epoch=entry.epoch,
            observations=self._status.observations + 1,
            weight_change=weights,
            pattern_change=patterns,
            settled=self._detector.is_settled,
            settled_at=self._detector.settled_at,
        )
        if first_calm:
            self._journal.note(settled_at_step=entry.step, **self._settling.attributes)
        for callback in (self._on_observation, self._on_settled if first_calm else None):
            if callback is not None:
                callback(self.status())

    def _continues(self, step: int, measurement: Measurement) -> bool | None:
        """Resume an earlier run at the first step; return whether the change to this step is known.

        Returns None if the step exists already: the model has not changed since.
        """
        self._resuming = False
        steps = [step for step, _ in self._journal.past]
        unchanged = not measurement.sums[:, 0].any()
        if unchanged and step in steps and self._resumed in (None, step):
            self._keep(steps.index(step) + 1)
            return None
        last = self._keep(self._past_before(step))
        if last is None:
            return True
        at, mask = last
        assert self._packed is not None  # noqa: S101
        agrees = self._resumed == at if mask is None else is_same_but_rounding(mask, self._packed)
        if mask is not None:
            # Stored masks and newly computed masks may differ by rounding.
            self._packed = mask
        if agrees and self._resumed in (None, at):
            return True
        why = "its masks are not stored" if mask is None else "the model was not in the state of that step"
        warnings.warn(
            f"the recording resumes at step {step} after step {at}, and the change in between is unknown ({why}); the "
            f"changes before and after step {step} are left out of the curves; to resume without a gap, load the "
            "checkpoint of a step that was observed before calling record(…, resume=STEP)",
            RegimeWarning,
            stacklevel=2,
        )
        return False

    def _past_before(self, step: int) -> int:
        """Return the number of observations of the earlier run before the first new one, at `step`."""
        latest = step - 1 if self._resumed is None else min(self._resumed, step - 1)
        return sum(kept <= latest for kept, _ in self._journal.past)

    def _keep(self, count: int) -> tuple[int, Array | None] | None:
        """Keep the first observations of the earlier run; return step and masks of the last one, if there is one."""
        for step, flips in self._journal.past[:count]:
            change = math.nan if flips is None else pattern_change(flips, self._units)
            self._detector.update(step, change, stride=self._schedule.strides.at(step))
        self._status = replace(
            self._status,
            observations=count,
            settled=self._detector.is_settled,
            settled_at=self._detector.settled_at,
        )
        return self._journal.keep(count)


def _taken(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics as numbers, without waiting for those on a device."""
    given = {name: value.detach() if hasattr(value, "detach") else value for name, value in metrics.items()}
    return {
        name: value.clone() if getattr(value, "is_cuda", False) else _number(name, value)
        for name, value in given.items()
        if value is not None
    }


def _number(name: str, value: Any) -> float:
    """Return a metric as a number.

    Raises
    ------
    RegimeError
        It cannot be converted to a number.
    """
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise RegimeError(f"metric {name}: expected a number, found {type(value).__name__}") from None
