"""A Keras callback that records a training run: ``model.fit(…, callbacks=[RegimeCallback(probe, "run.h5")])``."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from regime_proto.recording.record import record
from regime_proto.recording.recorder import Recorder
from regime_proto.recording.schedule import as_every
from regime_proto.schema.errors import RegimeWarning


class RegimeCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Records the dynamics of the model that `fit` trains.

    A step is an update of the weights, as counted by the optimizer. A second `fit`, or one that resumes with a saved
    optimizer, continues the count, and its observations are added to the same file. The first observation is the state
    before the first step. Logs of a batch, which in Keras are means since the start of the epoch, become metrics of its
    observation. Logs of a validation are added to the last observation before it.

    With `steps_per_execution` above 1, the state is available only after this many steps; `every` then applies to these
    steps.

    If the training fails, the recorded observations stay in segments next to the output; the next `fit` resumes them.

    Parameters
    ----------
    probe : array, sequence or mapping of arrays, path, or "auto"
        As in `regime_proto.record`.
    output : path
        The trajectory file to write.
    batches_per_epoch : float, optional
        Training steps per epoch, needed if Keras does not know it, as for a generator of unknown length. Without it
        the epochs of observations are whole numbers.
    **options
        The options of `regime_proto.record`: `every`, `gates`, `masks`, `loader`, `overwrite`, `on_settled` …

    Attributes
    ----------
    recorder : Recorder or None
        The recorder of the current `fit`, or of the last one.
    """

    _open: ClassVar[dict[Path, Recorder]] = {}
    """Recorders by output, needed because Keras does not report a failed training to callbacks."""

    def __init__(
        self, probe: object, output: str | os.PathLike[str], *, batches_per_epoch: float | None = None, **options: Any
    ) -> None:
        super().__init__()
        self.recorder: Recorder | None = None
        self._probe = probe
        self._output = Path(output).absolute()
        self._batches_per_epoch = batches_per_epoch
        self._options = options
        # Invalid options raise an error here.
        as_every(options.get("every", 1))
        self._begun = False
        # First and last known step of this fit, and the number of batches of the epoch before each.
        self._first = self._step = self._batches = 0
        self._epoch = self._offset = self._epochs = 0.0
        self._observed = False

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Leave the observations of an earlier failed training in segments."""
        self._begun = False
        left = self._open.pop(self._output, None)
        if left is not None:
            left.abandon()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Create the recorder and observe the initial state, after other callbacks have restored their state."""
        if not self._begun:
            self._begin(epoch)
        self._epoch, self._batches, self._observed = epoch + self._offset, 0, False

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Observe the state after a batch, or after the batches of one execution."""
        # The last execution of an epoch may have fewer batches than Keras reports.
        done = min(batch + 1, self._length or batch + 1)
        expected = self._step + done - self._batches
        assert self.recorder is not None  # noqa: S101
        if self._counts_batches and not self.recorder.is_due(expected):
            # Accessing the model would make Keras update its variables.
            self._step, self._batches = expected, done
            return
        step = self._updates(expected)
        is_new = step > self._step
        self._step, self._batches = step, done
        self._epochs = self._epoch + (min(done / self._whole, 1.0) if self._whole else 0.0)
        if is_new and self.recorder.is_due(step):
            self._observe(logs)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Add the metrics of a validation to the last observation of the epoch."""
        self._epochs = self._epoch + 1
        if self._observed and self.recorder is not None:
            found = {name: value for name, value in _numbers(logs).items() if name.startswith("val_")}
            self.recorder.log(**found)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Finish the trajectory."""
        recorder = self._open.pop(self._output, None)
        if recorder is None:
            return
        if self._step == self._first:
            warnings.warn(
                f"{self._output}: the optimizer of the model counted no update, so nothing of this training was "
                "recorded; call regime_proto.record in your own training loop",
                RegimeWarning,
                stacklevel=2,
            )
        recorder.close()

    @property
    def _length(self) -> int | None:
        """Number of batches per epoch, if Keras knows it."""
        length: int | None = (self.params or {}).get("steps")
        return length

    @property
    def _whole(self) -> float | None:
        """Number of batches per epoch, if known."""
        return self._batches_per_epoch or self._length

    @property
    def _counts_batches(self) -> bool:
        """Whether every batch is a step, so that the step is known without reading the optimizer."""
        optimizer = self._model.optimizer
        return not (
            isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
            or getattr(optimizer, "gradient_accumulation_steps", None)
            or (self._model.steps_per_execution > 1 and self._length is None)
        )

    def _begin(self, epoch: int) -> None:
        step = self._updates(self._step)
        options = dict(self._options)
        if step > 0 and (self.recorder is not None or not options.get("overwrite")):
            options = {"resume": step, **options, "overwrite": False}
        if not epoch and step:
            # Keras counts the epochs of another fit from 0 again.
            steps = self._whole
            self._offset = self._epochs or (step / steps if steps else 0.0)
        else:
            self._offset = 0.0
        self.recorder = self._open[self._output] = record(self.model, self._probe, self._output, **options)
        self._begun, self._first, self._step, self._epochs = True, step, step, epoch + self._offset
        if self.recorder.is_due(step):
            self._observe(None)

    def _observe(self, logs: Mapping[str, Any] | None) -> None:
        assert self.recorder is not None  # noqa: S101
        self._observed = True
        self.recorder.observe(self._step, epoch=self._epochs)
        # Metrics may have any name here, even that of an argument.
        self.recorder.log(**_numbers(logs))

    def _updates(self, otherwise: int) -> int:
        """Return the number of updates that the optimizer counts; `otherwise` if there is no optimizer."""
        optimizer = self.model.optimizer
        return int(optimizer.iterations) if isinstance(optimizer, keras.optimizers.Optimizer) else otherwise


def _numbers(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the metrics that are single numbers."""
    return {name: float(value) for name, value in (logs or {}).items() if np.ndim(value) == 0 and value is not None}
