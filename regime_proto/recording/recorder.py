"""The recorder: looks at a model from inside the training loop."""

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

_MISSING = "give the parameters as they are now, params=…: those of the pair (function, parameters) do not change"
_UNWANTED = "params= is for a pair (function, parameters); this model holds its parameters itself: leave params out"


class Recorder:
    """Records the states that a model goes through; `regime_proto.record` makes one.

    As a context it finishes the trajectory at the end. If the training fails inside of it, what was recorded stays
    in segments beside the output, for ``record(…, resume=True)`` or ``regime merge``.

    Parameters
    ----------
    engine : Engine
    schedule : Schedule
        Which steps are observed.
    ledger : Ledger, optional
        None in processes that only contribute their part of a model.
    takes_params : bool
        Whether the model does not hold its parameters itself.
    keep_first : bool
        Whether later states are held against the first one.
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
        # A training that fails outside of the context forgets its recorder, or ends the interpreter in order.
        self._forgotten = weakref.finalize(self, _leave, ledger)
        # What weakref does itself at the end comes after HDF5 has ended.
        self._forgotten.atexit = False
        atexit.register(self._forgotten)

    def observe(self, step: int, *, epoch: float | None = None, params: object = None, **metrics: float | None) -> None:
        """Look at the model as it is now, if the schedule wants this step.

        Parameters
        ----------
        step : int
            Updates of the weights so far; greater than at the last call.
        epoch : float, optional
            Whole or fractional epochs; with it the curves are smoothed. That of step 0 may be left out: it is 0.
        params : optional
            The parameters as they are now, where the model does not hold them itself (a pair of JAX).
        **metrics : float
            Loss, score, learning rate …; anything that `float` takes. None is passed over.

        Raises
        ------
        RegimeError
            Steps do not increase, the model is not what it was, or parameters are missing or not wanted.
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
        """Whether `observe` would look at the model at this step."""
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
        """Whether later states are held against that of this step."""
        return self._keep_first and self._step is None and (self._ledger is None or self._ledger.begins(step))

    def _checked(self, step: int) -> int:
        if self._closed:
            raise RegimeError(f"step {step}: the recorder is closed")
        if isinstance(step, bool) or not isinstance(step, numbers.Integral):
            raise RegimeError(f"step {step!r}: expected a whole number, the updates of the weights so far")
        if self._step is not None and step <= self._step:
            raise RegimeError(
                f"step {step} after step {self._step}: steps must increase; count them over all epochs, and where the "
                "model was set back make a new recorder with resume=True"
            )
        return int(step)

    def log(self, **metrics: float | None) -> None:
        """Add metrics to the newest observation, those of a validation after it for instance."""
        if self._ledger is not None:
            self._ledger.log(metrics)

    def status(self) -> Status:
        """Return what is known so far; on a GPU that may be one observation behind."""
        return Status() if self._ledger is None else self._ledger.status()

    def flush(self) -> None:
        """Write everything that was observed so far, so that a kill does not lose it.

        Before a checkpoint is saved, it makes sure that ``record(…, resume=STEP)`` finds the observations up to it.
        Metrics that are logged afterwards are not added to the newest observation any more.
        """
        if self._ledger is not None:
            self._ledger.flush()

    def close(self) -> None:
        """Finish the trajectory; to do so again changes nothing."""
        if self._closed:
            return
        self._closed = True
        self._forgotten.detach()
        atexit.unregister(self._forgotten)
        # The model may have changed, or its processes parted: what was recorded is complete all the same.
        with suppress(Exception):
            # Parameters that were given are not kept, nor need they be there any more.
            if self._step is not None and not self._takes_params:
                # Every process of a model in parts takes part in it.
                noise = self._engine.noise(None)
                if self._ledger is not None:
                    self._ledger.annotate(noise)
        if self._ledger is not None:
            self._ledger.close()

    def abandon(self) -> None:
        """Leave what was recorded in segments, as after a failure."""
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
