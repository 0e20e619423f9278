"""Quantities beside weight deltas and flips: each as it is defined, converted or recorded."""

import inspect
import json
import re
from dataclasses import replace

import nets
import numpy as np
import pytest
import torch
from nets import save_run
from recording import rows

import regime_proto
from regime_proto import RegimeError, RegimeWarning
from regime_proto.adapters import from_npz
from regime_proto.adapters.from_torch.live_weights import DeviceWeights
from regime_proto.conversion.plan import QUANTITY_OVERHEAD, make_plan, write_program
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.quantities.base import Network, Quantity, State
from regime_proto.quantities.installed import choose, known_quantities
from regime_proto.quantities.measuring import Measures
from regime_proto.schema import validate
from regime_proto.schema.header import Layer
from regime_proto.schema.reader import open_checked, read_header, read_quantities

STATES = 6
NETS = {"mlp": nets.make_mlp, "conv": nets.make_conv, "encoder": nets.make_encoder}
ALL = [quantity.name for quantity in known_quantities().values() if not quantity.is_built_in]
# Those of the function have a file of tests of their own.
MEASURED = [name for name in ALL if set(known_quantities()[name].needs) <= {"weights", "masks"}]


@pytest.fixture(scope="module", params=NETS)
def converted(request, tmp_path_factory):
    """The name of a net, its states, and a trajectory with all quantities of them."""
    make, folder = NETS[request.param], tmp_path_factory.mktemp(request.param)
    states = save_run(folder / "checkpoints", make(), STATES)
    write_program(folder / "checkpoints", model=make(), probe=nets.probe(make()))
    path = regime_proto.convert(folder / "checkpoints", folder / "run.h5", measure=MEASURED, workers=2)
    return request.param, states, path


def trained(states, path):
    """The names of the trainable tensors, and the states as float64 arrays."""
    with open_checked(path) as file:
        names = list(read_header(file).tensors)
    return names, [{name: state[name].double().numpy() for name in names} for state in states]


def expected_by_tensor(states, path, definition, against):
    """A quantity by tensor, from its definition for one tensor of one state and of the other."""
    names, wide = trained(states, path)
    found = np.full((len(wide), len(names)), np.nan)
    for row, state in enumerate(wide):
        other = {"": state, "previous": wide[row - 1] if row else None, "first": wide[0]}[against]
        if other is not None:
            found[row] = [definition(name, state, other) for name in names]
    return found


DEFINITIONS = {
    "weight_norm_l2": ("", lambda name, state, _: np.sqrt(np.sum(state[name] ** 2))),
    "weight_dot_previous": ("previous", lambda name, state, other: np.sum(state[name] * other[name])),
    "weight_dot_first": ("first", lambda name, state, other: np.sum(state[name] * other[name])),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_sums_over_tensors_are_those_of_the_definition(converted, name):
    _, states, path = converted
    against, definition = DEFINITIONS[name]
    expected = expected_by_tensor(states, path, definition, against)
    np.testing.assert_allclose(rows(path)[f"quantity_{name}"], expected, rtol=1e-12, atol=1e-15)


def amplitude(name, state):
    """The amplitudes of the output units of a layer of torch, whose weights count them first."""
    weight = state[name]
    if name.endswith("in_proj_weight"):
        bias = state[name.replace("weight", "bias")]
    else:
        bias = state.get(name.removesuffix("weight") + "bias", np.zeros(len(weight)))
    return np.sqrt(np.sum(weight.reshape(len(weight), -1) ** 2, axis=1) + bias**2)


@pytest.mark.parametrize("against", ["previous", "first"])
def test_amplitude_distances_are_those_of_the_definition(converted, against):
    _, states, path = converted

    def distance(name, state, other):
        if state[name].ndim < 2:
            return np.nan
        return np.abs(np.sort(amplitude(name, state)) - np.sort(amplitude(name, other))).mean()

    expected = expected_by_tensor(states, path, distance, against)
    np.testing.assert_allclose(rows(path)[f"quantity_amplitude_distance_{against}"], expected, rtol=1e-9, atol=1e-15)
    assert np.nansum(expected) > 0


def test_the_active_fraction_is_that_of_the_masks(converted):
    _, _, path = converted
    stored = rows(path)
    with open_checked(path) as file:
        header, start = read_header(file), 0
    for index, layer in enumerate(header.layers):
        bits = np.unpackbits(stored["mask"][:, :, start : start + layer.bytes], axis=2)[..., : layer.size]
        expected = bits.mean(axis=(1, 2))
        np.testing.assert_allclose(stored["quantity_active_fraction"][:, index], expected, rtol=1e-12)
        start += layer.bytes
        assert 0 < expected.min() < expected.max() < 1


def test_the_active_fraction_leaves_padding_out():
    """Two thresholds, and units that do not count, whose bits are 0."""
    layer = Layer("gate", "Clip", "piecewise", "", 8, (0.0, 6.0))
    network = Network({"w": (1,)}, (layer, Layer("none", "Relu", "relu", "", 8)), np.array([[4, 8], [0, 0]]))
    masks = np.array([[0b11000000, 0b10000000, 0], [0b11111111, 0b00001111, 0]], np.uint8)
    found = known_quantities()["active_fraction"].compute(State({}, masks), None, network)
    np.testing.assert_allclose(found[0], (3 + 12) / (2 * 12))
    assert np.isnan(found[1])


def test_every_quantity_has_an_oracle_here():
    tested = {*DEFINITIONS, "amplitude_distance_previous", "amplitude_distance_first", "active_fraction"}
    # The distance has a file of tests of its own.
    assert set(MEASURED) == tested | {"weight_distance_l2"}


def test_a_file_with_quantities_is_valid_and_of_version_1_1(converted):
    _, _, path = converted
    assert validate(path) == []
    with open_checked(path) as file:
        assert file.attrs["regime_version"] == "1.1"
        assert {quantity.name for quantity in read_quantities(file)} == set(MEASURED)
        for quantity in read_quantities(file):
            assert quantity == known_quantities()[quantity.name].stored


def test_without_quantities_files_stay_as_they_were(mlp_run, tmp_path):
    path = regime_proto.convert(mlp_run, tmp_path / "run.h5")
    with open_checked(path) as file:
        assert file.attrs["regime_version"] == "1.0"
        assert not [name for name in file if name.startswith("quantity_")]
    assert regime_proto.analyze(path, resamples=0).quantities == {}


def test_distances_alone_need_no_newer_version(mlp_run, tmp_path):
    path = regime_proto.convert(mlp_run, tmp_path / "run.h5", measure="weight_distance_l2")
    with open_checked(path) as file:
        assert file.attrs["regime_version"] == "1.0"
        assert "weight_distance_l2" in file


# What an analysis makes of them


@pytest.fixture(scope="module")
def analyzed(converted):
    _, states, path = converted
    return states, path, regime_proto.analyze(path, resamples=0)


def network_values(states, path):
    names, wide = trained(states, path)
    return np.array([np.concatenate([state[name].ravel() for name in names]) for state in wide])


def test_the_relative_update_and_the_cosine_distance_follow(analyzed):
    states, path, result = analyzed
    theta = network_values(states, path)
    norms = np.linalg.norm(theta, axis=1)
    expected = {
        "relative_update": np.linalg.norm(np.diff(theta, axis=0), axis=1) / norms[1:],
        "cosine_distance_previous": 1 - np.sum(theta[1:] * theta[:-1], axis=1) / (norms[1:] * norms[:-1]),
        "cosine_distance_first": 1 - theta[1:] @ theta[0] / (norms[1:] * norms[0]),
    }
    for name, values in expected.items():
        found = result.curves[f"quantity_{name}"].to_numpy()
        np.testing.assert_allclose(found, values, rtol=1e-6, atol=1e-13)
        assert result.quantities[name].last == found[-1]


def test_the_first_observation_stays_the_first_where_steps_are_left_out(converted):
    _, states, path = converted
    theta = network_values(states, path)
    result = regime_proto.analyze(path, steps="2:", resamples=0)
    norms = np.linalg.norm(theta, axis=1)
    expected = 1 - theta[3:] @ theta[0] / (norms[3:] * norms[0])
    np.testing.assert_allclose(result.curves["quantity_cosine_distance_first"], expected, rtol=1e-6, atol=1e-13)


def test_curves_are_reduced_as_the_quantity_says(analyzed):
    _, path, result = analyzed
    stored = rows(path)
    norms, fractions = stored["quantity_weight_norm_l2"][1:], stored["quantity_active_fraction"][1:]
    np.testing.assert_allclose(result.curves["quantity_weight_norm_l2"], np.sqrt((norms**2).sum(axis=1)))
    np.testing.assert_allclose(result.curves["quantity_active_fraction"], fractions.mean(axis=1))
    np.testing.assert_array_equal(result.curves["quantity_weight_norm_l2_each"], norms)
    distances = stored["quantity_amplitude_distance_first"][1:]
    np.testing.assert_allclose(result.curves["quantity_amplitude_distance_first"], np.nanmean(distances, axis=1))


def test_the_summary_is_in_the_json(analyzed):
    _, _, result = analyzed
    found = json.loads(json.dumps(result.to_json(), allow_nan=False))["quantities"]
    assert set(found) == set(result.quantities)
    assert set(found["active_fraction"]) == {"unit", "against", "first", "last", "auc"}
    assert found["weight_dot_previous"]["against"] == "previous"


# Choosing


def test_words_stand_for_several():
    assert {quantity.name for quantity in choose(["all"])} == set(ALL)
    patterns = {"active_fraction", "margin", "preactivation_rms", "interior_flips"}
    assert {quantity.name for quantity in choose(["patterns"])} == patterns
    assert {quantity.name for quantity in choose(["weights"])} == set(MEASURED) - patterns
    assert [quantity.name for quantity in choose(["flips", "weight_norm_l2", "weight_norm_l2"])] == ["weight_norm_l2"]


@pytest.mark.parametrize("name", ["weight_norm", "weihts", ""])
def test_a_wrong_name_is_answered_before_any_work(name, tmp_path):
    with pytest.raises(RegimeError, match=rf"--measure '{name}': no such quantity.*`regime quantities` lists all"):
        regime_proto.convert(tmp_path / "none", tmp_path / "run.h5", measure=name)


# Going on, and what cannot go on


def test_a_trajectory_keeps_its_quantities_as_the_run_grows(run, tmp_path):
    path = tmp_path / "run.h5"
    last = run / "step_0007.pt"
    content = last.read_bytes()
    last.unlink()
    regime_proto.convert(run, path, measure=["weight_dot_first", "active_fraction"])
    before = rows(path)
    last.write_bytes(content)
    regime_proto.convert(run, path)
    after = rows(path)
    for name in ("quantity_weight_dot_first", "quantity_active_fraction"):
        np.testing.assert_array_equal(after[name][:-1], before[name])
        assert np.isfinite(after[name]).all()


def test_what_a_finished_trajectory_lacks_is_said(run, tmp_path):
    path = regime_proto.convert(run, tmp_path / "run.h5")
    message = r"exists, but holds no weight_norm_l2; to add them, all checkpoints must be read again: pass --overwrite"
    with pytest.raises(RegimeError, match=message):
        regime_proto.convert(run, path, measure="weight_norm_l2")
    regime_proto.convert(run, path, measure="weight_norm_l2", overwrite=True)
    assert "quantity_weight_norm_l2" in rows(path)
    # One against the last checkpoint is a part of the fingerprint.
    message = r"exists, but holds no margin, \w+_last \(it holds weight_norm_l2\); to add them, .*: pass --overwrite"
    with pytest.raises(RegimeError, match=message):
        regime_proto.convert(run, path, measure=["margin", "structural_change_l2_last"])


def test_an_interrupted_conversion_goes_on_with_the_same_quantities_only(run, tmp_path):
    path, damaged = tmp_path / "run.h5", run / "step_0005.pt"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:500])
    with pytest.raises(RegimeError, match="step_0005"):
        regime_proto.convert(run, path, measure="weights")
    with pytest.raises(RegimeError, match=r"started with the quantities .*weight_norm_l2, now none"):
        regime_proto.convert(run, path)


def test_invalid_observations_keep_what_came_out(run, tmp_path):
    state = torch.load(run / "step_0003.pt")
    state["model"]["body.0.weight"][0, 0] = float("nan")
    torch.save(state, run / "step_0003.pt")
    with pytest.warns(RegimeWarning, match="hold NaN or Inf"):
        path = regime_proto.convert(run, tmp_path / "run.h5", measure="weights")
    assert validate(path) == []
    norms = rows(path)["quantity_weight_norm_l2"]
    assert np.isnan(norms[3, 0])
    assert np.isfinite(np.delete(norms, 3, axis=0)).all()
    result = regime_proto.analyze(path, resamples=0)
    # Neither the change towards it nor the one from it counts.
    assert len(result.curves["step"]) == 5
    assert np.isfinite(result.curves["quantity_weight_norm_l2"]).all()


def test_a_first_state_that_is_no_number_is_refused_where_others_are_held_against_it(run, tmp_path):
    state = torch.load(run / "step_0000.pt")
    state["model"]["body.0.weight"][0, 0] = float("nan")
    torch.save(state, run / "step_0000.pt")
    with pytest.raises(
        RegimeError, match=r"step_0000.*other states cannot be compared.*--steps 1:7.*as weight_dot_first is"
    ):
        regime_proto.convert(run, tmp_path / "run.h5", measure="weight_dot_first")


# Third parties


@pytest.mark.parametrize("given", [42, [42], None, b"all"])
def test_what_is_no_name_is_answered_in_a_line(given, tmp_path):
    model = nets.make_mlp()
    with pytest.raises(RegimeError, match=r"measure .*: expected one text or several"):
        regime_proto.record(model, nets.probe(model), tmp_path / "run.h5", measure=given)


def failing(at):
    calls = iter(range(1000))

    def compute(current, other, network):
        if next(calls) >= at:
            raise ZeroDivisionError("no\nsuch thing")
        return [1.0] * len(network.layers)

    return Quantity(name="mine", dims=("layer",), meaning="mine", definition="mine", compute=compute)


@pytest.fixture
def measured(monkeypatch):
    """A function that adds a quantity for as long as the test runs."""

    def add(quantity):
        known = {**known_quantities(), quantity.name: quantity}
        monkeypatch.setattr("regime_proto.quantities.installed.known_quantities", lambda: known)

    return add


def test_one_that_raises_ends_the_conversion_in_one_line_and_what_was_written_stays(mlp_run, measured, tmp_path):
    measured(failing(4))
    path = tmp_path / "run.h5"
    with pytest.raises(RegimeError) as caught:
        regime_proto.convert(mlp_run, path, measure="mine", workers=1)
    assert "step_0004.pt: quantity mine fails; leave it out of --measure" in str(caught.value)
    line = inspect.getsourcelines(failing)[1] + 5
    assert str(caught.value).endswith(f"(ZeroDivisionError: no such thing, in {__file__}:{line})")
    assert not path.exists()
    measured(failing(1000))
    seen = []
    regime_proto.convert(mlp_run, path, measure="mine", progress=lambda done, total: seen.append(done))
    assert seen[0] == 5
    assert rows(path)["quantity_mine"].shape == (8, 2)


@pytest.mark.parametrize(
    ("found", "said"),
    [([1.0], r"an array of shape \[1\], expected \[2\], for \(layer\)"), ("text", "does not return numbers")],
)
def test_one_that_gives_something_else_is_refused(mlp_run, measured, tmp_path, found, said):
    mine = {"name": "mine", "dims": ("layer",), "meaning": "mine", "definition": "mine"}
    measured(Quantity(**mine, compute=lambda *_: found))
    with pytest.raises(RegimeError, match=f"quantity mine fails.*{said}"):
        regime_proto.convert(mlp_run, tmp_path / "run.h5", measure="mine")


def test_one_that_raises_ends_the_recording_and_not_the_training(measured, tmp_path):
    measured(failing(2))
    model = nets.make_mlp()
    recorder = regime_proto.record(model, nets.probe(model), tmp_path / "run.h5", measure="mine")
    steps = []

    def train():
        for step, _ in enumerate(nets.train(model, 5)):
            recorder.observe(step)
            steps.append(step)

    with pytest.warns(RegimeWarning, match="recording has stopped, training continues: step 2: .*quantity mine fails"):
        train()
    recorder.close()
    assert len(steps) == 5


def written_in_place(current, against, network):
    changes = []
    for name in network.tensors:
        change = current.weights[name]
        change -= against.weights[name]
        changes.append(np.abs(change).sum())
    return changes


def put_into_the_mapping(current, against, network):
    current.weights[next(iter(network.tensors))] = None


def term_in_place(weight, other):
    weight -= other
    return abs(weight)


@pytest.fixture
def writable_run(tmp_path, monkeypatch):
    """Checkpoints whose adapter returns ordinary arrays, and keeps them."""
    folder, held = tmp_path / "npz", []
    folder.mkdir()
    model = nets.make_mlp()
    for step, trained_model in enumerate(nets.train(model, 4)):
        np.savez(folder / f"step_{step}.npz", **{name: w.numpy() for name, w in trained_model.state_dict().items()})
    read = from_npz.read

    def read_writable(path):
        payload = read(path)
        groups = {key: {name: np.array(w) for name, w in found.items()} for key, found in payload.groups.items()}
        held.extend(array for tensors in groups.values() for array in tensors.values())
        return replace(payload, groups=groups)

    monkeypatch.setattr(from_npz, "read", read_writable)
    write_program(folder, model=nets.make_mlp(), probe=nets.probe(model))
    return folder, held


@pytest.mark.parametrize(
    ("compute", "said"), [(written_in_place, "read-only"), (put_into_the_mapping, "does not support item assignment")]
)
def test_one_that_writes_in_place_is_refused(writable_run, measured, tmp_path, compute, said):
    folder, held = writable_run
    mine = {"name": "mine", "dims": ("tensor",), "meaning": "mine", "definition": "mine", "against": "previous"}
    measured(Quantity(**mine, compute=compute))
    with pytest.raises(RegimeError, match=rf"^[^\n]*quantity mine fails[^\n]*{said}[^\n]*, in {__file__}:\d+\)$"):
        regime_proto.convert(folder, tmp_path / "run.h5", measure="mine", workers=1)
    assert held
    # The flag of the adapter's own arrays is not changed.
    assert all(array.flags.writeable for array in held)


@pytest.mark.parametrize("engine", ["native", "onnx"])
def test_one_that_writes_in_place_does_not_change_the_model_in_training(measured, tmp_path, engine):
    mine = {"name": "mine", "dims": ("tensor",), "meaning": "mine", "definition": "mine", "against": "previous"}
    measured(Quantity(**mine, compute=written_in_place))
    model = nets.make_mlp()
    recorder = regime_proto.record(model, nets.probe(model), tmp_path / "run.h5", measure="mine", engine=engine)
    recorder.observe(0)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.warns(RegimeWarning, match="quantity mine fails.*read-only"):
        recorder.observe(1)
    recorder.close()
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_a_term_that_writes_in_place_changes_no_weights():
    mine = {"name": "mine", "dims": ("tensor",), "meaning": "mine", "definition": "mine", "against": "first"}
    weights = list(nets.make_mlp().double().state_dict().values())
    before = [weight.clone() for weight in weights]
    kept = DeviceWeights()
    kept.begin([weight + 1 for weight in weights])
    found = kept.terms([Quantity(**mine, term=term_in_place)], weights)
    np.testing.assert_allclose(found[:, 0], [weight.numel() for weight in weights])
    assert all(torch.equal(one, other) for one, other in zip(weights, before, strict=True))


WRONG = [
    ({"dims": ("step",)}, "dims"),
    ({"against": "next"}, "against"),
    ({"curve": "median"}, "curve"),
    ({"name": "Mine"}, "lower-case letters"),
    ({"needs": ("gradients",)}, "needs"),
    ({"unit": "seconds"}, "decoded as a time"),
    ({"unit": "days since 2000-01-01"}, "decoded as a time"),
    ({"term": abs, "compute": abs}, "term replaces compute"),
    ({"term": abs, "dims": ("layer",)}, "term replaces compute"),
]


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_a_record_that_contradicts_itself_is_refused(change, said):
    given = {"name": "mine", "dims": ("tensor",), "meaning": "mine", "definition": "mine", **change}
    with pytest.raises(ValueError, match=said):
        Quantity(**given)


# Recorded


RECORDED = [name for name, quantity in known_quantities().items() if quantity.is_recordable]


@pytest.fixture(scope="module", params=["native", "onnx"])
def recorded(request, tmp_path_factory):
    """A recording with all quantities, and a conversion of the states that were recorded."""
    folder, model = tmp_path_factory.mktemp(request.param), nets.make_mlp()
    path, states = folder / "live.h5", []
    with regime_proto.record(model, nets.probe(model), path, measure=RECORDED, engine=request.param) as recorder:
        for step, trained_model in enumerate(nets.train(model, STATES)):
            recorder.observe(step)
            states.append({name: tensor.clone() for name, tensor in trained_model.state_dict().items()})
            torch.save(states[-1], folder / f"step_{step}.pt")
    model_file = {"model": nets.make_mlp(), "probe": nets.probe(nets.make_mlp())}
    return path, regime_proto.convert(folder, folder / "converted.h5", measure="all", **model_file)


# Masks of torch and ONNX Runtime may differ in a unit, and what they compute in the last digits.
TOLERANCES = {"active_fraction": {"rtol": 0, "atol": 0.02}, "margin": {"rtol": 1e-3, "atol": 1e-6}}
TOLERANCES |= {name: {"rtol": 1e-4} for name in ("preactivation_rms", "output_change_l2")}


@pytest.mark.parametrize("name", sorted({*MEASURED, *TOLERANCES}))
def test_a_recording_measures_what_a_conversion_does(recorded, name):
    live, converted = map(rows, recorded)
    variable = name if name == "weight_distance_l2" else f"quantity_{name}"
    tolerance = TOLERANCES.get(name, {"rtol": 1e-6, "atol": 1e-12})
    np.testing.assert_allclose(live[variable], converted[variable], **tolerance)


@pytest.mark.parametrize("name", ["structural_change_l2_first", "fingerprint_cosine", "quantitative_change_l2_last"])
def test_what_is_not_recorded_is_refused_by_name(name, tmp_path):
    model = nets.make_mlp()
    with pytest.raises(RegimeError, match=f"--measure {name}: measured only on saved checkpoints, with regime convert"):
        regime_proto.record(model, nets.probe(model), tmp_path / "run.h5", measure=name)


def test_what_is_not_recorded_is_named_where_it_is_in_a_group(tmp_path):
    model = nets.make_mlp()
    left_out = [name for name in known_quantities() if name not in RECORDED]
    assert {"interior_flips", "fingerprint_cosine", "structural_change_l2_last"} < {*left_out}
    said = f"not measured in a recording: {', '.join(left_out)}: measured only on saved checkpoints"
    with pytest.warns(RegimeWarning, match=said):
        regime_proto.record(model, nets.probe(model), tmp_path / "run.h5", measure="all").close()


class Classes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nets.make_mlp()

    def forward(self, x):
        return self.layers(x).argmax(1)


@pytest.mark.parametrize("engine", ["native", "onnx"])
def test_outputs_that_are_whole_numbers_are_not_recorded(tmp_path, engine):
    model = Classes().eval()
    probe, path = nets.probe(model.layers), tmp_path / "run.h5"
    said = r"output \w+ is of type int64, not real numbers"
    with pytest.raises(RegimeError, match=f"--measure output_change_l2: {said}"):
        regime_proto.record(model, probe, path, measure="output_change_l2", engine=engine)
    assert not list(tmp_path.iterdir())
    with pytest.warns(RegimeWarning) as told:
        recorder = regime_proto.record(model, probe, path, measure=["function", "margin"], engine=engine)
    assert any(re.search(f"not measured: output_change_l2: {said}", str(one.message)) for one in told)
    with recorder:
        for step in range(3):
            recorder.observe(step)
    assert "quantity_margin" in rows(path)
    assert len(rows(path)["step"]) == 3


def test_for_masks_alone_no_weights_are_copied(measured, tmp_path):
    """What is held against the previous masks is known all the same."""

    def changed(current, previous, network):
        assert not current.weights
        return [float((current.masks != previous.masks).sum())] * len(network.layers)

    named = {"name": "mine", "meaning": "mine", "definition": "mine", "needs": ("masks",)}
    measured(Quantity(**named, dims=("layer",), against="previous", compute=changed))
    model = nets.make_mlp()
    with regime_proto.record(model, nets.probe(model), tmp_path / "run.h5", measure="mine") as recorder:
        for step, _ in enumerate(nets.train(model, 4)):
            recorder.observe(step)
    found = rows(tmp_path / "run.h5")
    masks = found["mask"]
    np.testing.assert_array_equal(found["quantity_mine"][1:, 0], (masks[1:] != masks[:-1]).sum(axis=(1, 2)))
    assert np.isnan(found["quantity_mine"][0]).all()


def test_a_recording_with_quantities_is_valid(recorded):
    assert validate(recorded[0]) == []


def test_a_resumed_recording_measures_the_same(tmp_path):
    """Cut in the middle, and gone on with from the checkpoint of the last observed step."""

    def train(path, **options):
        model = nets.make_mlp()
        with regime_proto.record(model, nets.probe(model), path, measure=RECORDED, **options) as recorder:
            for step, _ in enumerate(nets.train(model, STATES)):
                recorder.observe(step)

    train(tmp_path / "whole.h5")
    model = nets.make_mlp()
    recorder = regime_proto.record(model, nets.probe(model), tmp_path / "cut.h5", measure=RECORDED)
    states = nets.train(model, STATES)
    for step in range(3):
        next(states)
        recorder.observe(step)
    recorder.abandon()
    with regime_proto.record(model, nets.probe(model), tmp_path / "cut.h5", measure=RECORDED, resume=2) as recorder:
        for step in range(3, STATES):
            next(states)
            recorder.observe(step)
    whole, cut = rows(tmp_path / "whole.h5"), rows(tmp_path / "cut.h5")
    assert set(whole) == set(cut)
    for name, values in whole.items():
        np.testing.assert_allclose(cut[name], values, rtol=1e-6, atol=1e-12, err_msg=name)


def measuring(*names):
    return ConversionSettings(measure=names)


def test_quantities_are_counted_in_what_is_foreseen(mlp_run):
    bare, plan = make_plan(mlp_run), make_plan(mlp_run, measuring("weight_norm_l2", "active_fraction"))
    masks = plan.mask_policy("all")
    extra = plan.predicted_file_bytes(masks) - bare.predicted_file_bytes(masks)
    assert extra == 2 * QUANTITY_OVERHEAD + 8 * 8 * (len(plan.program.trainable) + len(plan.gates))
    assert plan.predicted_memory_bytes(1) == bare.predicted_memory_bytes(1)
    held = make_plan(mlp_run, measuring("weight_dot_first"))
    assert held.predicted_memory_bytes(1) == bare.predicted_memory_bytes(1) + bare.state_bytes


def test_what_is_foreseen_is_about_what_becomes(run, tmp_path):
    """Most of the file of a small run is what HDF5 keeps of each variable."""
    settings = ConversionSettings(measure=("all",))
    plan = make_plan(run, settings)
    predicted = plan.predicted_file_bytes(plan.mask_policy("all"))
    written = regime_proto.convert(run, tmp_path / "run.h5", measure="all").stat().st_size
    assert written == pytest.approx(predicted, rel=0.2)


def test_what_is_not_asked_for_is_not_computed():
    measures = Measures((), Network({"w": (1,)}, (), np.zeros((0, 1), np.int64)))
    assert measures.row(State({}), {}, "here") == {}
    assert not measures.keep_first
