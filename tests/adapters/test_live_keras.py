"""Trainings of Keras, recorded by the callback."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from libraries import needed
from recording import extra, rows
from running import apart_too, run_module

import regime_proto
from regime_proto.adapters.from_keras import adapter as from_keras
from regime_proto.recording.schedule import Share
from regime_proto.schema import validate
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.files import segments_folder

pytestmark = [pytest.mark.libraries, pytest.mark.usefixtures("jax_exports")]
needed("keras")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    needed("jax2onnx")
    import keras
    from keras import layers as kl

    from regime_proto.adapters.from_keras.callback import RegimeCallback

GENERATOR = np.random.default_rng(0)
INPUTS = GENERATOR.normal(size=(20, 6)).astype("float32")
TARGETS = GENERATOR.integers(0, 3, 20)
PROBE = INPUTS[:8]
BATCHES = 5


@pytest.fixture(autouse=True)
def remarks_of_the_libraries():
    """Keras warns of numpy; ours would be errors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"keras\..*")
        yield


def make(optimizer=None, **compiled):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), kl.Dense(9), kl.BatchNormalization(), kl.ReLU(), kl.Dropout(0.3), kl.Dense(3)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.Adam(0.01), loss, metrics=["accuracy"], **compiled)
    return model


def fit(model, *callbacks, epochs=2, **options):
    return model.fit(INPUTS, TARGETS, batch_size=4, epochs=epochs, callbacks=list(callbacks), verbose=0, **options)


class Saving(keras.callbacks.Callback):
    """Saves every state, also the first."""

    def __init__(self, folder):
        super().__init__()
        folder.mkdir()
        self.folder = folder

    def save(self):
        self.model.save_weights(self.folder / f"step_{int(self.model.optimizer.iterations)}.weights.h5")

    def on_train_begin(self, logs=None):
        self.save()

    def on_train_batch_end(self, batch, logs=None):
        self.save()


class Failing(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            raise KeyboardInterrupt


def bits(model):
    return [np.array(variable.value).tobytes() for variable in (*model.variables, *model.optimizer.variables)]


def steps(path):
    return rows(path)["step"].tolist()


def test_a_recording_equals_the_conversion_of_checkpoints(tmp_path):
    model = make()
    path = tmp_path / "live.h5"
    history = fit(
        model,
        RegimeCallback(PROBE, path, distance=True),
        Saving(tmp_path / "checkpoints"),
        validation_data=(INPUTS, TARGETS),
    ).history
    assert not validate(path)
    options = {"model": make(), "probe": PROBE, "distance": True}
    converted = regime_proto.convert(tmp_path / "checkpoints", tmp_path / "converted.h5", **options)
    one, other = rows(path), rows(converted)
    for name in ("step", "valid", "flips", "mask"):
        np.testing.assert_array_equal(one[name], other[name])
    for name in ("weight_delta_l1", "weight_delta_l2", "weight_distance_l2"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6)
    assert one["weight_delta_l1"][1:].all()
    assert one["flips"][1:].any()
    assert one["step"].tolist() == list(range(2 * BATCHES + 1))
    np.testing.assert_allclose(one["epoch"], np.arange(2 * BATCHES + 1) / BATCHES)
    with regime_proto.open_trajectory(path) as trajectory, regime_proto.open_trajectory(converted) as expected:
        assert trajectory["tensor"].values.tolist() == expected["tensor"].values.tolist()
        assert trajectory.attrs["source_adapter"] == "keras, live"
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            at_the_end = trajectory[f"metric_{name}"].values[BATCHES::BATCHES]
            np.testing.assert_allclose(at_the_end, history[name], rtol=1e-5)
        assert np.isnan(trajectory["metric_val_loss"].values[1:BATCHES]).all()
        assert np.isfinite(trajectory["metric_loss"].values[1:]).all()

    alone = make()
    fit(alone, validation_data=(INPUTS, TARGETS))
    assert bits(model) == bits(alone)


def test_every_so_many_steps(tmp_path):
    model = make()
    fit(model, RegimeCallback(PROBE, tmp_path / "run.h5", every=3, masks="none"))
    alone = make()
    fit(alone)
    assert steps(tmp_path / "run.h5") == [0, 3, 6, 9]
    assert bits(model) == bits(alone)


def test_at_most_a_share_of_the_time(tmp_path):
    path = tmp_path / "run.h5"
    fit(make(), RegimeCallback(PROBE, path, every=Share(0.55, clock=itertools.count().__next__)))
    assert steps(path) == [0, 4, 8]
    np.testing.assert_allclose(rows(path)["epoch"], np.array([0, 4, 8]) / BATCHES)
    with pytest.raises(RegimeError, match="every='0%': expected"):
        RegimeCallback(PROBE, path, every="0%")


@pytest.mark.parametrize(
    ("every", "expected"), [(1, [0, 2, 4, 5, 7, 9, 10]), (2, [0, 2, 4, 10]), (lambda step: step % 5 == 0, [0, 5, 10])]
)
def test_several_steps_at_once(every, expected, tmp_path):
    """The last execution of an epoch is of one batch."""
    fit(make(steps_per_execution=2), RegimeCallback(PROBE, tmp_path / "run.h5", every=every))
    assert steps(tmp_path / "run.h5") == expected
    np.testing.assert_allclose(rows(tmp_path / "run.h5")["epoch"], np.array(expected) / BATCHES)


def test_batches_that_update_nothing_are_no_steps(tmp_path):
    fit(
        make(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)),
        RegimeCallback(PROBE, tmp_path / "run.h5"),
    )
    found = rows(tmp_path / "run.h5")
    assert found["step"].tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(found["epoch"], [0, 0.4, 0.8, 1.2, 1.6, 2])


def generated():
    for start in range(0, 8, 4):
        yield INPUTS[start : start + 4], TARGETS[start : start + 4]


@pytest.mark.parametrize(("given", "expected"), [(None, [0, 0, 0]), (2, [0, 0.5, 1])])
def test_a_generator_of_unknown_length(given, expected, tmp_path):
    path = tmp_path / "run.h5"
    make().fit(generated(), callbacks=[RegimeCallback(PROBE, path, batches_per_epoch=given)], verbose=0)
    assert rows(path)["epoch"].tolist() == expected


def test_further_trainings_go_on_in_one_file(tmp_path):
    path = tmp_path / "run.h5"
    model = make()
    recording = RegimeCallback(PROBE, path, overwrite=True)
    fit(model, recording, epochs=1)
    first = rows(path)
    fit(model, recording, epochs=1)
    assert steps(path) == list(range(11))
    model.save(tmp_path / "saved.keras")
    loaded = keras.models.load_model(tmp_path / "saved.keras")
    fit(loaded, RegimeCallback(PROBE, path), initial_epoch=2, epochs=3)
    found = rows(path)
    assert found["step"].tolist() == list(range(16))
    assert found["valid"].all()
    np.testing.assert_array_equal(found["mask"][: BATCHES + 1], first["mask"])
    np.testing.assert_allclose(found["epoch"], np.arange(16) / BATCHES)
    assert extra(path)["resumed_from_steps"] == "5 10"
    assert not validate(path)
    assert regime_proto.analyze(path, resamples=0).rho > 0

    with pytest.raises(RegimeError, match=r"run\.h5: exists; resume it"):
        fit(make(), RegimeCallback(PROBE, path))


def test_after_a_training_that_failed_another_goes_on(tmp_path):
    path = tmp_path / "run.h5"
    model = make()
    with pytest.raises(KeyboardInterrupt):
        fit(model, RegimeCallback(PROBE, path), Failing())
    assert not path.exists()
    fit(model, RegimeCallback(PROBE, path), epochs=1)
    found = rows(path)
    assert found["step"].tolist() == list(range(9))
    assert found["valid"].all()
    assert not segments_folder(path).exists()


def test_what_other_callbacks_restore_is_what_is_gone_on_with(tmp_path):
    path = tmp_path / "run.h5"

    def restoring():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)

    fit(make(), RegimeCallback(PROBE, path), restoring(), epochs=1)
    fit(make(), RegimeCallback(PROBE, path), restoring(), epochs=2)
    found = rows(path)
    assert found["step"].tolist() == list(range(11))
    assert found["valid"].all()
    np.testing.assert_allclose(found["epoch"], np.arange(11) / BATCHES)


def test_a_functional_model_that_is_built_again_is_the_same(tmp_path):
    """The names that Keras gives by itself are not."""
    path = tmp_path / "run.h5"
    for step in range(2):
        given = keras.Input((6,))
        model = keras.Model(given, kl.Dense(4, activation="relu", kernel_initializer="ones")(given))
        with regime_proto.record(model, PROBE, path, resume=False if step == 0 else 0) as recorder:
            recorder.observe(step)
    assert steps(path) == [0, 1]


class Uncounted(keras.Model):
    """Does not use its optimizer."""

    def __init__(self):
        super().__init__()
        self.body = kl.Dense(4, activation="relu")

    def call(self, x, training=False):
        return self.body(x)

    def train_step(self, state, data):
        return {"loss": 0.0}, state


def test_an_optimizer_that_counts_nothing_is_told(tmp_path):
    model = Uncounted()
    model(PROBE)
    model.compile("sgd", "mse")
    with pytest.warns(RegimeWarning, match="the optimizer of the model counted no update"):
        model.fit(INPUTS, INPUTS[:, :4], callbacks=[RegimeCallback(PROBE, tmp_path / "run.h5")], verbose=0)


class Nested(keras.callbacks.Callback):
    """Records a part of the model."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_train_begin(self, logs=None):
        self.recorder = regime_proto.record(self.model.layers[0], PROBE, self.path)

    def on_train_batch_end(self, batch, logs=None):
        self.recorder.observe(batch)


def test_a_part_of_a_model_whose_weights_are_elsewhere(tmp_path):
    """In place of a value that a variable does not have Keras would give another, random one."""
    outer = keras.Sequential([keras.Input((6,)), keras.Sequential([kl.Dense(4), kl.ReLU()]), kl.Dense(3)])
    outer.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    nested = Nested(tmp_path / "run.h5")
    with pytest.raises(RegimeError, match="its value is held by the trainer of a different model during fit"):
        fit(outer, nested)
    nested.recorder.abandon()


def test_a_loop_of_ones_own(tmp_path):
    model = make()
    with regime_proto.record(model, PROBE, tmp_path / "run.h5") as recorder:
        recorder.observe(0)
        for step in range(1, 4):
            model.train_on_batch(INPUTS, TARGETS)
            recorder.observe(step)
        with pytest.raises(RegimeError, match=r"params= is only for a pair .*leave params out"):
            recorder.observe(4, params={})
    assert rows(tmp_path / "run.h5")["weight_delta_l1"][1:].all()


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        # Of a type that Keras would convert.
        return INPUTS[4 * index : 4 * index + 4].astype("float64"), TARGETS[4 * index : 4 * index + 4]


def test_a_probe_is_drawn():
    model = make()
    drawn = from_keras.draw(model, Sequence(), 6, 0)
    np.testing.assert_array_equal(drawn.arrays[0], INPUTS[:6])
    assert drawn.arrays[0].dtype == np.float32
    with pytest.raises(RegimeError, match="holds 16 samples, but the probe needs 17"):
        from_keras.draw(model, Sequence(), 17, 0)

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(INPUTS), torch.zeros(20)))
    before = torch.get_rng_state()
    drawn = from_keras.draw(model, loader, 6, 0)
    assert {row.tobytes() for row in drawn.arrays[0]} <= {row.tobytes() for row in INPUTS}
    np.testing.assert_array_equal(torch.get_rng_state(), before)


def test_several_inputs_are_drawn():
    first, second = keras.Input((3,), name="p"), keras.Input((2,), name="q")
    model = keras.Model([first, second], kl.Dense(2, activation="relu")(kl.Concatenate()([first, second])))
    batch = (INPUTS[:, :3], INPUTS[:, 3:5])
    for inputs in (batch, dict(zip("qp", batch[::-1], strict=True))):
        drawn = from_keras.draw(model, [(inputs, TARGETS)], 20, 0)
        assert drawn.names is None
        np.testing.assert_array_equal(drawn.arrays[1], INPUTS[:, 3:5])


@apart_too
def test_the_example_runs_as_it_says(apart, tmp_path):
    said = run_module("regime_proto.examples.live_keras", "OUT.h5", folder=tmp_path, apart=apart)
    assert float(said.split()[-1]) > 0.85
    result = regime_proto.analyze(tmp_path / "OUT.h5", resamples=0)
    assert 0.5 < result.rho < 5
