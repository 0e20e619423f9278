"""Records training runs of transformers' Trainer."""

import os
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from regime_proto.checkpoints.payload import numbers_in
from regime_proto.recording.record import record
from regime_proto.recording.recorder import Recorder
from regime_proto.recording.schedule import as_every
from regime_proto.recording.settings import AUTO
from regime_proto.schema.errors import RegimeError

# Metrics of the Trainer itself, unrelated to the model.
_OF_THE_MACHINE = ("_runtime", "_per_second", "_preparation_time")
# Means and totals over the whole run, which the Trainer logs at its end.
_SUMMARY = "train_runtime"


class RegimeCallback(TrainerCallback):  # type: ignore[misc]
    """Records a training run: ``Trainer(…, callbacks=[RegimeCallback(probe, "run.h5")])``.

    A step is an update of the weights, as counted by the Trainer. Logged values become metrics of the previous
    observation. If the Trainer resumes from a checkpoint, the trajectory is resumed at its step, and `overwrite` has no
    effect. A run that fails leaves segments, for the next run or for ``regime merge``.

    Parameters
    ----------
    probe : array, sequence or mapping of arrays, path, or "auto"
        As in `regime_proto.record`. Callbacks cannot access validation samples before the first evaluation, so
        ``"auto"`` requires a `loader`: ``trainer.add_callback(RegimeCallback("auto", "run.h5",
        loader=trainer.get_eval_dataloader()))``. The batch size is that of one update, over all processes.
    output : path
        The trajectory file to write.
    **options
        The options of `regime_proto.record`.

    Attributes
    ----------
    recorder : Recorder or None
        The recorder of the current run, or of the last one.
    """

    def __init__(self, probe: object, output: str | os.PathLike[str], **options: Any) -> None:
        self.recorder: Recorder | None = None
        self._probe = probe
        self._output = output
        self._options = options
        # Invalid options raise an error here.
        as_every(options.get("every", 1))
        self._logged: set[str] = set()

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: Any = None,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Create a recorder, and observe the state before the first step."""
        if self.recorder is not None:
            # A run that failed has not closed its recorder.
            self.recorder.abandon()
        options = {"resume": state.global_step or False, **self._options}
        if options["resume"] is not False:
            options.pop("overwrite", None)
        if isinstance(self._probe, str) and self._probe == AUTO:
            options = {**_drawing(args, state, eval_dataloader), **options}
            _require_loader(options["loader"])
        self.recorder = record(model, self._probe, self._output, **options)
        self._observe(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Observe the state after an update."""
        self._observe(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Store logged metrics, also those of evaluations; for each metric the first value after an observation."""
        if self.recorder is None or not logs or _SUMMARY in logs:
            return
        metrics = {name: value for name, value in _metrics(logs).items() if name not in self._logged}
        self._logged.update(metrics)
        self.recorder.log(**metrics)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Finish the trajectory."""
        if self.recorder is not None:
            self.recorder.close()

    def _observe(self, state: TrainerState) -> None:
        if self.recorder is not None and self.recorder.is_due(state.global_step):
            self._logged.clear()
            # The Trainer has no epoch before the first step.
            self.recorder.observe(state.global_step, epoch=state.epoch or 0.0)


def _drawing(args: TrainingArguments, state: TrainerState, loader: Any) -> dict[str, Any]:
    """Return the loader and the batch size for drawing a probe, as far as the Trainer knows them."""
    # From the state, since the Trainer may have determined the batch size itself.
    batch = (state.train_batch_size or args.train_batch_size) * args.gradient_accumulation_steps * args.world_size
    return {"loader": loader, "batch_size": batch}


def _require_loader(loader: Any) -> None:
    if loader is None:
        raise RegimeError(
            'probe "auto": the validation samples of the Trainer are not available yet; add the callback after '
            'creating the trainer: trainer.add_callback(RegimeCallback("auto", …, '
            "loader=trainer.get_eval_dataloader()))"
        )


def _metrics(logs: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in numbers_in(logs).items()
        if name != "epoch" and not name.endswith(_OF_THE_MACHINE)
    }
