"""What Keras saves is read as arrays, and its models become programs."""

import io
import json
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import bare
import children
import frameworks
import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from libraries import load_exporter, needed

import regime_proto
from regime_proto.adapters.from_keras import adapter as from_keras
from regime_proto.checkpoints.payload import Incomplete, NotACheckpoint
from regime_proto.cli.main import main
from regime_proto.conversion.plan import write_program
from regime_proto.plugins.open_directory import open_directory
from regime_proto.program.gates import find_gates
from regime_proto.program.probe import ProbeError, as_probe
from regime_proto.schema.errors import RegimeError

pytestmark = pytest.mark.libraries
needed("keras")
needed("jax2onnx")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras
    from keras import layers as kl

PROBE = np.random.default_rng(0).normal(size=(5, 7)).astype("float32")


@pytest.fixture(autouse=True, scope="module")
def exporter():
    """The exporter at work: it imports its many parts before the first model."""
    load_exporter()


@pytest.fixture(autouse=True)
def remarks_of_the_libraries():
    """Keras warns of numpy and of its own older layout; ours would be errors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"keras\..*")
        yield


def functional(*body, inputs=7):
    given = keras.Input((inputs,) if isinstance(inputs, int) else inputs)
    hidden = given
    for layer in body:
        hidden = layer(hidden)
    return keras.Model(given, hidden)


def small():
    return functional(kl.Dense(4), kl.BatchNormalization(), kl.ReLU(), kl.Dropout(0.3), kl.Dense(2))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = kl.Dense(4)
        self.blocks = [kl.Dense(4, activation="relu"), kl.Dense(2)]

    def call(self, x, training=False):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


def values(model):
    return sorted(np.array(v.value).tobytes() for v in model.variables if keras.backend.is_float_dtype(v.dtype))


def tensors(path):
    return from_keras.read(path).groups[""]


# --- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["step_1.keras", "step_1.weights.h5", "step_1.h5"])
def test_every_layout_holds_the_weights_and_no_optimizer(name, tmp_path):
    model = small()
    model.compile("adam", "mse")
    model.fit(np.ones((8, 7)), np.ones((8, 2)), batch_size=2, epochs=3, verbose=0)
    path = tmp_path / name
    model.save_weights(path) if name.endswith(".weights.h5") else model.save(path)
    assert sorted(array.tobytes() for array in tensors(path).values()) == values(model)
    assert from_keras.peek(path).step == 12
    assert "Keras" in from_keras.recognise(path)


def test_the_step_of_an_optimizer_that_scales_losses(tmp_path):
    model = small()
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), "mse")
    model.fit(np.ones((8, 7)), np.ones((8, 2)), batch_size=2, verbose=0)
    model.save(tmp_path / "a.keras")
    assert from_keras.peek(tmp_path / "a.keras").step == 4


def test_weights_without_an_optimizer_say_no_step(tmp_path):
    small().save_weights(tmp_path / "epoch_3.weights.h5")
    assert from_keras.peek(tmp_path / "epoch_3.weights.h5").step is None


def test_bfloat16_and_subclassed_models(tmp_path):
    model = functional(kl.Dense(4, dtype="bfloat16"), kl.Dense(2, dtype="float16"))
    model.save_weights(tmp_path / "a.weights.h5")
    assert sorted(array.tobytes() for array in tensors(tmp_path / "a.weights.h5").values()) == values(model)
    model = Subclassed()
    model(PROBE)
    model.save_weights(tmp_path / "b.weights.h5")
    assert sorted(array.tobytes() for array in tensors(tmp_path / "b.weights.h5").values()) == values(model)


def test_reading_needs_no_keras(tmp_path):
    small().save(tmp_path / "step_1.keras")
    small().save(tmp_path / "step_2.keras")
    code = f"""
from pathlib import Path
from regime_proto.plugins.open_directory import open_directory
source = open_directory(Path({str(tmp_path)!r}))
print(source.adapter, len(source.read(source.checkpoints[1]).tensors))
"""
    done = bare.run(code, without=["keras", "jax", "tensorflow", "torch", "jax2onnx"])
    assert done.stdout.split() == ["keras", "8"], done.stderr


def test_the_step_orders_archives_whose_names_do_not(tmp_path):
    model = small()
    model.compile("sgd", "mse")
    for name in ("b", "c", "a"):
        model.fit(np.ones((4, 7)), np.ones((4, 2)), batch_size=2, verbose=0)
        model.save(tmp_path / f"{name}1.keras")
    source = open_directory(tmp_path)
    assert [(checkpoint.path.stem, checkpoint.step) for checkpoint in source.checkpoints] == [
        ("b1", 2),
        ("c1", 4),
        ("a1", 6),
    ]


def read_or_refused(path):
    try:
        from_keras.peek(path)
        return tensors(path), None
    except RegimeError as error:
        return None, error


def test_damage_gives_the_right_weights_or_one_line(tmp_path):
    """Bytes cut off or flipped anywhere: never a traceback, and never other weights out of an archive."""
    model = small()
    generator = np.random.default_rng(0)
    for name in ("whole.keras", "whole.weights.h5"):
        path = tmp_path / name
        model.save(path) if name.endswith(".keras") else model.save_weights(path)
        content = path.read_bytes()
        spoiled = tmp_path / f"spoiled{name.removeprefix('whole')}"
        for place in generator.integers(0, len(content), 60):
            for changed in (content[:place], content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]):
                spoiled.write_bytes(changed)
                from_keras.recognise(spoiled)
                found, error = read_or_refused(spoiled)
                if error is not None:
                    assert str(error).startswith(str(spoiled)) or isinstance(error, NotACheckpoint)
                    assert "\n" not in str(error)
                elif name.endswith(".keras"):
                    assert sorted(array.tobytes() for array in found.values()) == values(model)


def test_a_file_that_is_cut_off_is_incomplete(tmp_path):
    path = tmp_path / "step_1.weights.h5"
    small().save_weights(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Incomplete, match=r"step_1\.weights\.h5: damaged or incomplete"):
        from_keras.read(path)
    path.write_bytes(b"")
    assert from_keras.recognise(path) == "an empty file"
    with pytest.raises(Incomplete):
        from_keras.peek(path)


def hostile(link):
    def write(path):
        with h5py.File(path, "w") as file:
            file.create_dataset("layers/dense/vars/0", data=np.ones(3, "float32"))
            link(file, path)

    return write


def external_link(file, path):
    file["layers/other"] = h5py.ExternalLink(str(path.with_name("secret.h5")), "/")


def external_storage(file, path):
    file.create_dataset("layers/x/vars/0", (3,), "f4", external=[(str(path.with_name("secret")), 0, 12)])


def virtual(file, path):
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource(str(path.with_name("secret.h5")), "x", (3,))
    file.create_virtual_dataset("layers/x/vars/0", layout)


def bomb(file, path):
    file.create_dataset("layers/x/vars/0", (10**9,), "f4", chunks=(10**7,), compression="gzip")[0] = 1


@pytest.mark.parametrize("link", [external_link, external_storage, virtual, bomb])
def test_what_leads_out_of_a_file_is_refused(link, tmp_path):
    hostile(link)(tmp_path / "step_1.weights.h5")
    with pytest.raises(RegimeError, match="refused"):
        from_keras.read(tmp_path / "step_1.weights.h5")
    with zipfile.ZipFile(tmp_path / "step_1.keras", "w") as archive:
        archive.write(tmp_path / "step_1.weights.h5", "model.weights.h5")
    with pytest.raises(RegimeError, match="refused"):
        from_keras.read(tmp_path / "step_1.keras")


def test_to_ask_for_the_step_follows_no_link(tmp_path):
    """The rest of the file is not looked at then, and must not be touched either."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["adam/iteration"] = np.int32(99)
    path = tmp_path / "step_1.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = np.ones(3, "float32")
        file["optimizer_weights"] = h5py.ExternalLink("secret.h5", "/")
    assert from_keras.peek(path).step is None
    with pytest.raises(RegimeError, match="refused"):
        from_keras.read(path)


def test_an_archive_that_inflates_is_refused(tmp_path):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_dataset("layers/dense/vars/0", data=np.zeros(2 * 10**7, "float32"))
    with zipfile.ZipFile(tmp_path / "a.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", content.getvalue())
    with pytest.raises(RegimeError, match="refused"):
        from_keras.read(tmp_path / "a.keras")


@pytest.mark.parametrize("version", ["\x1b[31mred", "x" * 100_000, None, [[[]]]])
def test_a_version_that_is_none_is_not_shown(version, tmp_path):
    small().save(tmp_path / "a.keras")
    with zipfile.ZipFile(tmp_path / "a.keras") as archive, zipfile.ZipFile(tmp_path / "b.keras", "w") as spoiled:
        spoiled.writestr("model.weights.h5", archive.read("model.weights.h5"))
        spoiled.writestr("metadata.json", json.dumps({"keras_version": version}))
    assert from_keras.recognise(tmp_path / "b.keras") == "a Keras archive"


def test_other_files_are_not_of_keras(tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"] = np.ones(3)
    assert from_keras.recognise(tmp_path / "data.h5") is None
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("a.txt", "x")
    assert from_keras.recognise(tmp_path / "x.keras") is None


# --- programs ------------------------------------------------------------------------------------------------------


def program(model, probe=PROBE):
    return from_keras.export(model, as_probe(probe))


def gates(model, probe=PROBE):
    return [
        (gate.op, [round(plane.threshold, 6) for plane in gate.planes], gate.kind)
        for gate in find_gates(program(model, probe))
    ]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (lambda: kl.Activation("relu"), ("Relu", [0], "relu")),
        (lambda: kl.Activation("relu6"), ("Clip", [0, 6], "piecewise")),
        (lambda: kl.Activation("leaky_relu"), ("LeakyRelu", [0], "piecewise")),
        (lambda: kl.ReLU(), ("Relu", [0], "relu")),
        (lambda: kl.ReLU(6.0), ("Clip", [0, 6], "piecewise")),
        (lambda: kl.ReLU(4.0), ("Clip", [0, 4], "piecewise")),
        (lambda: kl.ReLU(negative_slope=0.1), ("LeakyRelu", [0], "piecewise")),
        (lambda: kl.ReLU(threshold=0.25), ("Where", [0.25], "piecewise")),
        (lambda: kl.ReLU(4.0, threshold=0.25), ("Clip", [0.25, 4], "piecewise")),
        (lambda: kl.ReLU(4.0, negative_slope=0.1), ("Clip", [0, 4], "piecewise")),
        (lambda: kl.ReLU(negative_slope=0.1, threshold=0.25), ("PRelu", [0.25], "piecewise")),
        (lambda: kl.ReLU(4.0, 0.1, 0.25), ("Clip", [0.25, 4], "piecewise")),
        (lambda: kl.LeakyReLU(0.3), ("LeakyRelu", [0], "piecewise")),
        (lambda: kl.PReLU(), ("PRelu", [0], "piecewise")),
        (lambda: kl.Activation("elu"), ("Elu", [0], "smooth")),
        (lambda: kl.Activation("gelu"), ("Gelu", [0], "smooth")),
        (lambda: kl.Activation("silu"), ("Silu", [0], "smooth")),
        (lambda: kl.Activation("hard_silu"), ("HardSwish", [-3, 3], "smooth")),
        (lambda: kl.Activation("softplus"), ("Softplus", [0], "smooth")),
    ],
)
def test_each_activation_is_one_gate(layer, expected):
    assert gates(functional(kl.Dense(4), layer(), kl.Dense(2))) == [expected]


def test_statistics_and_frozen_layers_are_not_trained():
    model = small()
    model.layers[1].trainable = False
    found = {tensor.name: tensor.trainable for tensor in program(model).tensors}
    assert found == {
        "layers.batch_normalization.vars.0": True,
        "layers.batch_normalization.vars.1": True,
        "layers.batch_normalization.vars.2": False,
        "layers.batch_normalization.vars.3": False,
        "layers.dense.vars.0": False,
        "layers.dense.vars.1": False,
        "layers.dense_1.vars.0": True,
        "layers.dense_1.vars.1": True,
    }


def test_the_model_is_left_as_it_was():
    model = small()
    before = [np.array(variable.value) for variable in model.variables]
    program(model)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.value, value)


def test_counters_in_checkpoints_are_known_and_not_measured(tmp_path):
    """A Normalization layer counts, in whole numbers, what it was adapted to."""
    model = functional(kl.Normalization(), kl.Dense(4), kl.ReLU(), kl.RandomFlip(), inputs=(5, 5, 3))
    for step in range(2):
        model.layers[2].kernel.assign_add(model.layers[2].kernel + 1)
        model.save_weights(tmp_path / f"step_{step}.weights.h5")
    images = np.random.default_rng(0).normal(size=(4, 5, 5, 3)).astype("float32")
    path = regime_proto.convert(tmp_path, tmp_path / "run.h5", model=model, probe=images)
    with regime_proto.open_trajectory(path) as trajectory:
        assert trajectory["tensor"].values.tolist() == ["layers.dense.vars.0", "layers.dense.vars.1"]
    assert any(array.dtype.kind == "i" for array in tensors(tmp_path / "step_0.weights.h5").values())


def test_models_of_every_kind():
    sequential = keras.Sequential([kl.Dense(4, activation="relu"), kl.Dense(2)])
    assert gates(sequential) == gates(Subclassed()) == [("Relu", [0], "relu")]
    first, second = keras.Input((3,), name="p"), keras.Input((2,), name="q")
    out = kl.Dense(2, activation="relu")(kl.Concatenate()([first, second]))
    probe = {"p": PROBE[:, :3], "q": PROBE[:, 3:5]}
    for inputs in ([first, second], {"p": first, "q": second}):
        assert list(program(keras.Model(inputs, out), probe).inputs) == ["p", "q"]


def test_pooling_of_images():
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype("float32")
    for pool in (kl.MaxPooling2D(3, strides=2, padding="same"), kl.AveragePooling2D(2), kl.GlobalMaxPooling2D()):
        model = functional(kl.Conv2D(4, 3, padding="same"), kl.ReLU(), pool, inputs=(8, 8, 2))
        assert gates(model, images) == [("Relu", [0], "relu")]


@pytest.mark.parametrize(
    ("model", "probe", "error", "message"),
    [
        (small, PROBE[:, :6], RegimeError, r"the model fails on the probe \(.*float32\[5, 6\]\)"),
        (small, PROBE.astype("float64"), ProbeError, r"float64, in which JAX does not compute; .*astype\('float32'\)"),
        (lambda: functional(kl.ReLU()), PROBE, RegimeError, "no variable is trainable"),
    ],
)
def test_what_cannot_be_exported(model, probe, error, message):
    with pytest.raises(error, match=message) as raised:
        program(model(), probe)
    assert "\n" not in str(raised.value)


def test_a_layer_that_no_tool_exports_is_named():
    model = functional(kl.Conv3D(2, 2), kl.ReLU(), inputs=(4, 4, 4, 1))
    with pytest.raises(RegimeError, match=r"jax2onnx cannot export this model: .*conv"):
        program(model, np.ones((2, 4, 4, 4, 1), "float32"))


# --- as a user does ------------------------------------------------------------------------------------------------

FACTORY = """
import keras
from keras import layers

def make():
    parts = [layers.Dense(16), layers.ReLU(), layers.Dense(10), layers.ReLU(), layers.Dense(3)]
    return keras.Sequential([keras.Input((12,)), *parts])

def which():
    raise ValueError(f"Keras runs on {keras.backend.backend()}")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with checkpoints, a probe, and a module that builds the model."""
    folder = tmp_path_factory.mktemp("keras")
    (folder / "checkpoints").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layers = frameworks.NETWORKS["mlp"]
        frameworks.write_keras(folder / "checkpoints", layers, frameworks.trained(layers))
    np.save(folder / "probe.npy", frameworks.probe(layers))
    (folder / "kerasfactory.py").write_text(FACTORY)
    return folder


def analyzed(run, output, *, backend=None, factory="make", start=children.run_regime):
    """Run ``regime analyze`` in a process that has not imported Keras, with a setting of the backend or without."""
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    environment |= {} if backend is None else {"KERAS_BACKEND": backend}
    arguments = ["checkpoints", "--model", f"kerasfactory:{factory}", "--probe", "probe.npy", "-o", output]
    return start("analyze", *arguments, cwd=run, env=environment)


def test_the_command_line_needs_no_setting_of_the_backend(run, tmp_path):
    """What Keras would compute on by itself may not be installed."""
    done = analyzed(run, tmp_path / "run.h5", factory="which")
    assert done.returncode == 1
    assert "Keras runs on jax" in " ".join(done.stderr.split())


def as_a_user(*arguments, **options):
    command = [Path(sys.executable).with_name("regime"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.mark.slow
def test_the_command_line_analyzes_with_no_setting_of_the_backend(run, tmp_path):
    done = analyzed(run, tmp_path / "run.h5", start=as_a_user)
    assert done.returncode == 0, done.stderr
    assert "ρ" in done.stdout


def test_another_backend_is_refused_with_the_way_out(run, tmp_path):
    done = analyzed(run, tmp_path / "run.h5", backend="torch")
    assert done.returncode != 0
    assert "Keras runs on torch here" in done.stderr
    assert "KERAS_BACKEND=jax" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_backend_that_is_not_installed_is_named(run, tmp_path):
    done = analyzed(run, tmp_path / "run.h5", backend="tensorflow")
    assert "KERAS_BACKEND=tensorflow is set, a program needs KERAS_BACKEND=jax" in " ".join(done.stderr.split())


def test_archives_and_older_files_measure_as_weights_do(run, tmp_path):
    layers = frameworks.NETWORKS["mlp"]
    model, probe = frameworks.keras_model(layers), frameworks.probe(layers)
    expected = regime_proto.convert(run / "checkpoints", tmp_path / "expected.h5", model=model, probe=probe)
    for suffix in (".keras", ".h5"):
        folder = tmp_path / suffix[1:]
        folder.mkdir()
        written = frameworks.write_keras(folder, layers, frameworks.trained(layers), suffix=suffix)
        found = regime_proto.convert(folder, tmp_path / f"{suffix[1:]}.h5", model=written, probe=probe)
        with regime_proto.open_trajectory(found) as ours, regime_proto.open_trajectory(expected) as theirs:
            for name in ("flips", "mask", "weight_delta_l1"):
                np.testing.assert_array_equal(ours[name], theirs[name])


def test_a_folder_that_explains_itself_needs_no_keras(run, tmp_path, monkeypatch):
    layers = frameworks.NETWORKS["mlp"]
    frameworks.write_keras(tmp_path, layers, frameworks.trained(layers))
    write_program(tmp_path, model=frameworks.keras_model(layers), probe=frameworks.probe(layers))
    for name in ("keras", "jax", "jax2onnx"):
        monkeypatch.setitem(sys.modules, name, None)
    done = CliRunner().invoke(main, ["inspect", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "Keras weights in HDF5" in done.output
    assert "2 tracked" in done.output
