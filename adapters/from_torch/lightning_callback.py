"""Records training runs of Lightning's Trainer."""

import os
from collections.abc import Mapping
from typing import Any

from regime_proto.recording.record import record
from regime_proto.recording.recorder import Recorder
from regime_proto.recording.settings import AUTO
from regime_proto.schema.errors import RegimeError

try:
    from lightning.pytorch import Callback
except ImportError:
    from pytorch_lightning import Callback

# Parameters of `Recorder.observe`, which cannot be names of metrics.
_TAKEN = ("step", "epoch", "params")


class RegimeCallback(Callback):  # type: ignore[misc]
    """Records a training run: ``Trainer(…, callbacks=[RegimeCallback(probe, "run.h5", module="net")])``.

    A step is an update of the weights, ``trainer.global_step``. Its metrics are ``loss``, the loss whose gradient the
    update follows, and everything logged for the step. Metrics logged by a validation are added to the previous
    observation. If the Trainer resumes from a checkpoint, the trajectory is resumed at its step, and `overwrite` has no
    effect. A run that fails leaves segments, for the next run or for ``regime merge``.

    Parameters
    ----------
    probe : array, sequence or mapping of arrays, path, or "auto"
        As in `regime_proto.record`. ``"auto"`` draws from the Trainer's first validation loader; the batch size is that
        of one update, over all processes.
    output : path
        The trajectory file to write.
    module : str, optional
        The attribute of the LightningModule that is the network, such as ``"net"`` or ``"model.encoder"``. Default: the
        LightningModule itself, which then needs a ``forward``.
    **options
        The options of `regime_proto.record`.

    Attributes
    ----------
    recorder : Recorder or None
        The recorder of the current run, or of the last one.
    """

    def __init__(
        self, probe: object, output: str | os.PathLike[str], *, module: str | None = None, **options: Any
    ) -> None:
        self.recorder: Recorder | None = None
        self._probe = probe
        self._output = output
        self._module = module
        self._options = options
        self._step = 0
        self._losses: list[Any] = []
        self._earlier: dict[str, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Create a recorder, and observe the state before the first step."""
        options = {"resume": trainer.global_step or False, **self._options}
        if options["resume"] is not False:
            options.pop("overwrite", None)
        if isinstance(self._probe, str) and self._probe == AUTO:
            options = {**_drawing(trainer), **options}
        self.recorder = record(_network(pl_module, self._module), self._probe, self._output, **options)
        self._step = trainer.global_step
        self._losses.clear()
        self.recorder.observe(self._step, epoch=_epoch_at_start(trainer))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Remember what was logged earlier."""
        self._earlier = dict(trainer.logged_metrics)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Observe the state, if the batch completed an update."""
        if isinstance(outputs, Mapping) and outputs.get("loss") is not None:
            self._losses.append(outputs["loss"])
        if self.recorder is None or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        epoch = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
        metrics = {"loss": self._loss(pl_module), **self._newly_logged(trainer)}
        self.recorder.observe(self._step, epoch=epoch, **metrics)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Remember what was logged earlier."""
        self._earlier = dict(trainer.logged_metrics)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Add the metrics that the validation logged."""
        if self.recorder is not None and not trainer.sanity_checking:
            self.recorder.log(**self._newly_logged(trainer))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Finish the trajectory."""
        if self.recorder is not None:
            self.recorder.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the recorded observations in segments."""
        if self.recorder is not None:
            self.recorder.abandon()

    def _loss(self, pl_module: Any) -> Any:
        """Return the loss of an update; Lightning divides the losses of batches if gradients are accumulated."""
        losses, self._losses = self._losses, []
        if not losses:
            return None
        return sum(losses) if pl_module.automatic_optimization else losses[-1]

    def _newly_logged(self, trainer: Any) -> dict[str, Any]:
        """Return the metrics logged since `_earlier`; older ones are still the same objects."""
        return {
            name: value
            for name, value in trainer.logged_metrics.items()
            if name not in _TAKEN and value is not self._earlier.get(name)
        }


def _network(module: Any, path: str | None) -> Any:
    """Return the part of a LightningModule that is recorded.

    Raises
    ------
    RegimeError
        There is no part of that name, or the module itself has no forward.
    """
    children = ", ".join(dict(module.named_children())) or "no modules"
    if path is None:
        if type(module).forward.__qualname__ == "LightningModule.forward":
            raise RegimeError(
                f"{type(module).__name__} has no forward; choose the part of it that is the network with module=…, "
                f"from {children}"
            )
        return module
    try:
        return module.get_submodule(path)
    except AttributeError:
        raise RegimeError(f"module={path!r}: not found; {type(module).__name__} has {children}") from None


def _drawing(trainer: Any) -> dict[str, Any]:
    """Return the loader and the batch size for drawing a probe, as far as the Trainer knows them."""
    loaders = trainer.val_dataloaders
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    loader = loaders[0] if isinstance(loaders, list | tuple) and loaders else loaders
    batch = getattr(trainer.train_dataloader, "batch_size", None)
    if batch is None:
        return {"loader": loader}
    return {"loader": loader, "batch_size": batch * trainer.accumulate_grad_batches * trainer.world_size}


def _epoch_at_start(trainer: Any) -> float:
    """Return the epoch from which a run resumes; a checkpoint may have been saved within an epoch, or at its end."""
    done = trainer.fit_loop.epoch_loop.batch_progress.current.processed
    return float(trainer.current_epoch + done / trainer.num_training_batches % 1)
