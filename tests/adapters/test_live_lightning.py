"""Trainings of Lightning's Trainer, recorded by its callback."""

import warnings

import children
import numpy as np
import oracle
import pytest
import torch
from libraries import needed
from recording import extra, rows
from running import apart_too, run_module
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import regime_proto
from regime_proto.schema.errors import RegimeError, RegimeWarning

pytestmark = [pytest.mark.libraries, pytest.mark.usefixtures("nets_are_exported_once")]
lightning = needed("lightning")
callbacks = needed("lightning.pytorch.callbacks")
RegimeCallback = needed("regime_proto.adapters.from_torch.lightning_callback").RegimeCallback

SAMPLES, BATCH, ACCUMULATED = 40, 4, 3
# Ten batches make three updates of three, and one of one.
PER_EPOCH = 4
PROBE = np.random.default_rng(1).normal(size=(6, 12)).astype(np.float32)


class Classifier(lightning.LightningModule):
    def __init__(self, dropout=0.3):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 8), nn.ReLU(),
            nn.Linear(8, 3),
        )  # fmt: skip
        self.losses = []
        self.accuracies = []

    def forward(self, features):
        return self.net(features)

    def training_step(self, batch, index):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(loss.item())
        self.log("batch_loss", loss, on_step=True, on_epoch=True)
        self.log("epoch", 17.0)
        return loss

    def validation_step(self, batch, index):
        accuracy = (self(batch[0]).argmax(1) == batch[1]).float().mean()
        if not self.trainer.sanity_checking:
            self.accuracies.append(accuracy.item())
        self.log("val_accuracy", accuracy)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


class NoForward(Classifier):
    forward = lightning.LightningModule.forward


class Manual(Classifier):
    automatic_optimization = False

    def training_step(self, batch, index):
        optimizer = self.optimizers()
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.losses.append(loss.item())
        return loss


class Saving(callbacks.Callback):
    """Keeps the weights after every update."""

    def __init__(self):
        self.states = {}

    def on_train_start(self, trainer, module):
        self.states[trainer.global_step] = {name: value.clone() for name, value in module.net.named_parameters()}

    def on_train_batch_end(self, trainer, module, *_):
        self.on_train_start(trainer, module)


class Failing(callbacks.Callback):
    """Ends a training as an error in it does."""

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 6:
            raise RuntimeError("out of memory")


def data(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(count, 12, generator=generator), torch.arange(count) % 3)


def fit(folder, *others, module=None, epochs=2, ckpt_path=None, validate=True, made=lightning.Trainer, **options):
    """Train; return module and trainer."""
    with warnings.catch_warnings():
        # Advice on speed.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", RegimeWarning)
        trainer = made(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=list(others), default_root_dir=folder,
            **{"enable_checkpointing": False, "accumulate_grad_batches": ACCUMULATED, **options},
        )  # fmt: skip
        if module is None:
            torch.manual_seed(0)
            module = Classifier()
        torch.manual_seed(1)
        loaders = DataLoader(data(SAMPLES, 0), BATCH), DataLoader(data(15, 1), 15) if validate else None
        trainer.fit(module, *loaders, ckpt_path=ckpt_path)
    return module, trainer


def test_every_update_is_a_step_with_what_was_logged_for_it(tmp_path):
    saving = Saving()
    callback = RegimeCallback(PROBE, tmp_path / "run.h5")
    module, trainer = fit(tmp_path, saving, callback)
    found = rows(tmp_path / "run.h5")
    steps = range(2 * PER_EPOCH + 1)
    assert found["step"].tolist() == list(steps)
    np.testing.assert_allclose(found["epoch"], [0, 0.3, 0.6, 0.9, 1, 1.3, 1.6, 1.9, 2])
    # A step follows the gradient of the sum over its batches, each divided by three: the last of an epoch is alone.
    ends = [3, 6, 9, 10, 13, 16, 19, 20]
    batches = np.split(np.array(module.losses), ends[:-1])
    np.testing.assert_allclose(found["metric_loss"][1:], [part.sum() / ACCUMULATED for part in batches], rtol=1e-6)
    last = [module.losses[end - 1] for end in ends]
    np.testing.assert_allclose(found["metric_batch_loss_step"][1:], last, rtol=1e-6)
    # Only after the validations, at the end of each epoch; those of the sanity check do not count.
    accuracies = np.full(9, np.nan)
    accuracies[[4, 8]] = module.accuracies
    np.testing.assert_allclose(found["metric_val_accuracy"], accuracies, rtol=1e-6)
    assert {name for name in found if name.startswith("metric_")} == {
        "metric_loss", "metric_batch_loss_step", "metric_val_accuracy",
    }  # fmt: skip
    names = list(saving.states[0])
    expected = [oracle.weight_deltas(names, saving.states[step - 1], saving.states[step])[0] for step in steps[1:]]
    np.testing.assert_allclose(found["weight_delta_l1"][1:], expected, rtol=1e-6)
    assert callback.recorder.status().step == trainer.global_step == 8
    assert regime_proto.analyze(tmp_path / "run.h5", resamples=0).observations == 9


def test_the_training_is_the_same_with_it(tmp_path):
    plain, without = fit(tmp_path)
    recorded, trainer = fit(tmp_path, RegimeCallback(PROBE, tmp_path / "run.h5"))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, recorded.state_dict()[name]), name
    assert plain.losses == recorded.losses
    assert {**without.callback_metrics} == {**trainer.callback_metrics}
    assert recorded.trainer is trainer
    assert recorded.training


@pytest.mark.parametrize("options", [{}, {"overwrite": True}], ids=["", "overwrite"])
def test_a_training_goes_on_from_a_checkpoint_where_it_failed(options, tmp_path):
    def run(name, *others, ckpt_path=None, callback=None):
        callback = callback or RegimeCallback(PROBE, tmp_path / f"{name}.h5", **options)
        # Lightning does not put random states back.
        torch.manual_seed(0)
        saver = callbacks.ModelCheckpoint(tmp_path / name, filename="{step}", save_top_k=-1)
        fit(
            tmp_path, callback, saver, *others, module=Classifier(dropout=0.0), epochs=3, ckpt_path=ckpt_path,
            enable_checkpointing=True,
        )  # fmt: skip
        return callback

    run("whole")
    callback = RegimeCallback(PROBE, tmp_path / "run.h5", **options)
    with pytest.raises(RuntimeError, match="out of memory"):
        run("run", Failing(), callback=callback)
    assert not (tmp_path / "run.h5").exists()
    # One of its own, as a script has that is started again.
    run("run", ckpt_path=tmp_path / "run" / "step=4.ckpt")
    found, expected = rows(tmp_path / "run.h5"), rows(tmp_path / "whole.h5")
    assert found["step"].tolist() == list(range(3 * PER_EPOCH + 1))
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert found["valid"].all()
    assert extra(tmp_path / "run.h5")["resumed_from_steps"] == "4"


def test_a_second_fit_of_one_trainer_goes_on(tmp_path):
    callback = RegimeCallback(PROBE, tmp_path / "run.h5")
    module, trainer = fit(tmp_path, callback, epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit_loop.max_epochs = 2
        trainer.fit(module, DataLoader(data(SAMPLES, 0), BATCH), DataLoader(data(15, 1), 15))
    found = rows(tmp_path / "run.h5")
    assert found["step"].tolist() == list(range(2 * PER_EPOCH + 1))
    np.testing.assert_allclose(found["epoch"], [0, 0.3, 0.6, 0.9, 1, 1.3, 1.6, 1.9, 2])
    assert found["valid"].all()
    with pytest.raises(RegimeError, match=r"run.h5: exists; resume it"):
        fit(tmp_path, callback, epochs=1)


def test_a_checkpoint_from_the_middle_of_an_epoch_says_so(tmp_path):
    saver = callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    fit(tmp_path, saver, epochs=1, enable_checkpointing=True)
    fit(tmp_path, RegimeCallback(PROBE, tmp_path / "run.h5"), epochs=1, ckpt_path=tmp_path / "step=3.ckpt")
    found = rows(tmp_path / "run.h5")
    assert found["step"].tolist() == [3, 4]
    np.testing.assert_allclose(found["epoch"], [0.9, 1])


@pytest.mark.parametrize("part", ["net", None])
def test_the_network_is_a_part_of_the_module_or_all_of_it(part, tmp_path):
    module, _ = fit(tmp_path, RegimeCallback(PROBE, tmp_path / "run.h5", module=part), epochs=1)
    with regime_proto.open_trajectory(tmp_path / "run.h5") as trajectory:
        prefix = "" if part else "net."
        assert trajectory["tensor"].values.tolist() == [prefix + name for name, _ in module.net.named_parameters()]


@pytest.mark.parametrize(
    ("module", "part", "message"),
    [
        (
            NoForward,
            None,
            "NoForward has no forward; choose the part of it that is the network with module=…, from net",
        ),
        (Classifier, "body", "module='body': not found; Classifier has net"),
    ],
)
def test_parts_that_cannot_be_followed(module, part, message, tmp_path):
    with pytest.raises(RegimeError, match=message):
        fit(tmp_path, RegimeCallback(PROBE, tmp_path / "run.h5", module=part), module=module(), validate=False)
    assert list(tmp_path.iterdir()) == []


def test_optimization_by_hand(tmp_path):
    module, _ = fit(
        tmp_path, RegimeCallback(PROBE, tmp_path / "run.h5"), module=Manual(), epochs=1, accumulate_grad_batches=1
    )
    found = rows(tmp_path / "run.h5")
    assert found["step"].tolist() == list(range(11))
    np.testing.assert_allclose(found["metric_loss"][1:], module.losses, rtol=1e-6)


def test_a_probe_from_the_samples_for_validation(tmp_path):
    fit(tmp_path, RegimeCallback("auto", tmp_path / "run.h5"), epochs=1)
    assert extra(tmp_path / "run.h5")["probe_drawn"] == "2 samples, 0.2 of a batch of 12"
    fit(tmp_path, RegimeCallback("auto", tmp_path / "again.h5", batch_size=20), epochs=1)
    assert extra(tmp_path / "again.h5")["probe_drawn"] == "4 samples, 0.2 of a batch of 20"
    with pytest.raises(RegimeError, match='probe "auto": needs a loader of validation samples'):
        fit(tmp_path, RegimeCallback("auto", tmp_path / "none.h5"), epochs=1, validate=False)


def test_the_trainer_of_pytorch_lightning(tmp_path):
    other = needed("pytorch_lightning")

    class Own(other.LightningModule):
        training_step, validation_step = Classifier.training_step, Classifier.validation_step
        configure_optimizers, forward = Classifier.configure_optimizers, Classifier.forward

        def __init__(self):
            super().__init__()
            self.net, self.losses, self.accuracies = Classifier().net, [], []

    fit(tmp_path, RegimeCallback(PROBE, tmp_path / "run.h5"), module=Own(), epochs=1, made=other.Trainer)
    assert rows(tmp_path / "run.h5")["step"].tolist() == [0, 1, 2, 3, 4]


def test_pytorch_lightning_alone_will_do():
    needed("pytorch_lightning")
    code = (
        "import sys; sys.modules['lightning'] = None\n"
        "from regime_proto.adapters.from_torch.lightning_callback import RegimeCallback\n"
        "import pytorch_lightning\n"
        "assert issubclass(RegimeCallback, pytorch_lightning.Callback)"
    )
    done = children.run(code)
    assert done.returncode == 0, done.stderr


@apart_too
def test_the_example_runs_as_it_says(apart, tmp_path):
    with warnings.catch_warnings():
        # Advice on speed.
        warnings.simplefilter("ignore")
        said = run_module("regime_proto.examples.live_lightning", "OUT.h5", folder=tmp_path, apart=apart)
    assert float(said.split()[-1]) > 0.85
    result = regime_proto.analyze(tmp_path / "OUT.h5", resamples=0)
    assert result.observations == 89
    assert 0.5 < result.rho < 10
