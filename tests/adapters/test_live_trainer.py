"""Trainings of transformers' Trainer, recorded by its callback."""

import itertools
import logging

import numpy as np
import oracle
import pytest
import torch
import transformers
from folders import EXAMPLES
from recording import extra, rows
from running import apart_too, run_module
from torch import nn

import regime_proto
from regime_proto.adapters.from_huggingface.trainer_callback import RegimeCallback
from regime_proto.recording.schedule import Share
from regime_proto.schema.errors import RegimeError

transformers.utils.logging.disable_progress_bar()
logging.getLogger("transformers").setLevel(logging.ERROR)

pytestmark = pytest.mark.usefixtures("nets_are_exported_once")

SAMPLES, BATCH, ACCUMULATED = 40, 4, 3
# Ten batches make three updates of three, and one of one.
PER_EPOCH = 4
PROBE = {"features": np.random.default_rng(1).normal(size=(6, 12)).astype(np.float32)}


class Net(nn.Module):
    """A classifier as the Trainer wants it: it computes its loss itself."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 8), nn.ReLU()
        )
        self.head = nn.Linear(8, 3)

    def forward(self, features, labels=None):
        logits = self.head(self.body(features))
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Saving(transformers.TrainerCallback):
    """Keeps the weights after every update."""

    def __init__(self):
        self.states = []

    def on_train_begin(self, args, state, control, *, model, **_):
        self.on_step_end(args, state, control, model=model)

    def on_step_end(self, args, state, control, *, model, **_):
        self.states.append({name: value.clone() for name, value in model.named_parameters()})


class Failing(transformers.TrainerCallback):
    """Ends a training as an error in it does."""

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 6:
            raise RuntimeError("out of memory")


def samples(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return [{"features": torch.randn(12, generator=generator), "labels": index % 3} for index in range(count)]


def trainer_of(folder, *callbacks, epochs=2, **options):
    torch.manual_seed(0)
    settings = {
        "per_device_train_batch_size": BATCH, "gradient_accumulation_steps": ACCUMULATED, "num_train_epochs": epochs,
        "learning_rate": 0.02, "logging_steps": 1, "eval_strategy": "epoch", "save_strategy": "no", "use_cpu": True,
        "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False, **options,
    }  # fmt: skip
    trainer = transformers.Trainer(
        Net(),
        transformers.TrainingArguments(str(folder), **settings),
        train_dataset=samples(SAMPLES, seed=0),
        eval_dataset=samples(30, seed=1),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def logged(trainer, name):
    """Return what the Trainer logged under a name, by step."""
    return {entry["step"]: entry[name] for entry in trainer.state.log_history if name in entry}


def assert_metric(found, expected):
    """Hold a metric of every observation against what there is by step."""
    np.testing.assert_array_equal(found, [expected.get(step, np.nan) for step in range(len(found))])


def test_every_update_is_a_step_with_what_was_logged_for_it(tmp_path):
    saving = Saving()
    callback = RegimeCallback(PROBE, tmp_path / "run.h5")
    trainer = trainer_of(tmp_path, saving, callback)
    trainer.train()
    found = rows(tmp_path / "run.h5")
    steps = range(2 * PER_EPOCH + 1)
    assert found["step"].tolist() == list(steps)
    np.testing.assert_allclose(found["epoch"], [0, 0.3, 0.6, 0.9, 1, 1.3, 1.6, 1.9, 2])
    for name in ("loss", "grad_norm", "learning_rate", "eval_loss"):
        assert_metric(found[f"metric_{name}"], logged(trainer, name))
    assert sorted(logged(trainer, "eval_loss")) == [4, 8]
    assert {name for name in found if name.startswith("metric_")} == {
        "metric_loss", "metric_grad_norm", "metric_learning_rate", "metric_eval_loss",
    }  # fmt: skip
    names = list(saving.states[0])
    expected = [oracle.weight_deltas(names, *saving.states[step - 1 : step + 1])[0] for step in steps[1:]]
    np.testing.assert_allclose(found["weight_delta_l1"][1:], expected, rtol=1e-6)
    assert callback.recorder.status().step == 8
    assert regime_proto.analyze(tmp_path / "run.h5", resamples=0).observations == 9


def test_the_training_is_the_same_with_it(tmp_path):
    """Dropout, running statistics, evaluations, and the best model that is loaded at the end."""
    options = {
        "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2,
        "load_best_model_at_end": True, "greater_is_better": True, "metric_for_best_model": "eval_loss",
    }  # fmt: skip
    saving = Saving(), Saving()
    plain = trainer_of(tmp_path / "plain", saving[0], **options)
    plain.train()
    recorded = trainer_of(tmp_path / "recorded", saving[1], RegimeCallback(PROBE, tmp_path / "run.h5"), **options)
    recorded.train()
    states = [
        [*other.states, trainer.model.state_dict()] for other, trainer in zip(saving, (plain, recorded), strict=True)
    ]
    assert len(states[0]) == 10
    for one, other in zip(*states, strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert logged(plain, "eval_loss") == logged(recorded, "eval_loss")
    assert recorded.state.best_global_step < 8
    assert rows(tmp_path / "run.h5")["step"].tolist() == list(range(9))


SAVES = {"save_strategy": "steps", "save_steps": 2, "epochs": 3}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The recording of a training that does not fail."""
    folder = tmp_path_factory.mktemp("whole")
    trainer_of(folder, RegimeCallback(PROBE, folder / "whole.h5"), **SAVES).train()
    return rows(folder / "whole.h5")


@pytest.mark.parametrize("options", [{}, {"overwrite": True}], ids=["", "overwrite"])
def test_a_training_goes_on_from_a_checkpoint_where_it_failed(options, whole, tmp_path):
    callback = RegimeCallback(PROBE, tmp_path / "run.h5", **options)
    failing = trainer_of(tmp_path / "run", callback, Failing(), **SAVES)
    with pytest.raises(RuntimeError, match="out of memory"):
        failing.train()
    first = callback.recorder
    again = trainer_of(tmp_path / "run", callback, **SAVES)
    # At the end of an epoch the Trainer itself would draw other dropout than without the interruption.
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert callback.recorder is not first
    found = rows(tmp_path / "run.h5")
    assert found["step"].tolist() == list(range(3 * PER_EPOCH + 1))
    for name, values in whole.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert found["valid"].all()
    assert extra(tmp_path / "run.h5")["resumed_from_steps"] == "2"


def test_from_the_beginning_nothing_is_replaced_unasked(tmp_path):
    callback = RegimeCallback(PROBE, tmp_path / "run.h5")
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer_of(tmp_path, callback, Failing()).train()
    with pytest.raises(RegimeError, match="holds an unfinished run; resume it"):
        trainer_of(tmp_path, callback).train()
    replacing = RegimeCallback(PROBE, tmp_path / "run.h5", overwrite=True)
    trainer_of(tmp_path, replacing, epochs=1).train()
    assert rows(tmp_path / "run.h5")["step"].tolist() == [0, 1, 2, 3, 4]


def test_a_metric_belongs_to_the_observation_that_it_follows(tmp_path):
    trainer = trainer_of(tmp_path, RegimeCallback(PROBE, tmp_path / "run.h5", every=3), eval_strategy="steps")
    trainer.train()
    found = rows(tmp_path / "run.h5")
    assert found["step"].tolist() == [0, 3, 6]
    for name in ("loss", "eval_loss"):
        values = logged(trainer, name)
        # Nothing is logged at the initial state, so step 1 is the first after it.
        np.testing.assert_array_equal(found[f"metric_{name}"], [values[1], values[3], values[6]])


def test_at_most_a_share_of_the_time(tmp_path):
    """By a clock that counts how often it is read: an observation takes as long as the steps between two."""
    options = {"every": Share(0.55, clock=itertools.count().__next__)}
    trainer_of(tmp_path, RegimeCallback(PROBE, tmp_path / "run.h5", **options), epochs=5).train()
    assert rows(tmp_path / "run.h5")["step"].tolist() == list(range(0, 21, 4))
    with pytest.raises(RegimeError, match="every='0%': expected"):
        RegimeCallback(PROBE, tmp_path / "run.h5", every="0%")


def test_a_probe_from_the_samples_for_evaluation(tmp_path):
    with pytest.raises(RegimeError, match=r"trainer.add_callback\(RegimeCallback\(\"auto\""):
        trainer_of(tmp_path, RegimeCallback("auto", tmp_path / "run.h5")).train()
    trainer = trainer_of(tmp_path, epochs=1)
    trainer.add_callback(RegimeCallback("auto", tmp_path / "run.h5", loader=trainer.get_eval_dataloader()))
    trainer.train()
    assert extra(tmp_path / "run.h5")["probe_drawn"] == "2 samples, 0.2 of a batch of 12"
    assert regime_proto.analyze(tmp_path / "run.h5", resamples=0).observations == 5
    # Since that training the Trainer has samples to show.
    trainer.remove_callback(RegimeCallback)
    trainer.add_callback(RegimeCallback("auto", tmp_path / "again.h5", batch_size=20))
    trainer.train()
    assert extra(tmp_path / "again.h5")["probe_drawn"] == "4 samples, 0.2 of a batch of 20"


@apart_too
@pytest.mark.parametrize("module", ["live_loop", pytest.param("live_trainer", marks=pytest.mark.libraries)])
def test_an_example_runs_as_it_says(module, apart, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    said = run_module(f"regime_proto.examples.{module}", "OUT.h5", folder=tmp_path, apart=apart)
    text = (EXAMPLES / f"{module}.py").read_text(encoding="utf-8")
    assert f"``python -m regime_proto.examples.{module} OUT.h5``, then ``regime analyze OUT.h5``" in text
    result = regime_proto.analyze(tmp_path / "OUT.h5", resamples=0)
    assert result.observations == {"live_loop": 265, "live_trainer": 70}[module]
    assert 0.5 < result.rho < 10
    score = float(said.split()[-1])
    if module == "live_loop":
        assert score > 0.9
        assert "patterns have settled at step" in said
    else:
        # Of a guess it is that of 17 shades, 2.8.
        assert score < 2.2
