"""Runs that Lightning saves measure as their plain files do."""

import os
import shutil
import time
import warnings

import nets
import numpy as np
import pytest
import torch
from libraries import needed
from reading import assert_same_trajectory, read
from torch.utils.data import DataLoader, TensorDataset

from regime_proto.adapters.from_torch import from_lightning
from regime_proto.plugins.open_directory import open_directory
from regime_proto.plugins.source_settings import SourceSettings

pytestmark = [pytest.mark.libraries, pytest.mark.usefixtures("nets_are_exported_once")]
lightning = needed("lightning")
callbacks = needed("lightning.pytorch.callbacks")

STEPS = [2, 4, 6, 8, 10, 12]


class Classifier(lightning.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net
        self.save_hyperparameters({"rate": 0.1, "names": ["a"], "folder": os.curdir})

    def training_step(self, batch):
        loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Plain(callbacks.Callback):
    """Saves the weights as they are trained, as plain files of torch."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step in STEPS:
            torch.save(module.net.state_dict(), self.folder / f"step_{trainer.global_step}.pt")


def train(folder, *others, net=None, **options):
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(64, 12, generator=generator), torch.randint(0, 3, (64,), generator=generator)
    saver = callbacks.ModelCheckpoint(folder, **{"save_top_k": -1, "every_n_train_steps": 2, **options})
    with warnings.catch_warnings():
        # Advice on speed.
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[saver, *others],
        )  # fmt: skip
        trainer.fit(Classifier(nets.make_mlp() if net is None else net), DataLoader(TensorDataset(inputs, labels), 16))
    return folder


@pytest.mark.parametrize("save_last", [True, "link"])
def test_a_run_measures_as_its_plain_files_do(save_last, tmp_path):
    folder = train(tmp_path / "run", Plain(tmp_path / "plain"), save_last=save_last)
    source = open_directory(folder)
    assert (source.adapter, source.step_kind) == ("lightning", "step")
    assert [checkpoint.step for checkpoint in source.checkpoints] == STEPS
    assert source.skipped_by_reason() == {"a copy of step 12": ["last.ckpt"]}
    assert [source.read(checkpoint).epoch for checkpoint in source.checkpoints] == [0, 0, 1, 1, 2, 2]
    model = nets.make_mlp()
    assert_same_trajectory(folder, tmp_path / "plain", tmp_path, model=model, probe=nets.probe(model))


def test_a_second_run_into_the_same_folder(tmp_path):
    options = {"monitor": "train_loss", "mode": "max", "filename": "{epoch}-{train_loss:.2f}", "save_last": True}
    for _ in range(2):
        folder = train(tmp_path / "run", **options)
    source = open_directory(folder)
    assert [checkpoint.step for checkpoint in source.checkpoints] == STEPS
    assert source.metrics == ("train_loss",)
    assert {name for names in source.skipped_by_reason().values() for name in names} >= {"last.ckpt", "last-v1.ckpt"}
    state = source.read(source.checkpoints[0])
    assert f"{state.metrics['train_loss']:.2f}" in source.checkpoints[0].path.name


def test_averages_are_read_on_request_only(tmp_path):
    average = callbacks.EMAWeightAveraging(decay=0.9)
    folder = train(tmp_path / "run", average, Plain(tmp_path / "plain"))
    model = nets.make_mlp()
    assert_same_trajectory(folder, tmp_path / "plain", tmp_path, model=model, probe=nets.probe(model))
    last = open_directory(folder, SourceSettings(weights="average"))
    averaged = last.read(last.checkpoints[-1]).tensors["net.body.0.weight"]
    in_file = torch.load(last.checkpoints[-1].path, weights_only=False)
    np.testing.assert_array_equal(averaged, in_file["state_dict"]["net.body.0.weight"])
    trained = read(from_lightning, last.checkpoints[-1].path).tensors["net.body.0.weight"]
    assert (trained != averaged).any()
    np.testing.assert_array_equal(trained, in_file["current_model_state"]["net.body.0.weight"])


def test_a_compiled_module(tmp_path):
    net = torch.compile(nets.make_mlp(), backend="eager")
    folder = train(tmp_path / "run", Plain(tmp_path / "plain"), net=net)
    assert "net._orig_mod.body.0.weight" in torch.load(folder / "epoch=0-step=2.ckpt", weights_only=False)["state_dict"]
    model = nets.make_mlp()
    assert_same_trajectory(folder, tmp_path / "plain", tmp_path, model=model, probe=nets.probe(model))


@pytest.mark.parametrize("legacy", [False, True])
def test_what_is_recognised(legacy, tmp_path):
    content = {"epoch": 0, "global_step": 4, "pytorch-lightning_version": "2.6.0", "state_dict": {"w": torch.ones(2)}}
    torch.save(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=not legacy)
    torch.save({"global_step": 4, "state_dict": {"w": torch.ones(2)}}, tmp_path / "b.ckpt")
    assert from_lightning.recognise(tmp_path / "a.ckpt") == "Lightning's version in the file"
    assert from_lightning.recognise(tmp_path / "b.ckpt") is None
    assert from_lightning.recognise(tmp_path) is None
    assert from_lightning.peek(tmp_path / "a.ckpt").step == 4


def test_a_thousand_files_are_listed_at_once(tmp_path):
    folder = train(tmp_path / "one")
    one = next(iter(folder.glob("*.ckpt")))
    run = tmp_path / "run"
    run.mkdir()
    for step in range(2, 1002):
        (run / f"epoch=0-step={step}.ckpt").hardlink_to(one)
    shutil.copy(one, run / "last.ckpt")
    start = time.perf_counter()
    assert len(open_directory(run, SourceSettings(step_pattern=r"step=(\d+)")).checkpoints) == 1000
    assert time.perf_counter() - start < 2
