"""Networks of scikit-learn: what skops saves of them is read as data, and the estimators are exported."""

import io
import json
import pickle
import re
import textwrap
import time
import tracemalloc
import zipfile
from itertools import pairwise

import bare
import numpy as np
import onnx
import pytest
from commands import regime
from libraries import needed
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import regime_proto
from regime_proto.adapters.from_sklearn import adapter as from_sklearn
from regime_proto.checkpoints.payload import Incomplete, NotACheckpoint
from regime_proto.plugins.open_directory import NoCheckpoint, open_directory
from regime_proto.plugins.registry import exporter_for
from regime_proto.program.gates import find_gates
from regime_proto.program.probe import as_probe
from regime_proto.schema.errors import RegimeError

STATES = 6
RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(size=(80, 7))
LABELS = RANDOM.integers(0, 3, 80)
PROBE = RANDOM.normal(size=(20, 7))


# Files as skops lays them out, and files that never were of skops.


def layers(dtype=np.float32):
    """Return arrays by tensor name: two layers, one of them in Fortran's order."""
    random = np.random.default_rng(1)
    shapes = {"coefs_.0": (4, 3), "intercepts_.0": (3,), "coefs_.1": (3, 2), "intercepts_.1": (2,)}
    arrays = {name: random.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    return {**arrays, "coefs_.0": np.asfortranarray(arrays["coefs_.0"])}


def node(kind, loader, **rest):
    return {"__class__": kind, "__module__": "m", "__loader__": loader, **rest}


def tree_of(arrays, loss=0.25, kind="MLPClassifier"):
    def listed(attribute):
        names = [name for name in arrays if name.startswith(attribute)]
        return node("list", "ListNode", content=[node("ndarray", "NdArrayNode", file=f"{name}.npy") for name in names])

    content = {name: listed(name) for name in ("coefs_", "intercepts_")}
    content["loss_"] = node("str", "JsonNode", content=json.dumps(loss), is_json=True)
    return {**node(kind, "ObjectNode", content=node("dict", "DictNode", content=content)), "protocol": 2}


def entry(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write(path, tree, entries, compression=zipfile.ZIP_STORED):
    """Write an archive; the schema comes last, as with skops."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        archive.writestr("schema.json", tree if isinstance(tree, str | bytes) else json.dumps(tree, indent=2))
    return path


def save(path, arrays, **options):
    entries = {f"{name}.npy": entry(array) for name, array in arrays.items()}
    return write(path, tree_of(arrays, **options), entries)


@pytest.mark.parametrize("dtype", ["float32", "float64", ">f4", "float16"])
def test_weights_and_loss_are_read(dtype, tmp_path):
    path = save(tmp_path / "step_1.skops", layers(dtype))
    found = from_sklearn.read(path)
    assert list(found.groups[""]) == list(layers())
    for name, array in layers(dtype).items():
        np.testing.assert_array_equal(found.groups[""][name], array)
        assert found.groups[""][name].dtype == np.dtype(dtype).newbyteorder("=")
    assert found.facts == {"loss": 0.25}
    label = from_sklearn.peek(path)
    assert (label.step, dict(label.metrics)) == (None, {"loss": 0.25})
    assert from_sklearn.recognise(path) == ("a zip archive with schema.json, as skops.io.dump writes (MLPClassifier)")


@pytest.mark.parametrize("loss", [None, "0.5", [1.0]])
def test_a_loss_that_is_no_number_is_passed_over(loss, tmp_path):
    assert from_sklearn.read(save(tmp_path / "a.skops", layers(), loss=loss)).facts == {}


def test_a_loss_that_is_a_number_of_numpy(tmp_path):
    tree = tree_of(layers())
    tree["content"]["content"]["loss_"] = node("float32", "NdArrayNode", type="numpy", file="loss.npy")
    entries = {f"{name}.npy": entry(array) for name, array in layers().items()} | {"loss.npy": entry(np.float32(0.5))}
    assert from_sklearn.read(write(tmp_path / "a.skops", tree, entries)).facts == {"loss": 0.5}


def test_what_is_written_once_is_found(tmp_path):
    """`__id__` refers to a node elsewhere in the tree, however deep."""
    tree = tree_of(layers())
    content = tree["content"]["content"]
    elsewhere = {"__id__": 7, **content["coefs_"]}
    content["_optimizer"] = node("Adam", "ObjectNode", content=node("list", "ListNode", content=[elsewhere]))
    content["coefs_"] = {"__class__": None, "__module__": None, "__id__": 7, "__loader__": "CachedNode"}
    entries = {f"{name}.npy": entry(array) for name, array in layers().items()}
    found = from_sklearn.read(write(tmp_path / "a.skops", tree, entries)).groups[""]
    np.testing.assert_array_equal(found["coefs_.1"], layers()["coefs_.1"])
    content["coefs_"]["__id__"] = 8
    with pytest.raises(RegimeError, match="damaged"):
        from_sklearn.read(write(tmp_path / "b.skops", tree, entries))


def spoiled(tmp_path, change=None, entries=None, **options):
    """Write a file whose tree or entries were changed."""
    tree = tree_of(layers())
    if change is not None:
        change(tree["content"]["content"])
    held = {f"{name}.npy": entry(array) for name, array in layers().items()} | (entries or {})
    return write(tmp_path / "a.skops", tree, {name: held[name] for name in held if held[name] is not None}, **options)


def npy(shape, dtype="<f4", content=b"", version=1):
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + content


SPOILED_ENTRIES = {
    "missing": None,
    "objects": npy((1,), "|O", pickle.dumps([1])),
    "whole numbers": entry(np.arange(12).reshape(4, 3)),
    "long doubles": entry(np.ones((4, 3), np.longdouble)),
    "fields": entry(np.zeros(3, [("a", "f4"), ("b", "f4")])),
    "no array": b"x" * 100,
    "empty": b"",
    "fewer numbers": entry(layers()["coefs_.0"])[:-4],
    "more numbers": entry(layers()["coefs_.0"]) + b"0000",
    "a huge shape": npy((2**40, 2**20), content=b"0" * 16),
    "a negative shape": npy((-2, -2), content=b"0" * 16),
    "a newer version": npy((4,), content=b"0" * 16, version=3),
}


def first_weight(tree, **change):
    tree["coefs_"]["content"][0].update(change)


SPOILED_TREES = {
    "an entry twice": lambda tree: first_weight(tree, file="coefs_.1.npy"),
    "a layer too many": lambda tree: tree["coefs_"]["content"].append(tree["coefs_"]["content"][0]),
    "no layers": lambda tree: [tree[name].update(content=[]) for name in ("coefs_", "intercepts_")],
    "no list": lambda tree: tree.update(coefs_=5),
    "no file": lambda tree: tree["coefs_"]["content"][0].pop("file"),
    "a path": lambda tree: first_weight(tree, file="../../etc/passwd"),
    "line ends in a name": lambda tree: first_weight(tree, file="a\n\x1b[2Jb\r.npy"),
    "a reference to itself": lambda tree: tree["coefs_"].update(__loader__="CachedNode", __id__=1),
    "a spoiled loss": lambda tree: tree["loss_"].update(content="{"),
}
AGAIN = "save it again( or remove it)?$"


def assert_refused(path, call=from_sklearn.read, error=RegimeError, match="damaged"):
    with pytest.raises(error, match=match) as raised:
        call(path)
    text = str(raised.value)
    assert text.startswith(str(path))
    assert text.isprintable()
    return text


@pytest.mark.parametrize("spoil", SPOILED_ENTRIES)
def test_a_damaged_entry_is_refused_in_one_line(spoil, tmp_path):
    assert_refused(spoiled(tmp_path, entries={"coefs_.0.npy": SPOILED_ENTRIES[spoil]}), match=AGAIN)


@pytest.mark.parametrize("spoil", SPOILED_TREES)
def test_a_damaged_tree_is_refused_in_one_line(spoil, tmp_path):
    assert_refused(spoiled(tmp_path, SPOILED_TREES[spoil]), match=AGAIN)


@pytest.mark.parametrize(
    "schema",
    ["", "{", "[]", "5", "{}", '{"__class__": []}', "[" * 100_000, "\xff" * 10, "9" * 10_000, '{"__class__": "A\\nB"}'],
)
def test_a_schema_of_any_form_is_refused_in_one_line(schema, tmp_path):
    path = write(tmp_path / "a.skops", schema.encode("latin-1"), {"x.npy": entry(np.ones(3))})
    with pytest.raises(RegimeError) as raised:
        from_sklearn.peek(path)
    assert str(raised.value).isprintable()


def test_nodes_lie_in_one_another_to_any_depth_that_json_allows(tmp_path):
    tree = tree_of(layers())
    deep = []
    for _ in range(900):
        deep = [deep]
    tree["content"]["content"]["coefs_"] = {"__id__": 1, "__loader__": "CachedNode"}
    tree["content"]["content"]["deep"] = deep
    entries = {f"{name}.npy": entry(array) for name, array in layers().items()}
    assert_refused(write(tmp_path / "a.skops", json.dumps(tree), entries))


@pytest.mark.parametrize("where", ["schema", "array", "arrays"])
def test_what_unpacks_to_gigabytes_is_not_unpacked(where, tmp_path):
    zeros = np.zeros(2**24, np.float32)
    if where == "schema":
        path = write(tmp_path / "a.skops", b" " * (2**26 + 1), {}, zipfile.ZIP_DEFLATED)
    elif where == "array":
        path = spoiled(tmp_path, entries={"coefs_.0.npy": entry(zeros)}, compression=zipfile.ZIP_DEFLATED)
    else:
        arrays = {f"{name}.{layer}": np.zeros(2**19, np.uint8) for name in from_sklearn.WEIGHTS for layer in range(200)}
        entries = {f"{name}.npy": entry(array) for name, array in arrays.items()}
        path = write(tmp_path / "a.skops", tree_of(arrays), entries, zipfile.ZIP_DEFLATED)
    start = time.monotonic()
    tracemalloc.start()
    try:
        assert_refused(path, from_sklearn.peek, match=r"(67,108,865|67,\d+,\d+|209,\d+,\d+)")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_files_are_read(compression, tmp_path):
    path = spoiled(tmp_path, compression=compression)
    np.testing.assert_array_equal(from_sklearn.read(path).groups[""]["coefs_.1"], layers()["coefs_.1"])
    assert "(MLPClassifier)" in from_sklearn.recognise(path)


def test_files_cut_off_count_as_incomplete(tmp_path):
    content = save(tmp_path / "whole.skops", layers()).read_bytes()
    path = tmp_path / "a.skops"
    for part in range(20):
        path.write_bytes(content[: len(content) * part // 20])
        assert from_sklearn.recognise(path), "it may still be being written"
        assert_refused(path, from_sklearn.peek, Incomplete, "damaged or incomplete .*; save it again or remove it$")


def test_flipped_bytes_never_end_in_a_traceback(tmp_path):
    content = np.frombuffer(save(tmp_path / "whole.skops", layers()).read_bytes(), np.uint8)
    random = np.random.default_rng(0)
    path, errors = tmp_path / "a.skops", []
    for _ in range(400):
        copy = content.copy()
        copy[random.integers(0, len(copy), 3)] = random.integers(0, 256, 3)
        path.write_bytes(copy.tobytes())
        from_sklearn.recognise(path)
        try:
            from_sklearn.read(path)
        except RegimeError as error:
            errors.append(str(error))
    assert len(errors) > 200
    assert all(error.isprintable() for error in errors)


def test_other_files_are_not_recognised(tmp_path):
    write(tmp_path / "a.skops", tree_of(layers()), {})
    with zipfile.ZipFile(tmp_path / "b.skops", "w") as archive:
        archive.writestr("x.npy", b"")
    (tmp_path / "c.skops").write_bytes(b"\x80\x04N.")
    (tmp_path / "d.skops").mkdir()
    recognised = {path.name: from_sklearn.recognise(path) for path in tmp_path.iterdir()}
    assert [name for name, reason in recognised.items() if reason] == ["a.skops"]


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (
            "RandomForestClassifier",
            "holds a RandomForestClassifier: expected an MLPClassifier or MLPRegressor; .*inside",
        ),
        ("Pipeline", r"holds a Pipeline: .* its last step, pipeline\[-1\], .* pipeline\[:-1\].transform\(X\)"),
        ("A\x1b[2J\nB", r"holds a A\?\[2J B: expected"),
    ],
)
def test_other_estimators_are_named(kind, match, tmp_path):
    for step in range(2):
        tree = node(kind, "ObjectNode", content=node("dict", "DictNode", content={"estimators_": {}}))
        write(tmp_path / f"step_{step}.skops", tree, {})
    with pytest.raises(NotACheckpoint, match=match):
        from_sklearn.peek(tmp_path / "step_0.skops")
    with pytest.raises(NoCheckpoint, match=f"no checkpoint found; step_0.skops: {match}"):
        open_directory(tmp_path)


def test_a_network_saved_before_it_was_fitted_is_named(tmp_path):
    for step in range(3):
        save(tmp_path / f"step_{step}.skops", layers())
    path = write(tmp_path / "step_0.skops", tree_of({}, kind="MLPRegressor"), {})
    tree = tree_of({}, kind="MLPRegressor")
    del tree["content"]["content"]["coefs_"]
    write(path, tree, {})
    source = open_directory(tmp_path)
    assert len(source.checkpoints) == 3
    with pytest.raises(RegimeError, match=r"step_0.skops: an MLPRegressor without weights, .* before it was fitted"):
        source.read(source.checkpoints[0])
    assert len(source.read(source.checkpoints[1]).tensors) == 4


def test_the_order_comes_from_the_names(tmp_path):
    for step in (30, 4, 100):
        save(tmp_path / f"epoch_{step}.skops", layers())
    source = open_directory(tmp_path)
    assert (source.adapter, source.step_kind, source.metrics) == ("sklearn", "epoch", ("loss",))
    assert [checkpoint.step for checkpoint in source.checkpoints] == [4, 30, 100]


# Estimators.


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (RandomForestClassifier, "model of type RandomForestClassifier: expected an MLPClassifier or MLPRegressor"),
        (
            lambda: make_pipeline(StandardScaler(), MLPClassifier()),
            r"type Pipeline: .* pipeline\[:-1\].transform\(X\)$",
        ),
        (lambda: GridSearchCV(MLPClassifier(), {}), r"type GridSearchCV: .* inside, such as search.best_estimator_$"),
        (
            MLPClassifier,
            r"it has no weights yet; fit it once, .*partial_fit on a few samples and classes=… in .* matter$",
        ),
        (
            MLPRegressor,
            r"it has no weights yet; fit it once, .*partial_fit on a few samples in the factory, .* matter$",
        ),
    ],
)
def test_estimators_that_cannot_be_exported_say_what_to_do(make, match):
    model = make()
    with pytest.raises(RegimeError, match=match):
        exporter_for(model).export(model, as_probe(PROBE))


def test_a_missing_exporter_says_what_to_install(tmp_path):
    model = MLPRegressor(hidden_layer_sizes=2).partial_fit(np.ones((10, 2)), np.ones(10))
    code = """
import pickle, sys
import numpy as np
from regime_proto.adapters.from_sklearn import adapter as from_sklearn
from regime_proto.program.probe import as_probe
from regime_proto.schema.errors import RegimeError
with open(sys.argv[1], "rb") as file:
    model = pickle.load(file)
try:
    from_sklearn.export(model, as_probe(np.ones((10, 2))))
except RegimeError as error:
    print(error)
"""
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    done = bare.run(code, tmp_path / "model.pkl", without=["skl2onnx"])
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r'model of .*skl2onnx is needed .*; pip install "regime-proto\[sklearn\]"\n', done.stdout)


def fitted(kind, dtype=np.float64, states=1, **options):
    """Yield an estimator after each step of its training."""
    features = FEATURES.astype(dtype)
    options = {"hidden_layer_sizes": (6, 5), "random_state": 0, "learning_rate_init": 0.02, **options}
    if kind == "classifier":
        model, targets, classes = MLPClassifier(**options), LABELS, {"classes": range(3)}
    else:
        model, targets, classes = MLPRegressor(**options), (FEATURES[:, 0] * LABELS).astype(dtype), {}
    for _ in range(states):
        yield model.partial_fit(features, targets, **classes)


def weights_of(model):
    return {f"{name}.{layer}": weight for layer in range(model.n_layers_ - 1)
            for name in ("coefs_", "intercepts_") for weight in [getattr(model, name)[layer]]}  # fmt: skip


# With the probe's two types every pair of types, and each kind of estimator, in the fast tests.
KINDS = [
    ("classifier", "f4"),
    ("regressor", "f8"),
    *(pytest.param(pair, marks=pytest.mark.slow) for pair in (("classifier", "f8"), ("regressor", "f4"))),
]


@pytest.fixture(scope="module", params=KINDS)
def trained(request, tmp_path_factory):
    """A training, saved by skops and by numpy (under another spelling of the names), and its states."""
    skops = needed("skops.io")
    root = tmp_path_factory.mktemp("trained")
    for folder in ("skops", "npz"):
        (root / folder).mkdir()
    states = []
    for step, model in enumerate(fitted(*request.param, states=STATES)):
        states.append({name: weight.copy() for name, weight in weights_of(model).items()})
        skops.dump(model, root / f"skops/step_{step}.skops")
        spelled = {name.replace(".", ""): weight for name, weight in states[-1].items()}
        np.savez(root / f"npz/step_{step}.npz", loss=model.loss_, **spelled)
    return root, model, states


def masks_of(trajectory, layer, width):
    start, stop = (int(trajectory[name][layer]) for name in ("layer_byte_start", "layer_byte_stop"))
    return np.unpackbits(trajectory["mask"].values[:, :, start:stop], axis=2)[..., :width].astype(bool)


def hidden(state, probe):
    """Return what goes into the activations of the hidden layers, as numpy computes it in float64."""
    values, found = probe.astype(np.float64), []
    for layer in range(len(state) // 2 - 1):
        found.append(values @ state[f"coefs_.{layer}"].astype(np.float64) + state[f"intercepts_.{layer}"])
        values = np.maximum(found[-1], 0)
    return found


@pytest.mark.libraries
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_run_measures_as_numpy_computes_it(trained, dtype, tmp_path):
    root, model, states = trained
    probe = PROBE.astype(dtype)
    found = {}
    for folder in ("skops", "npz"):
        path = regime_proto.convert(root / folder, tmp_path / f"{folder}.h5", model=model, probe=probe)
        assert regime_proto.schema.validate(path) == []
        with regime_proto.open_trajectory(path) as trajectory:
            found[folder] = trajectory.load()
    for name in ("step", "flips", "mask", "weight_delta_l1", "weight_delta_l2", "metric_loss"):
        np.testing.assert_array_equal(found["skops"][name], found["npz"][name])
    measured = found["skops"]
    assert measured["tensor"].values.tolist() == list(states[0])
    assert measured["layer_path"].values.tolist() == ["coefs_.0", "coefs_.1"]
    deltas = [
        [np.abs(after[name].astype(np.float64) - before[name]).sum() for name in before]
        for before, after in pairwise(states)
    ]
    np.testing.assert_allclose(measured["weight_delta_l1"][1:], deltas, rtol=1e-12)
    computed = [hidden(state, probe) for state in states]
    for layer, width in enumerate((6, 5)):
        values = np.stack([state[layer] for state in computed])
        clear = np.abs(values) > 1e-5
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(masks_of(measured, layer, width)[clear], (values > 0)[clear])
    assert measured["flips"].values.sum() > 0


@pytest.mark.libraries
def test_real_files_are_read_with_neither_library(trained):
    root, _, states = trained
    code = f"""
from pathlib import Path
import numpy as np
from regime_proto.plugins.open_directory import open_directory
source = open_directory(Path({str(root / "skops")!r}))
np.savez({str(root / "found.npz")!r}, **source.read(source.checkpoints[-1]).tensors)
print(source.adapter, source.step_kind, len(source.checkpoints), source.recognised)
"""
    done = bare.run(code, without=["sklearn", "skops", "skops.io", "joblib"])
    assert done.returncode == 0, done.stderr
    assert re.match(rf"sklearn step {STATES} a zip archive .* \(MLP(Classifier|Regressor)\)$", done.stdout)
    with np.load(root / "found.npz") as found:
        assert {name: found[name].dtype for name in found} == {name: w.dtype for name, w in states[-1].items()}
        for name, weight in states[-1].items():
            np.testing.assert_array_equal(found[name], weight)


@pytest.mark.libraries
def test_real_files_of_other_estimators(tmp_path):
    skops = needed("skops.io")
    skops.dump(RandomForestClassifier(3).fit(FEATURES, LABELS), tmp_path / "a.skops")
    skops.dump(make_pipeline(StandardScaler(), next(fitted("classifier"))), tmp_path / "b.skops")
    skops.dump(MLPClassifier(), tmp_path / "c.skops")
    for name, match in (("a", "holds a RandomForest"), ("b", "holds a Pipeline"), ("c", "before it was fitted")):
        with pytest.raises(RegimeError, match=match):
            from_sklearn.peek(tmp_path / f"{name}.skops")


@pytest.mark.libraries
def test_weights_that_are_shared_with_the_best_ones(tmp_path):
    """With early stopping an estimator keeps one list under two names."""
    skops = needed("skops.io")
    model = MLPClassifier((6,), early_stopping=True, max_iter=300, random_state=0).fit(FEATURES, LABELS)
    assert model.coefs_ is model._best_coefs
    skops.dump(model, tmp_path / "a.skops")
    found = from_sklearn.read(tmp_path / "a.skops").groups[""]
    for name, weight in weights_of(model).items():
        np.testing.assert_array_equal(found[name], weight)


def program_of(model, probe=PROBE):
    needed("skl2onnx")
    return exporter_for(model).export(model, as_probe(probe))


@pytest.mark.libraries
def test_a_program_depends_on_the_form_alone():
    """Not on the weights, nor on what the outputs mean; and the estimator is left as it was."""
    model = next(fitted("classifier"))
    before = pickle.dumps(model)
    program = program_of(model)
    assert pickle.dumps(model) == before
    *_, later = fitted("classifier", states=5)
    named = MLPClassifier((6, 5), random_state=3).partial_fit(
        FEATURES, np.array(["a", "b", "c"])[LABELS], classes=["a", "b", "c"]
    )
    assert program.content == program_of(later).content == program_of(named).content
    assert program.content != program_of(model, PROBE.astype(np.float32)).content
    assert [(tensor.name, tensor.trainable) for tensor in program.tensors] == [(n, True) for n in weights_of(model)]
    assert program.tensors[2].aliases == ("coefs_1", "coefs_[1]")
    assert not program.model.graph.initializers
    assert [gate.path for gate in find_gates(program)] == ["coefs_.0", "coefs_.1"]


OTHERS = {
    "two classes": lambda: MLPClassifier((4,)).partial_fit(FEATURES, LABELS > 0, classes=[False, True]),
    "several labels": lambda: MLPClassifier((4,)).partial_fit(FEATURES, np.eye(2)[LABELS % 2], classes=[0, 1]),
    "two targets": lambda: MLPRegressor(hidden_layer_sizes=4).partial_fit(FEATURES, FEATURES[:, :2]),
    "counts": lambda: MLPRegressor(hidden_layer_sizes=4, loss="poisson").partial_fit(FEATURES, LABELS.astype(float)),
    "one unit": lambda: MLPRegressor(hidden_layer_sizes=(4, 1, 1)).partial_fit(FEATURES[:, :1], FEATURES[:, 0]),
}  # fmt: skip


@pytest.mark.libraries
@pytest.mark.parametrize("kind", OTHERS)
def test_networks_with_other_outputs(kind):
    model = OTHERS[kind]()
    program = program_of(model, PROBE[:, : model.n_features_in_])
    widths = [model.hidden_layer_sizes] if isinstance(model.hidden_layer_sizes, int) else model.hidden_layer_sizes
    assert [gate.shape[1] for gate in find_gates(program)] == list(widths)


@pytest.mark.libraries
def test_names_of_features_do_not_matter():
    model = next(fitted("classifier"))
    # As after a fit on a DataFrame; scikit-learn then warns of arrays.
    model.feature_names_in_ = np.array(list("abcdefg"), object)
    assert find_gates(program_of(model))


@pytest.mark.libraries
@pytest.mark.parametrize("activation", ["tanh", "logistic", "identity"])
def test_other_activations_have_no_gates(activation):
    program = program_of(next(fitted("classifier", activation=activation)))
    with pytest.raises(RegimeError, match=r"no gate to track; its graph holds Add, .*; the protocol needs ReLUs"):
        find_gates(program)


@pytest.mark.libraries
@pytest.mark.parametrize(
    ("probe", "match"),
    [
        (np.ones((4, 8), "f4"), r"float32\[4, 8\], expected float32 or float64\[samples, 7\]; pass the inputs of"),
        (np.ones(7, "f4"), r"float32\[7\], expected .*\[samples, 7\]"),
        (
            np.ones((4, 7, 1), "f4"),
            r"expected .*\[samples, 7\]; save the probe with array.reshape\(len\(array\), -1\)$",
        ),
        (
            np.ones((4, 7), int),
            r"int64\[4, 7\], expected float32 or .*; save the probe with array.astype\('float32'\)$",
        ),
        (np.ones((4, 7), "f2"), r"float16\[4, 7\], expected .*astype\('float32'\)$"),
        ([np.ones((4, 7)), np.ones((4, 7))], r"2 arrays for 1 input \(X\)"),
        ({"X": np.ones((4, 7)), "more": np.ones((4, 7))}, "'more' is not an input of the model; its inputs are X"),
    ],
)
def test_probes_that_do_not_fit(probe, match):
    with pytest.raises(RegimeError, match=match):
        program_of(next(fitted("classifier")), probe)


def tampered(change):
    def to_onnx(*arguments, original, **options):
        model = original(*arguments, **options)
        change(model)
        return model

    return to_onnx


def replace_relu(model):
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Abs"


def fold_weight(model):
    """Double a weight, and halve it where it is used: the graph computes the same."""
    weight = next(tensor for tensor in model.graph.initializer if tensor.dims == [6, 5])
    weight.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(weight), weight.name))


def keep_a_copy(model):
    weight = next(tensor for tensor in model.graph.initializer if tensor.dims == [6, 5])
    copied = onnx.TensorProto()
    copied.CopyFrom(weight)
    copied.name = "copied"
    model.graph.initializer.append(copied)
    user = next(node for node in model.graph.node if weight.name in node.input)
    user.input[list(user.input).index(weight.name)] = "copied"
    model.graph.node.append(onnx.helper.make_node("Shape", [weight.name], ["used"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("used", onnx.TensorProto.INT64, [2]))


@pytest.mark.libraries
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (replace_relu, "the exported graph computes different scores from the model .*upgrade both$"),
        (fold_weight, r"'coefs_.1' not found in the exported graph"),
        (keep_a_copy, "the exported graph does not distinguish weights: 'coefs_.1' in "),
    ],
)
def test_a_graph_that_is_not_the_model_is_refused(change, match, monkeypatch):
    skl2onnx = needed("skl2onnx")
    original = skl2onnx.to_onnx
    monkeypatch.setattr(
        skl2onnx, "to_onnx", lambda *given, **named: tampered(change)(*given, original=original, **named)
    )
    with pytest.raises(RegimeError, match=f"^model of type MLPClassifier: {match}"):
        program_of(next(fitted("classifier")))


@pytest.mark.libraries
def test_what_the_exporter_cannot_do_is_said_in_one_line():
    model = next(fitted("classifier"))
    needed("skl2onnx")
    model.activation = "gelu"
    with pytest.raises(
        RegimeError, match=r"^model of .*skl2onnx cannot export it \(KeyError: 'gelu'\); check its activation$"
    ):
        program_of(model)


@pytest.mark.libraries
def test_the_command_line(tmp_path, monkeypatch):
    skops = needed("skops.io")
    source = """
        import numpy as np
        from sklearn.neural_network import MLPClassifier

        def make():
            return MLPClassifier((6, 5)).partial_fit(np.zeros((3, 7)), [0, 1, 2], classes=range(3))

        def forgot():
            return MLPClassifier((6, 5))
    """
    (tmp_path / "sklearn_net.py").write_text(textwrap.dedent(source))
    np.save(tmp_path / "probe.npy", PROBE)
    run = tmp_path / "run"
    run.mkdir()
    for step, model in enumerate(fitted("classifier", states=STATES)):
        skops.dump(model, run / f"step_{step}.skops")

    monkeypatch.chdir(tmp_path)
    refused = regime("program", "--model", "sklearn_net:forgot", "--probe", "probe.npy", "-o", "run")
    assert refused.exit_code == 1
    assert re.fullmatch(r"error: .*it has no weights yet; fit it once.*\n", refused.stderr)
    program = ["program", "--model", "sklearn_net:make", "--probe", "probe.npy", "-o", "run"]
    for command in (program, ["analyze", "run", "--resamples", "20"]):
        done = regime(*command)
        assert done.exit_code == 0, done.stderr
    assert f"({STATES} observations" in done.stderr
    for word in ("coefs_.0", "coefs_.1", "weights", "patterns"):
        assert word in done.stdout
