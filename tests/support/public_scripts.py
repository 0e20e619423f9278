"""Writes a run as well-known training scripts name and fill their files: imitations of our own, of names and payloads.

Each takes a folder and the models of a training, state by state, and saves what the script would.
"""

import argparse
import collections
import copy
import datetime
import enum
import functools
import pathlib
import shutil

import numpy as np
import torch


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def optimizer_of(model):
    """Return an optimizer with a state, as after a step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def imagenet(folder, models):
    """As the example of torch: one file that is overwritten and copied, here under a name for each epoch."""
    for epoch, model in enumerate(models):
        payload = {"epoch": epoch + 1, "arch": "mlp", "state_dict": state_of(model), "best_acc1": torch.tensor(10.0)}
        torch.save({**payload, "optimizer": optimizer_of(model).state_dict()}, folder / f"checkpoint_{epoch}.pth.tar")
    shutil.copy(folder / f"checkpoint_{epoch}.pth.tar", folder / "model_best.pth.tar")


def timm(folder, models):
    for epoch, model in enumerate(models):
        average = {name: tensor + 1 for name, tensor in state_of(model).items()}
        payload = {
            "epoch": epoch, "arch": "mlp", "state_dict": state_of(model), "state_dict_ema": average, "version": 2,
            "optimizer": optimizer_of(model).state_dict(), "args": argparse.Namespace(lr=0.1, opt_betas=None),
            "amp_scaler": {"scale": 65536.0, "growth_factor": 2.0}, "metric": np.float64(71.5),
        }  # fmt: skip
        torch.save(payload, folder / f"checkpoint-{epoch}.pth.tar")
    for name in ("last", "model_best"):
        shutil.copy(folder / f"checkpoint-{epoch}.pth.tar", folder / f"{name}.pth.tar")
    (folder / "summary.csv").write_text("epoch,train_loss\n0,1.0\n")
    (folder / "args.yaml").write_text("lr: 0.1\n")


def zoo(folder, models):
    """As model zoos do: a folder ``checkpoints`` of files without a suffix."""
    for step, model in enumerate(models):
        torch.save({"model": state_of(model), "step": 10 * step}, folder / f"checkpoint_{10 * step}")
    (folder / "README").write_text("What these are.\n")


def old(folder, models):
    """In the format before zip files."""
    for step, model in enumerate(models):
        payload = {"model": state_of(model), "iter": step}
        torch.save(payload, folder / f"iter_{step}.th", _use_new_zipfile_serialization=False)


def ignite(folder, models):
    """ModelCheckpoint and Checkpoint of several objects."""
    for iteration, model in enumerate(models):
        trainer = {"iteration": iteration + 1, "epoch_length": 4, "max_epochs": 5, "rng_states": None}
        payload = {"model": state_of(model), "optimizer": optimizer_of(model).state_dict(), "trainer": trainer}
        torch.save(payload, folder / f"training_checkpoint_{iteration + 1}.pt")


def skorch(folder, models):
    """The callback Checkpoint with a name for each epoch."""
    for epoch, model in enumerate(models):
        torch.save(state_of(model), folder / f"params_{epoch}.pt")
        torch.save(optimizer_of(model).state_dict(), folder / f"optimizer_{epoch}.pt")
    (folder / "history.json").write_text("[]")


class HistoryBuffer:
    """What a hub of messages keeps for each scalar."""

    class Statistic(enum.Enum):
        MEAN = "mean"
        LAST = "last"

    class Window:
        def __init__(self):
            self.lengths = collections.deque([1, 2], maxlen=10)

    def __init__(self):
        self.log_history, self.count_history = np.arange(3.0), np.ones(3)
        self.window, self.shown = self.Window(), self.Statistic.MEAN
        self.methods = {"mean": HistoryBuffer.mean, "own": self.mean}

    def mean(self):
        return self.log_history.mean()


class ConfigDict(dict):
    """A configuration whose keys are attributes."""

    __getattr__ = dict.__getitem__


def mmengine(folder, models):
    for epoch, model in enumerate(models):
        hub = {
            "log_scalars": collections.OrderedDict({"train/loss": HistoryBuffer()}),
            "resumed_keys": {"train/loss": True},
        }
        payload = {
            "meta": {
                "epoch": epoch, "iter": 4 * epoch, "cfg": ConfigDict(model=ConfigDict(type="Mlp"), lr=0.1), "seed": 3,
                "time": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), "work_dir": pathlib.PosixPath("work"),
                "dataset_meta": collections.defaultdict(list, classes=["a", "b"]),
            },
            "state_dict": state_of(model), "message_hub": hub, "optimizer": optimizer_of(model).state_dict(),
            "param_schedulers": [{"hook": HistoryBuffer().mean, "gamma": functools.partial(max, 0.1)}],
        }  # fmt: skip
        torch.save(payload, folder / f"epoch_{epoch}.pth")
    (folder / "last_checkpoint").write_text(f"work/epoch_{epoch}.pth")


class Container:
    """A node of a configuration, as omegaconf makes them: its content is in what it gives to pickle."""

    def __init__(self, content):
        self._metadata = {"ref_type": dict[str, int], "object_type": dict, "flags": {}}
        self._content = {key: Container(value) if isinstance(value, dict) else value for key, value in content.items()}
        self._parent = None


class Zero(enum.IntEnum):
    NONE = 0
    ONE = 1


def fairseq(folder, models):
    for updates, model in enumerate(models):
        config = Container({"optimization": {"lr": [0.1], "zero": Zero.ONE}, "checkpoint": {"save_dir": "save"}})
        payload = {
            "args": argparse.Namespace(arch="mlp", lr=[0.1]), "cfg": config, "model": state_of(model),
            "optimizer_history": [{"num_updates": 100 * updates, "optimizer_name": "Adam", "lr_scheduler_state": {}}],
            "task_state": {}, "extra_state": {"epoch": 1, "metrics": collections.OrderedDict(a=(1, HistoryBuffer()))},
            "last_optimizer_state": optimizer_of(model).state_dict(),
        }  # fmt: skip
        torch.save(payload, folder / f"checkpoint_1_{100 * updates}.pt")
    shutil.copy(folder / f"checkpoint_1_{100 * updates}.pt", folder / "checkpoint_last.pt")


def yolo(folder, models):
    """The model is an average of half precision, pickled whole; what is trained is left out."""
    for epoch, model in enumerate(models):
        payload = {
            "epoch": epoch, "best_fitness": 0.5, "model": None, "ema": copy.deepcopy(model).half(), "updates": epoch,
            "optimizer": optimizer_of(model).state_dict(), "train_args": {"lr0": 0.01, "data": "coco8.yaml"},
            "train_results": {"metrics/mAP50": [0.1]}, "date": "2026-01-01", "version": "8.0.0", "license": "",
        }  # fmt: skip
        torch.save(payload, folder / f"epoch{epoch}.pt")


READ = {
    "imagenet": imagenet, "timm": timm, "zoo": zoo, "old": old, "ignite": ignite, "skorch": skorch,
    "mmengine": mmengine, "fairseq": fairseq,
}  # fmt: skip
