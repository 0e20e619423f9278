"""Turns measurements into observations, tells what they say, and hands them to the journal."""

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
    """What a recorder knows of a run.

    Parameters
    ----------
    step : int or None
        Of the newest observation that is known; None before the first.
    epoch : float
        NaN where unknown.
    observations : int
        How many there are, those of an earlier run that is gone on with among them.
    weight_change : float
        Δw towards that step, parameter weighting (PROTOCOL: Eq. 2); NaN for the first.
    pattern_change : float
        Δa towards that step, layer weighting (PROTOCOL: Eq. 3); NaN for the first.
    settled : bool
        Whether patterns are settled now; see `Settling`.
    settled_at : int or None
        The step at which they were found so for the first time.
    stopped : str
        Why nothing is recorded any more, a full disk for instance; empty while all is well.
    stride : int or None
        The stride that the recorder has chosen for now; None unless a share of the time was asked for, every="5%".
    observing_share : float
        The share of the time since the first observation that observing has taken; NaN unless one was asked for.
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
    """An observation that is not written yet: metrics may still be added."""

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
        Which strides lead to the observations.
    batches_per_epoch : float, optional
        For the epochs that are not given.
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
        """Why nothing is recorded any more."""
        return self._journal.stopped

    def status(self) -> Status:
        """Return what is known."""
        schedule = self._schedule
        return replace(self._status, stopped=self.stopped, stride=schedule.stride, observing_share=schedule.share)

    def go_on(self, state: Measurement, step: int | None) -> None:
        """Go on after an earlier run, which the journal has taken up, with the first observation to come.

        Parameters
        ----------
        state : Measurement
            The state that the training goes on from.
        step : int, optional
            Its step, if it is known.
        """
        self._packed, self._resumed, self._resuming = state.packed, step, bool(self._journal.past)

    def begins(self, step: int) -> bool:
        """Whether an observation at this step, the first of this recorder, is the first of the trajectory.

        Also where the first one of an earlier run was made at this step: its state is the one that is there now.
        """
        return not self._resuming or self._past_before(step) == 0

    def keep_start(self, step: int, start: Mapping[str, Array]) -> None:
        """Keep the state of the first observation, whose step this is, for whoever goes on."""
        if start:
            self._journal.keep_start(step, list(start.values()))

    def enter(
        self, step: int, epoch: float | None, metrics: Mapping[str, object], pending: Pending, *, at_once: bool
    ) -> None:
        """Take a new observation; the one before it is complete, and goes to the journal.

        With `at_once` it is waited for, else the next call does that.
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
        """Note a noise floor; the largest counts."""
        for name, value in noise.items():
            self._noise[name] = max(value, self._noise.get(name, 0.0))
        self._journal.annotate(**self._noise)

    def note_strides(self) -> None:
        """Note the strides that were chosen, if there is a new one."""
        found = self._schedule.attributes
        if found.get(STRIDES) != self._told.get(STRIDES):
            self._note(found)

    def _note(self, found: dict[str, object]) -> None:
        if found and found != self._told:
            self._told = found
            self._journal.note(**found)

    def flush(self) -> None:
        """Write everything that was observed into segments; the newest observation is complete with that."""
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
                f"{found} NaN or Inf, the first that of step {self._broken[0]}; they are "
                "kept, marked invalid and left out of the curves",
                RegimeWarning,
                stacklevel=3,
            )

    def abandon(self) -> None:
        """Leave segments."""
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
        """Wait for the measurement of an entry, if nobody has."""
        if entry.is_resolved:
            return
        entry.is_resolved = True
        measurement = entry.pending()
        self.device_seconds = measurement.seconds
        connected = self._continues(entry.step, measurement) if self._resuming else True
        if connected is None:
            # The state that the run goes on from, whose observation is there already.
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
            self._journal.stop(f"step {entry.step} holds NaN or Inf, so later states cannot be held against it")
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
        """Return what else was measured, without what is against a state that is not the previous observation's."""
        measures = self._meter.measures
        return {
            quantity.name: measures.unknown(quantity)
            if quantity.against == "previous" and not is_known
            else measurement.quantities[quantity.name]
            for quantity in measures.quantities
        }

    def _tell(self, entry: _Entry, weights: float, patterns: float) -> None:
        """Bring the status up to date, and call back."""
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
        """Go on with an earlier run at the first step; return whether the change towards it is known.

        None where the step is there already: the model has not been changed since.
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
            # What is stored and what was found again may differ by rounding.
            self._packed = mask
        if agrees and self._resumed in (None, at):
            return True
        why = "its masks are not stored" if mask is None else "the model was not in the state of that step"
        warnings.warn(
            f"the recording goes on at step {step} after step {at}, and what changed in between is not known ({why}): "
            f"the changes towards and from step {step} are left out of the curves; to go on without a gap, load the "
            "checkpoint of a step that was observed before record(…, resume=STEP)",
            RegimeWarning,
            stacklevel=2,
        )
        return False

    def _past_before(self, step: int) -> int:
        """Return how many observations of the earlier run come before the first one to be made, that of `step`."""
        latest = step - 1 if self._resumed is None else min(self._resumed, step - 1)
        return sum(kept <= latest for kept, _ in self._journal.past)

    def _keep(self, count: int) -> tuple[int, Array | None] | None:
        """Keep the first observations of the earlier run; return step and mask of the last, if there is one."""
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
    """Return metrics as numbers; those that are on a device are not waited for."""
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
        It is none.
    """
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise RegimeError(f"metric {name}: expected a number, found {type(value).__name__}") from None
