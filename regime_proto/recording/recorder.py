"""The recorder, which observes a model from inside the training loop."""

import atexit
import numbers
import weakref
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from regime_proto.engine.live_model import Engine
from regime_proto.recording.observations import Ledger, Status
from regime_proto.recording.schedule import Schedule
from regime_proto.schema.errors import RegimeError

_MISSING = "pass the current parameters with params=…, since those in the pair (function, parameters) do not change"
_UNWANTED = (
    "params= is only for a pair (function, parameters), but this model holds its own parameters; leave params out"
)


class Recorder:
    """Records the states of a model during training; created by `regime_proto.record`.

    Used as a context manager, it finishes the trajectory at the end. If the training fails inside the context, the
    recorded observations stay in segments next to the output, for ``record(…, resume=True)`` or ``regime merge``.

    Parameters
    ----------
    engine : Engine
    schedule : Schedule
        Decides which steps are observed.
    ledger : Ledger, optional
        None in processes that only contribute their part of a model.
    takes_params : bool
        Whether the parameters are passed to `observe`, because the model does not hold them itself.
    keep_first : bool
        Whether later states are compared with the first one.
    """

    def __init__(
        self,
        engine: Engine,
        schedule: Schedule,
        ledger: Ledger | None,
        *,
        takes_params: bool = False,
        keep_first: bool = False,
    ) -> None:
        self._engine = engine
        self._schedule = schedule
        self._ledger = ledger
        self._takes_params = takes_params
        self._keep_first = keep_first
        self._step: int | None = None
        self._closed = False
        # If training fails outside of the context, the recorder is garbage collected or the interpreter exits normally.
        self._forgotten = weakref.finalize(self, _leave, ledger)
        # The exit handler of weakref itself would run after HDF5 has shut down.
        self._forgotten.atexit = False
        atexit.register(self._forgotten)

    def observe(self, step: int, *, epoch: float | None = None, params: object = None, **metrics: float | None) -> None:
        """Observe the current state of the model, if the schedule includes this step.

        Parameters
        ----------
        step : int
            Number of weight updates so far; must increase from call to call.
        epoch : float, optional
            Number of epochs so far, whole or fractional; smoothing needs it. May be left out at step 0, where it is 0.
        params : optional
            The current parameters, if the model does not hold them itself (a JAX pair).
        **metrics : float
            Loss, score, learning rate and the like: anything that `float` accepts. None is ignored.

        Raises
        ------
        RegimeError
            Steps do not increase, the structure of the model has changed, or `params` is missing or not expected.
        """
        step = self._checked(step)
        if self._ledger is not None and (params is not None) is not self._takes_params:
            raise RegimeError(f"step {step}: {_MISSING if self._takes_params else _UNWANTED}")
        if not self.is_due(step):
            return
        if self._ledger is not None and self._ledger.stopped and not self._engine.collective:
            return
        chooses = self._schedule.stride is not None
        if chooses:
            self._engine.wait(params)
        self._schedule.start()
        self._observe(step, epoch, params, metrics)
        if self._ledger is not None:
            self._schedule.count_device(self._ledger.device_seconds)
        stride = self._schedule.finish(step)
        self._schedule.keep_to(step, self._engine.agreed(stride) if chooses else stride)
        if self._ledger is not None:
            self._ledger.note_strides()

    def is_due(self, step: int) -> bool:
        """Whether `observe` would observe the model at this step.

        Parameters
        ----------
        step : int
        """
        return self._schedule.is_due(step)

    def _observe(self, step: int, epoch: float | None, params: object, metrics: Mapping[str, float | None]) -> None:
        begins = self._begins(step)
        pending = self._engine.measure(params, begins=begins)
        self._step = step
        if self._ledger is not None:
            self._ledger.enter(step, epoch, metrics, pending, at_once=not self._engine.asynchronous)
            if begins:
                self._ledger.keep_start(step, self._engine.start)

    def _begins(self, step: int) -> bool:
        """Whether later states are compared with the one at this step."""
        return self._keep_first and self._step is None and (self._ledger is None or self._ledger.begins(step))

    def _checked(self, step: int) -> int:
        if self._closed:
            raise RegimeError(f"step {step}: the recorder is closed")
        if isinstance(step, bool) or not isinstance(step, numbers.Integral):
            raise RegimeError(f"step {step!r}: expected a whole number, the number of weight updates so far")
        if self._step is not None and step <= self._step:
            raise RegimeError(
                f"step {step} after step {self._step}: steps must increase; count them over all epochs, and after "
                "resetting the model create a new recorder with resume=True"
            )
        return int(step)

    def log(self, **metrics: float | None) -> None:
        """Add metrics to the newest observation, for example those of a later validation.

        Parameters
        ----------
        **metrics : float
            As in `observe`.
        """
        if self._ledger is not None:
            self._ledger.log(metrics)

    def status(self) -> Status:
        """Return the current `Status`; on a GPU it may be one observation behind."""
        return Status() if self._ledger is None else self._ledger.status()

    def flush(self) -> None:
        """Write all observations so far, so that they are not lost if the process is killed.

        Call it before saving a checkpoint: ``record(…, resume=STEP)`` then finds all observations up to it. Metrics
        logged afterwards are no longer added to the newest observation.
        """
        if self._ledger is not None:
            self._ledger.flush()

    def close(self) -> None:
        """Finish the trajectory; further calls have no effect."""
        if self._closed:
            return
        self._closed = True
        self._forgotten.detach()
        atexit.unregister(self._forgotten)
        # The model may have changed, or its processes may have ended; the recorded trajectory is complete nevertheless.
        with suppress(Exception):
            # Parameters that were passed are not kept, and may no longer exist.
            if self._step is not None and not self._takes_params:
                # Every process of a sharded model takes part.
                noise = self._engine.noise(None)
                if self._ledger is not None:
                    self._ledger.annotate(noise)
        if self._ledger is not None:
            self._ledger.close()

    def abandon(self) -> None:
        """Leave the recorded observations in segments, as after a failure."""
        self._closed = True
        self._forgotten()
        atexit.unregister(self._forgotten)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


def _leave(ledger: Ledger | None) -> None:
    if ledger is not None:
        ledger.abandon()
