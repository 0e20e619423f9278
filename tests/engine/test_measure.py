"""Padding, sampled units, device-resident comparison, the noise floor, and half-precision states."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from graphs import HOST, RESIDENT, above, flips, meter_of, observe, planes_of, program, quarters

from regime_proto.engine.masks import pack_masks
from regime_proto.engine.noise_floor import measure_noise
from regime_proto.engine.sampling import choose_units, flip_fraction_errors
from regime_proto.program.gates import find_gates
from regime_proto.program.mask_outputs import CastWeights, NudgeWeights, Rows
from regime_proto.program.probe import COUNTED
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.header import Layer

SAMPLES, TOKENS, FEATURES, UNITS = 7, 5, 4, 13
RELU = [(0, False)]
CLIP = [(0, False), (1, True)]

# Where sample and token lie in the gates of three layouts; the layer behind them has no tokens.
BEHIND = "s = ReduceSum<keepdims = 0>(r, {axis})\ng = MatMul(s, v)\ny = Relu(g)"
LAYOUTS = {
    "batch first": "z = MatMul(x, w)\nr = Clip(z, k(0), k(1))\n" + BEHIND,
    "token first": "t = Transpose<perm = [1, 0, 2]>(x)\nz = MatMul(t, w)\nr = Clip(z, k(0), k(1))\n" + BEHIND,
    "flattened": (
        f"f = Constant<value_ints = [{SAMPLES * TOKENS}, {FEATURES}]>()\n"
        f"b = Constant<value_ints = [{SAMPLES}, {TOKENS}, {UNITS}]>()\n"
        "t = Reshape(x, f)\nz = MatMul(t, w)\nr0 = Clip(z, k(0), k(1))\nr = Reshape(r0, b)\n" + BEHIND
    ),
}


def layout(name):
    axis = 0 if name == "token first" else 1
    body = f"axis = Constant<value_ints = [{axis}]>()\n" + LAYOUTS[name].format(axis="axis")
    return program(
        body,
        before="",
        inputs={"x": (SAMPLES, TOKENS, FEATURES)},
        weights={"w": (FEATURES, UNITS), "v": (UNITS, 9)},
    )


def tokens_probe():
    counted = np.random.default_rng(0).random((SAMPLES, TOKENS)) < 0.6
    counted[0] = True
    counted[1] = False
    return quarters((SAMPLES, TOKENS, FEATURES), 1), counted


def state(seed):
    return {"w": quarters((FEATURES, UNITS), seed), "v": quarters((UNITS, 9), seed + 50)}


def expected_planes(name, x, weights):
    """Return the planes of both gates as (plane, sample, unit), units in the order of each layout."""
    z = x @ weights["w"]
    behind = np.clip(z, 0, 1).sum(axis=1) @ weights["v"]
    return [above(z, CLIP), above(behind, RELU)]


@pytest.mark.parametrize("device", [HOST, RESIDENT], ids=["host", "resident"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_padded_tokens_do_not_count(name, padded, device):
    x, counted = tokens_probe()
    probe = {"x": x, COUNTED: counted} if padded else {"x": x}
    first, second = state(2), state(3)
    meter = meter_of(layout(name), probe, first, device=device)
    _, observation = observe(meter, first, second)
    counts = np.repeat(counted, UNITS, axis=1) if padded else np.ones((SAMPLES, TOKENS * UNITS), bool)
    before, after = (expected_planes(name, x, weights) for weights in (first, second))
    for planes in (before, after):
        planes[0] &= counts
    for found, wanted in zip(planes_of(meter, observation.mask), after, strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(observation.flips, [flips(*pair) for pair in zip(before, after, strict=True)])
    np.testing.assert_array_equal(meter.layer_units, [counts.sum(axis=1), np.full(SAMPLES, 9)])
    assert observation.flips[0].any()
    assert not (observation.flips > meter.layer_units).any()


def test_two_axes_as_long_as_the_tokens_are_told():
    made = program("y = Relu(z)", inputs={"x": (SAMPLES, TOKENS, FEATURES)}, weights={"w": (FEATURES, TOKENS)})
    x, counted = tokens_probe()
    with pytest.warns(RegimeWarning, match=r"2 axes of its shape \[7, 5, 5\] have the length of regime_mask"):
        meter_of(made, {"x": x, COUNTED: counted}, {"w": quarters((FEATURES, TOKENS), 1)})


# The same from the device


@pytest.mark.parametrize("sample_units", [None, 6])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_device_finds_what_the_host_does(name, padded, sample_units):
    x, counted = tokens_probe()
    x = np.random.default_rng(4).standard_normal(x.shape).astype(np.float32)
    probe = {"x": x, COUNTED: counted} if padded else {"x": x}
    random = np.random.default_rng(5)
    states = [
        {key: random.standard_normal(value.shape).astype(np.float32) for key, value in state(0).items()}
        for _ in range(3)
    ]
    host, resident = (
        observe(meter_of(layout(name), probe, states[0], device=device, sample_units=sample_units), *states)
        for device in (HOST, RESIDENT)
    )
    for one, other in zip(host, resident, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_array_equal(one.flips, other.flips)
        np.testing.assert_allclose(one.weight_delta_l1, other.weight_delta_l1, rtol=1e-7)
        np.testing.assert_allclose(one.weight_delta_l2, other.weight_delta_l2, rtol=1e-7)
        np.testing.assert_array_equal(one.flip_fraction_error, other.flip_fraction_error)
        assert one.valid
        assert other.valid


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_deltas_of_a_device_are_sums_in_float64(dtype):
    # Large enough that the host folds.
    shape = (300, 400)
    made = program("y = Relu(z)", inputs={"x": (SAMPLES, 300)}, weights={"w": shape})
    x = quarters((SAMPLES, 300), 1)
    random = np.random.default_rng(2)
    states = [{"w": random.standard_normal(shape).astype(dtype)} for _ in range(2)]
    wide = [value["w"].astype(np.float64 if dtype == np.float64 else np.float32) for value in states]
    delta = (wide[1] - wide[0]).astype(np.float64)
    for device, tolerance in ((RESIDENT, 1e-12), (HOST, 1e-7)):
        _, observation = observe(meter_of(made, {"x": x}, states[0], device=device), *states)
        np.testing.assert_allclose(observation.weight_delta_l1, [np.abs(delta).sum()], rtol=tolerance)
        np.testing.assert_allclose(observation.weight_delta_l2, [np.sqrt(np.square(delta).sum())], rtol=tolerance)


@pytest.mark.parametrize("device", [HOST, RESIDENT], ids=["host", "resident"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_state_is_invalid_and_its_neighbours_are_not(device, bad):
    made = layout("batch first")
    x, _ = tokens_probe()
    broken = state(2)
    broken["w"][1, 2] = bad
    observations = observe(meter_of(made, {"x": x}, state(2), device=device), state(2), broken, state(3))
    assert [observation.valid for observation in observations] == [True, False, True]


@pytest.mark.parametrize("device", [HOST, RESIDENT], ids=["host", "resident"])
def test_equal_states_give_zero_exactly(device):
    x, _ = tokens_probe()
    _, again = observe(meter_of(layout("flattened"), {"x": x}, state(2), device=device), state(2), state(2))
    assert not again.flips.any()
    assert not again.weight_delta_l1.any()
    assert not again.weight_delta_l2.any()


# Sampled units


def wide_program(units=400, samples=6):
    return program("y = Clip(z, k(0), k(1))", inputs={"x": (samples, FEATURES)}, weights={"w": (FEATURES, units)})


@pytest.mark.parametrize("device", [HOST, RESIDENT], ids=["host", "resident"])
def test_sampled_units_are_columns_of_the_full_masks(device):
    made = wide_program()
    x = quarters((6, FEATURES), 1)
    states = [{"w": quarters((FEATURES, 400), seed)} for seed in (2, 3)]
    full = meter_of(made, {"x": x}, states[0], device=device)
    some = meter_of(made, {"x": x}, states[0], device=device, sample_units=37, seed=5)
    [units] = some.unit_index
    assert full.unit_index is None
    assert len(set(units)) == 37
    assert (np.diff(units) > 0).all()
    wanted = [planes_of(full, observation.mask)[0][..., units] for observation in observe(full, *states)]
    found = observe(some, *states)
    for observation, planes in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(planes_of(some, observation.mask)[0], planes)
    np.testing.assert_array_equal(found[1].flips, [flips(*wanted)])
    np.testing.assert_array_equal(some.layer_units, np.full((1, 6), 37))
    assert (some.layers[0].size, some.layers[0].width) == (400, 37)


def test_sampled_units_of_padded_tokens():
    x, counted = tokens_probe()
    meter = meter_of(layout("token first"), {"x": x, COUNTED: counted}, state(2), sample_units=20)
    units, behind = meter.unit_index
    np.testing.assert_array_equal(behind, np.arange(9))
    counts = np.repeat(counted, UNITS, axis=1)[:, units]
    np.testing.assert_array_equal(meter.layer_units[0], counts.sum(axis=1))
    [observation] = observe(meter, state(2))
    wanted = above(x @ state(2)["w"], CLIP)[..., units] & counts
    np.testing.assert_array_equal(planes_of(meter, observation.mask)[0], wanted)


def test_the_choice_of_units_follows_the_seed():
    [gate] = find_gates(wide_program())
    rows = Rows(6, 0)
    chosen = [choose_units(rows, gate, 37, seed).units for seed in ((0, 0), (0, 0), (1, 0), (0, 1))]
    np.testing.assert_array_equal(chosen[0], chosen[1])
    assert not np.array_equal(chosen[0], chosen[2])
    assert not np.array_equal(chosen[0], chosen[3])
    assert choose_units(rows, gate, 400, (0, 0)) is rows
    assert choose_units(rows, gate, 1, (0, 0)).units.shape == (1,)


@pytest.mark.parametrize("limit", [40, 200])
@pytest.mark.parametrize("padded", [False, True])
def test_the_standard_error_is_that_of_the_sampling(padded, limit):
    samples, tokens, features = 6, 10, 40
    size = tokens * features
    random = np.random.default_rng(7)
    # Units flip at different rates, on many samples or few, like those of a network.
    flipped = random.random((samples, size)) < random.beta(0.5, 2, size)
    counted = None
    if padded:
        lengths = np.array([10, 9, 8, 6, 5, 3])
        counted = np.repeat(np.arange(tokens) < lengths[:, None], features, axis=1)
        flipped &= counted
    [gate] = find_gates(wide_program(size, samples))
    layer = gate.layer(samples, limit)
    estimates, errors = [], []
    for seed in range(300):
        rows = choose_units(Rows(samples, 0, counted=counted), gate, limit, (seed, 0))
        bits = flipped[:, rows.units]
        units = samples * limit if counted is None else rows.counted.sum()
        # Two planes, of which one or both change.
        both = np.concatenate([np.packbits(bits, axis=1), np.packbits(bits & (seed % 2 == 0), axis=1)], axis=1)
        estimates.append(bits.sum() / units)
        [error] = flip_fraction_errors([layer], [rows], both, np.zeros_like(both))
        errors.append(error)
    whole = flipped.sum() / (flipped.size if counted is None else counted.sum())
    deviation = np.std(estimates, ddof=1)
    assert np.mean(estimates) == pytest.approx(whole, abs=4 * deviation / np.sqrt(300))
    assert np.mean(errors) == pytest.approx(deviation, rel=0.15)


def test_no_error_where_every_unit_is_stored():
    layer = Layer("n", "Relu", "relu", "", 16, (0.0,), None)
    mask = np.full((3, 2), 0xA5, np.uint8)
    np.testing.assert_array_equal(flip_fraction_errors([layer], [Rows(3, 0)], mask, ~mask), [0])


# The noise floor


def special_floats(dtype=np.float32):
    """Return normal numbers of every size, powers of two and their neighbours among them."""
    random = np.random.default_rng(0)
    powers = np.exp2(np.arange(-125, 127, dtype=np.float64)).astype(dtype)
    values = np.concatenate([powers, np.nextafter(powers, dtype(0)), np.nextafter(powers, dtype(np.inf))])
    values = np.concatenate([values, random.standard_normal(700).astype(dtype), dtype([1 / 3, 0.1, 1e30, 1e-30])])
    return np.concatenate([values, -values])


def outputs_of(model, device=HOST, **feeds):
    placed = {name: device.place(array) for name, array in feeds.items()}
    return {name: value.numpy() for name, value in device.session(model).run(placed).items()}


def test_every_normal_weight_moves_by_one_unit_in_the_last_place():
    values = special_floats()
    weights = {"w": (2, len(values)), "b": (len(values),), "s": ()}
    made = program("y = Identity(w)\nu = Identity(b)\nt = Identity(s)\nz = Relu(x)", before="", weights=weights)
    model = made.parse_model()
    for node in model.graph:
        if node.op_type == "Identity" and node.outputs[0].name in ("u", "t"):
            model.graph.outputs.append(node.outputs[0])
    assert NudgeWeights(["w", "b", "s"], 3)(model).modified
    feeds = {"w": np.stack([values, values]), "b": values, "s": np.float32(np.array(0.7))}
    outputs = outputs_of(model, x=np.zeros((8, 4), np.float32), **{k: np.asarray(v) for k, v in feeds.items()})
    for name, output in (("w", "y"), ("b", "u"), ("s", "t")):
        given, moved = np.asarray(feeds[name]), outputs[output]
        down, up = (np.nextafter(given, np.float32(end)) for end in (-np.inf, np.inf))
        assert ((moved == down) | (moved == up)).all()
    # Both ways, and not all weights of a unit in the same.
    grown = np.abs(outputs["u"]) > np.abs(values)
    assert 0.4 < grown.mean() < 0.6


def test_nudging_leaves_zero_and_other_types_alone():
    made = program("y = Identity(w)\nz = Relu(x)", before="", weights={"w": (3,)})
    model = made.parse_model()
    NudgeWeights(["w"], 0)(model)
    outputs = outputs_of(model, x=np.zeros((8, 4), np.float32), w=np.zeros(3, np.float32))
    np.testing.assert_array_equal(outputs["y"], np.zeros(3))
    other = program("y = Identity(w)\nz = Relu(x)", before="", dtype="float16", weights={"w": (3,)}).parse_model()
    assert not NudgeWeights(["w"], 0)(other).modified


def test_float64_weights_move_by_one_unit_in_their_last_place():
    values = np.random.default_rng(0).normal(size=1000)
    made = program("y = Identity(w)\nz = Relu(x)", before="", dtype="double", weights={"w": values.shape})
    model = made.parse_model()
    assert NudgeWeights(["w"], 0)(model).modified
    moved = outputs_of(model, x=np.zeros((8, 4)), w=values)["y"]
    assert ((moved == np.nextafter(values, -np.inf)) | (moved == np.nextafter(values, np.inf))).all()


def test_the_noise_floor_of_exact_and_of_close_sums():
    made = wide_program()
    x = np.random.default_rng(1).standard_normal((6, FEATURES)).astype(np.float32)
    apart = {"w": np.random.default_rng(2).standard_normal((FEATURES, 400)).astype(np.float32)}
    meter = meter_of(made, {"x": x}, apart)
    noise = measure_noise(meter, {"x": x}, [apart])
    assert 0 <= noise.ulp < 0.01
    assert noise.threads == 0
    assert np.isnan(noise.device)
    # Every unit is within rounding of its threshold: the last bit of a weight decides.
    balanced = np.tile(np.float32([[1], [-1], [1], [-1]]), (1, 400))
    level = np.full((6, FEATURES), 0.1, np.float32)
    tight = meter_of(made, {"x": level}, {"w": balanced})
    noise = measure_noise(tight, {"x": level}, [{"w": balanced}, apart])
    assert noise.ulp > 0.2
    assert noise.attributes["noise_floor"] == max(noise.ulp, noise.threads)
    assert set(noise.attributes) == {"noise_floor", "noise_floor_ulp", "noise_floor_threads"}


def test_broken_states_have_no_noise_floor():
    x = np.ones((6, FEATURES), np.float32)
    broken = {"w": np.full((FEATURES, 400), np.nan, np.float32)}
    meter = meter_of(wide_program(), {"x": x}, {"w": np.ones((FEATURES, 400), np.float32)})
    assert measure_noise(meter, {"x": x}, [broken]).attributes == {}


# Half-precision states


@pytest.mark.parametrize("device", [HOST, RESIDENT], ids=["host", "resident"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_states_are_widened_in_the_graph(dtype, device):
    x = np.random.default_rng(1).standard_normal((6, FEATURES)).astype(np.float32)
    halves = [{"w": np.random.default_rng(seed).standard_normal((FEATURES, 400)).astype(dtype)} for seed in (2, 3)]
    wide = [{"w": value["w"].astype(np.float32)} for value in halves]
    made = wide_program()
    found, expected = (
        observe(meter_of(made, {"x": x}, states[0], device=device), *states) for states in (halves, wide)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_array_equal(one.flips, other.flips)
        np.testing.assert_allclose(one.weight_delta_l1, other.weight_delta_l1, rtol=1e-7)
        assert one.valid


def test_a_wider_state_after_a_narrow_one_is_refused():
    meter = meter_of(
        wide_program(), {"x": np.ones((6, FEATURES), np.float32)}, {"w": np.ones((FEATURES, 400), np.float16)}
    )
    with pytest.raises(RegimeError, match=r"w is float32, but float16 in the first checkpoint"):
        meter.run({"w": np.ones((FEATURES, 400), np.float32)})


def test_types_that_fit_are_not_cast():
    model = wide_program().parse_model()
    assert not CastWeights({"w": ir.DataType.FLOAT})(model).modified
    assert CastWeights({"w": ir.DataType.BFLOAT16})(model).modified
    assert {value.name: value.dtype for value in model.graph.inputs}["w"] == ir.DataType.BFLOAT16


def test_packed_masks_are_the_same_from_both():
    x = quarters((6, FEATURES), 1)
    weights = {"w": quarters((FEATURES, 400), 2)}
    host, resident = (meter_of(wide_program(), {"x": x}, weights, device=device) for device in (HOST, RESIDENT))
    masks = resident.run(weights)
    assert masks.packed is not None
    np.testing.assert_array_equal(masks.packed, pack_masks(host.run(weights)))
