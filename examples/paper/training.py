"""Trains one row, and records every step."""

import csv
import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import regime_proto
from regime_proto.examples.paper.data.sets import ATTENTION, IGNORED, LABELS, DataSet, First, Indices, Part, load
from regime_proto.examples.paper.models.build import build
from regime_proto.examples.paper.rows import Row
from regime_proto.examples.paper.settings import STANDARD, Settings
from regime_proto.program.probe import COUNTED
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.files import replace_file, replacing

METRICS = "metrics.csv"
PROBE = "probe.npz"
STATE = "state.pt"
TRAJECTORY = "run.h5"
CHECKPOINTS = "checkpoints"

# A state for resuming is saved at this interval in seconds, but saving takes at most a twentieth of the time.
_SAVE_SECONDS = 30.0
_SAVE_SHARE = 0.05
# Number of samples that are validated at a time.
_AT_ONCE = 250


@dataclass
class Epoch:
    """Measurements after an epoch, or at the end of a training shorter than an epoch."""

    epoch: float
    step: int
    loss: float
    val_loss: float
    val_score: float
    seconds: float


@dataclass
class Progress:
    """The progress of a training, which holds everything that is needed to resume it except tensors.

    Parameters
    ----------
    step : int
        Number of updates so far.
    epochs : list of Epoch
    best : float or None
        Lowest validation loss so far that early stopping counts as progress.
    since_best : int
        Number of epochs since then.
    seconds : float
        Time spent in training.
    losses : float
        Sum of the losses in the current epoch.
    ended : str
        Reason for the end of the training; empty while it runs.
    """

    step: int = 0
    epochs: list[Epoch] = field(default_factory=list)
    best: float | None = None
    since_best: int = 0
    seconds: float = 0.0
    losses: float = 0.0
    ended: str = ""


# Called after every update with the progress, the total number of updates and the loss.
OnStep = Callable[[Progress, int, float], object]


class Training:
    """One training: its data, its network, and its progress.

    Parameters
    ----------
    row : Row
    settings : Settings
    out : Path
        The folder for all output.
    """

    def __init__(self, row: Row, settings: Settings, out: Path) -> None:
        self.row, self.settings, self.out = row, settings, out
        data = load(row.data, None if settings.data is None else Path(settings.data))
        self.data = _shortened(_scaled(data, settings.scaling), settings)
        samples = len(self.data.train[LABELS])
        # The last batch of an epoch is left out if it is incomplete.
        self.batches = samples // settings.batch_size
        if not self.batches:
            raise RegimeError(
                f"--batch-size {settings.batch_size}: {self.data.title} has only {samples} training samples"
            )
        whole = settings.epochs * self.batches
        self.steps = whole if settings.steps is None else min(whole, settings.steps)
        torch.manual_seed(settings.seed)
        self.model = build(row.network, self.data, settings.width, settings.image_size).to(settings.device)
        _set_dropout(self.model, settings.dropout)
        self.optimizer = _optimizer(row, settings, self.model)
        self.progress = Progress()
        self._kept = _kept_steps(settings.checkpoints, self.steps)
        self._saved, self._saving = time.monotonic(), 0.0
        self._begun = time.monotonic()

    def load_state(self) -> None:
        """Resume from the saved state of an earlier run, if it exists."""
        path = self.out / STATE
        if not path.exists():
            return
        state = torch.load(path, map_location=self.settings.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"].cpu())
        if self.settings.device != "cpu":
            torch.cuda.set_rng_state(state["cuda_random"].cpu())
        progress = dict(state["progress"])
        progress["epochs"] = [Epoch(**epoch) for epoch in progress["epochs"]]
        self.progress = Progress(**progress)

    def run(self, on_step: OnStep | None = None) -> None:
        """Train to the end, and record the training.

        Raises
        ------
        RegimeError
            The trajectory cannot be recorded.
        """
        if self.progress.ended:
            return
        probe = self._probe()
        recorder = regime_proto.record(
            self.model,
            probe,
            self.out / TRAJECTORY,
            every=self.settings.every,
            masks="none",
            embed="none",
            batches_per_epoch=self.batches,
            notes=self._notes(),
            resume=self.progress.step if self.progress.step else False,
            overwrite=not self.progress.step,
        )
        with recorder:
            if not self.progress.step:
                self._keep()
                recorder.observe(0)
            self._train(recorder, on_step)
        self._save()

    def _train(self, recorder: regime_proto.Recorder, on_step: OnStep | None) -> None:
        progress = self.progress
        self._begun = time.monotonic() - progress.seconds
        for indices in self._batches():
            loss = self._update(indices)
            progress.step += 1
            progress.losses += loss
            progress.seconds = time.monotonic() - self._begun
            recorder.observe(progress.step, loss=loss)
            if not math.isfinite(loss):
                progress.ended = f"diverged: the loss is {loss} at step {progress.step}"
            elif progress.step % self.batches == 0 or progress.step == self.steps:
                self._finish_epoch(recorder)
            if progress.step in self._kept or progress.ended:
                self._keep()
            if on_step is not None:
                on_step(progress, self.steps, loss)
            if progress.ended:
                break
            if time.monotonic() - self._saved > max(_SAVE_SECONDS, self._saving / _SAVE_SHARE):
                # Observations are written first, because a state cannot be resumed without the observations before it.
                recorder.flush()
                self._save()

    def _batches(self) -> Iterator[Indices]:
        """Yield the samples of each remaining batch."""
        count, size = len(self.data.train[LABELS]), self.settings.batch_size
        for epoch in range(self.progress.step // self.batches, self.settings.epochs):
            order = np.random.default_rng([self.settings.seed, epoch]).permutation(count)
            for batch in range(self.progress.step - epoch * self.batches, self.batches):
                yield order[batch * size : (batch + 1) * size]

    def _update(self, indices: Indices) -> float:
        self.model.train()
        batch = self.data.batch(self.data.train, indices, self.settings.device)
        loss = loss_of(self.model(**_inputs(batch)), batch[LABELS])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.item())

    def _finish_epoch(self, recorder: regime_proto.Recorder) -> None:
        progress = self.progress
        val_loss, score = evaluate(self.model, self.data, self.data.validation, self.settings.device)
        recorder.log(val_loss=val_loss, val_score=score)
        batches = progress.step - (progress.epochs[-1].step if progress.epochs else 0)
        self.progress.seconds = time.monotonic() - self._begun
        progress.epochs.append(
            Epoch(
                epoch=progress.step / self.batches,
                step=progress.step,
                loss=progress.losses / batches,
                val_loss=val_loss,
                val_score=score,
                seconds=progress.seconds,
            )
        )
        progress.losses = 0.0
        if self._is_better(val_loss):
            progress.best, progress.since_best = val_loss, 0
        else:
            progress.since_best += 1
        if progress.step == self.steps:
            progress.ended = (
                "all steps done" if self.steps == self.settings.epochs * self.batches else "--steps reached"
            )
        elif progress.since_best >= self.settings.patience:
            progress.ended = f"no progress for {progress.since_best} epochs"
        self._write_metrics()

    def _is_better(self, val_loss: float) -> bool:
        best = self.progress.best
        return best is None or val_loss < best * (1 - self.settings.least_improvement)

    def _probe(self) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """Return the probe, drawn from the validation samples with the seed, and write it once."""
        path = self.out / PROBE
        if not path.exists():
            generator = np.random.default_rng(self.settings.seed)
            count = len(self.data.validation[LABELS])
            chosen = np.sort(generator.permutation(count)[: self.settings.probe_samples])
            inputs = _inputs(self.data.batch(self.data.validation, chosen))
            if ATTENTION in inputs:
                # Padded tokens do not count.
                inputs[COUNTED] = inputs[ATTENTION].bool()
            with replacing(path) as file:
                np.savez(file, **{name: tensor.numpy() for name, tensor in inputs.items()})
        with np.load(path) as stored:
            return dict(stored)

    def _notes(self) -> dict[str, Any]:
        """Return the labels of the run for `regime compare`."""
        labels = {"model": self.row.published.labels["model"], "dataset": self.data.title}
        chosen = ("seed", "batch_size", "momentum", "width")
        return labels | {"optimizer": self.row.optimizer} | {name: getattr(self.settings, name) for name in chosen}

    def _keep(self) -> None:
        """Save the current weights for the structural share."""
        if not self._kept:
            return
        folder = self.out / CHECKPOINTS
        folder.mkdir(exist_ok=True)
        with replacing(folder / f"step-{self.progress.step:08d}.pt") as file:
            torch.save(self.model.state_dict(), file)

    def _save(self) -> None:
        begin = time.monotonic()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "progress": asdict(self.progress),
        }
        if self.settings.device != "cpu":
            state["cuda_random"] = torch.cuda.get_rng_state()
        with replacing(self.out / STATE) as file:
            torch.save(state, file)
        self._saved = time.monotonic()
        self._saving = self._saved - begin

    def _write_metrics(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, [one.name for one in fields(Epoch)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(epoch) for epoch in self.progress.epochs)
        replace_file(self.out / METRICS, text.getvalue().encode())


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy over all labels that count.

    Parameters
    ----------
    logits : (sample, class) or (sample, token, class)
    labels : (sample) or (sample, token) int64
    """
    return nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)


def evaluate(model: nn.Module, data: DataSet, part: Part, device: str) -> tuple[float, float]:
    """Return loss and score over a part of a data set, in evaluation mode.

    Returns
    -------
    loss : float
        Mean cross-entropy over the labels that count.
    score : float
        Fraction of correctly predicted labels, or the perplexity.
    """
    model.eval()
    count, total, right = 0, 0.0, 0
    samples = len(part[LABELS])
    with torch.no_grad():
        for start in range(0, samples, _AT_ONCE):
            batch = data.batch(part, np.arange(start, min(start + _AT_ONCE, samples)), device)
            logits, labels = model(**_inputs(batch)), batch[LABELS]
            counted = int((labels != IGNORED).sum())
            if not counted:
                continue
            count += counted
            total += float(loss_of(logits, labels)) * counted
            right += int((logits.argmax(-1) == labels).sum())
    if not count:
        raise RegimeError(f"{data.title}: no validation sample has a label")
    loss = total / count
    return loss, math.exp(min(loss, 700.0)) if data.score == "perplexity" else right / count


def _inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in batch.items() if name != LABELS}


def _scaled(data: DataSet, scaling: str) -> DataSet:
    if scaling == STANDARD:
        return data
    if not data.mean:
        raise RegimeError(f"--scaling {scaling}: {data.title} holds no images; leave out the option")
    return replace(data, mean=(0.0,) * len(data.mean), deviation=(1.0,) * len(data.mean))


def _shortened(data: DataSet, settings: Settings) -> DataSet:
    """Return the data set with the requested number of validation samples."""
    if settings.validation_samples is None:
        return data
    return replace(
        data, validation={name: First(rows, settings.validation_samples) for name, rows in data.validation.items()}
    )


def _optimizer(row: Row, settings: Settings, model: nn.Module) -> torch.optim.Optimizer:
    common = {"lr": row.learning_rate, "weight_decay": row.weight_decay}
    if row.optimizer == "SGD":
        nesterov = row.nesterov and settings.momentum > 0
        return torch.optim.SGD(model.parameters(), momentum=settings.momentum, nesterov=nesterov, **common)
    kind = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[row.optimizer]
    return kind(model.parameters(), **common)


def _set_dropout(model: nn.Module, share: float | None) -> None:
    if share is None:
        return
    dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    if not dropouts:
        raise RegimeError(f"--dropout {share:g}: this network has no dropout; leave out the option")
    for module in dropouts:
        module.p = share


def _kept_steps(count: int, steps: int) -> frozenset[int]:
    """Return the steps whose weights are kept: the first, the last, and geometrically growing ones in between."""
    if not count:
        return frozenset()
    between = np.unique(np.geomspace(1, steps, max(1, count - 1)).round().astype(int))
    return frozenset({0, steps, *between.tolist()})
