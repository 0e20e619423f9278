"""Every spelling of a gate against its definition, bit for bit; what is no gate; and the choice among them."""

import math

import numpy as np
import pytest
from graphs import (
    FEATURES,
    SAMPLES,
    TYPES,
    UNITS,
    above,
    flips,
    meter_of,
    observe,
    planes_of,
    program,
    quarters,
)  # fmt: skip
from spellings import EVERY, ORDERS, PIECEWISE, SMOOTH, ZERO

from regime_proto.program.gates import find_gates, select_gates
from regime_proto.schema.errors import RegimeError

# These differ from others in the order of what is the same, which is read alike in every type and of every number.
MIRRORED = {
    "sigmoid(x) x", "log(exp(x) + 1)", "Max of 0 and x", "Max of ConstantOfShape", "Min of Clip", "Max of Min",
    "leaky sum of Max", "Where <", "Where <=", "Where 0 <", "Where 0 >=", "Where not", "Where <= c", "Where < c",
    "Where c >", "Where c <=", "leaky Where, divided", "product of the mask", "tanh, product first",
    *(f"{factor}, {order}" for factor in ("erf", "tanh") for order in list(ORDERS)[1:]),
}  # fmt: skip
FIRST_OF_EACH = [pytest.param(name, marks=[pytest.mark.slow] if name in MIRRORED else []) for name in EVERY]


def data(dtype="float"):
    x = quarters((SAMPLES, FEATURES), 1, TYPES[dtype], 6)
    x[0] = 0
    return x, [quarters((FEATURES, UNITS), seed, TYPES[dtype], 6) for seed in (2, 3, 4)]


def check(made, thresholds, x, states, *patterns, z=np.matmul):
    """Compare masks, flips and validity with the definition; return the gate."""
    found = [gate for gate in find_gates(made) if not gate.nested]
    [gate] = [gate for gate in found if gate.trackable]
    assert len(gate.planes) == len(thresholds)
    meter = meter_of(made, {"x": x}, {"w": states[0]}, *patterns)
    expected = [above(z(x, w), thresholds) for w in states]
    before = expected[0]
    for observation, wanted in zip(observe(meter, *({"w": w} for w in states)), expected, strict=True):
        [planes] = planes_of(meter, observation.mask)
        np.testing.assert_array_equal(planes, wanted)
        np.testing.assert_array_equal(observation.flips, [flips(before, wanted)])
        assert observation.valid
        before = wanted
    return gate


@pytest.mark.parametrize("name", PIECEWISE)
def test_piecewise_gates(name):
    body, thresholds = PIECEWISE[name]
    x, states = data()
    gate = check(program(body), thresholds, x, states)
    assert gate.default
    assert gate.kind == ("relu" if name == "Relu" else "piecewise")
    assert len(find_gates(program(body))) == 1


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_gates_are_tracked_on_request(name):
    body, thresholds, op = SMOOTH[name]
    made = program(body)
    x, states = data()
    gate = check(made, thresholds, x, states, f"op:{op}")
    assert (gate.op, gate.kind, gate.default) == (op, "smooth", False)
    [only] = find_gates(made)
    assert "kind:smooth" in only.reason
    with pytest.raises(RegimeError, match=r"is left to track.*kind:smooth"):
        select_gates([only])


def test_a_slope_that_is_a_weight():
    made = program("y = PRelu(z, a)", weights={"w": (FEATURES, UNITS), "a": (UNITS,)})
    x, (w, *_) = data()
    meter = meter_of(made, {"x": x}, {"w": w, "a": np.ones(UNITS, np.float32)})
    [observation] = observe(meter, {"w": w, "a": np.full(UNITS, -2, np.float32)})
    np.testing.assert_array_equal(planes_of(meter, observation.mask)[0], above(x @ w, ZERO))
    assert [gate.op for gate in meter.session.gates] == ["PRelu"]


@pytest.mark.parametrize(
    ("attributes", "thresholds"),
    [
        ("min = 0.0", ZERO),
        ("min = 0.0, max = 6.0", [(0, False), (6, True)]),
        ("min = -1.0, max = 1.0", [(-1, False), (1, True)]),
        ("min = -3.4028234e38, max = 0.0", [(0, True)]),
        ("min = 0.0, max = 3.4028234e38", ZERO),
    ],
)
def test_clip_of_old_operator_sets(attributes, thresholds):
    x, states = data()
    check(program(f"y = Clip<{attributes}>(z)", opset=10), thresholds, x, states)


@pytest.mark.parametrize("opset", [10, 13, 18, 21])
def test_operator_sets(opset):
    x, states = data()
    check(program("y = Relu(z)", opset=opset), ZERO, x, states)


def test_swish_of_the_newest_operator_set():
    made = program("y = Swish(z)", opset=24)
    assert [(gate.op, gate.kind) for gate in find_gates(made)] == [("Silu", "smooth")]


@pytest.mark.parametrize("dtype", ["float16", "double"])
@pytest.mark.parametrize("name", FIRST_OF_EACH)
def test_other_precisions(name, dtype):
    body, thresholds = EVERY[name]
    x, states = data(dtype)
    gates = find_gates(program(body, dtype=dtype))
    check(program(body, dtype=dtype), thresholds, x, states, f"op:{gates[0].op}")


def test_no_bound_in_float16():
    x, states = data("float16")
    check(program("y = Clip(z, k(0), k(65504))", dtype="float16"), ZERO, x, states)


def test_a_convolution_before_the_gate():
    shape = {"x": (SAMPLES, 2, 5, 5)}
    weights = {"w": (3, 2, 3, 3)}
    made = program("y = Clip(z, k(0), k(6))", inputs=shape, weights=weights, before="z = Conv(x, w)")
    x = quarters(shape["x"], 1)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))

    def convolved(_, w):
        return np.einsum("sihwkl,oikl->sohw", windows, w)

    states = [quarters(weights["w"], seed) for seed in (2, 3)]
    check(made, [(0, False), (6, True)], x, states, z=convolved)


def around(*thresholds):
    """Return the thresholds, their neighbours, and both zeros, as float32."""
    at = np.array([*thresholds, 0.0, -0.0, 1e-45, -1e-45, 1e30, -1e30], np.float32)
    return np.unique(np.concatenate([at, np.nextafter(at, np.float32(np.inf)), np.nextafter(at, np.float32(-np.inf))]))


@pytest.mark.parametrize("name", EVERY)
def test_at_the_thresholds_and_beside_them(name):
    body, thresholds = EVERY[name]
    values = around(*(at for at, _ in thresholds))
    x = np.tile(np.concatenate([values, np.float32([0.0, -0.0])]), (SAMPLES, 1))
    weights = {"w": (x.shape[1],)}
    made = program(body, inputs={"x": x.shape}, weights=weights, before="z = Mul(x, w)")
    states = [np.ones(x.shape[1], np.float32), -np.ones(x.shape[1], np.float32)]
    op = find_gates(made)[0].op
    check(made, thresholds, x, states, f"op:{op}", z=np.multiply)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", FIRST_OF_EACH)
def test_nan_reads_inactive_and_makes_the_observation_invalid(name, bad):
    body, thresholds = EVERY[name]
    x = np.ones((SAMPLES, UNITS), np.float32)
    made = program(body, inputs={"x": x.shape}, weights={"w": (UNITS,)}, before="z = Mul(x, w)")
    good, broken = np.ones(UNITS, np.float32), np.ones(UNITS, np.float32)
    # A product that overflows, of finite weights: what breaks is the activation alone.
    x[2, 3] = 3e38
    broken[3] = math.copysign(3e38, bad)
    if np.isnan(bad):
        x[2, 3], broken[3] = np.inf, 0
    with np.errstate(over="ignore", invalid="ignore"):
        z = x * broken
    assert np.isnan(z[2, 3]) if np.isnan(bad) else z[2, 3] == bad
    meter = meter_of(made, {"x": x}, {"w": good}, f"op:{find_gates(made)[0].op}")
    [observation] = observe(meter, {"w": broken})
    np.testing.assert_array_equal(planes_of(meter, observation.mask)[0], above(z, thresholds))
    if not np.isnan(bad):
        assert observe(meter, {"w": good})[0].valid
    # A Relu is read off its output, which is 0 there.
    assert observation.valid == (name == "Relu" and bad == -np.inf)


@pytest.mark.parametrize(
    ("before", "shape", "weight"),
    [
        ("z = Gemm(x, w)", (SAMPLES, FEATURES), (FEATURES, UNITS)),
        ("z = MatMul(x, w)", (SAMPLES, FEATURES), (FEATURES, UNITS)),
        ("z = Conv(x, w)", (SAMPLES, 2, 5, 5), (3, 2, 3, 3)),
    ],
)
def test_nan_shows_through_a_relu_that_the_runtime_fuses(before, shape, weight):
    made = program("y = Relu(z)", inputs={"x": shape}, weights={"w": weight}, before=before)
    x, w = np.ones(shape, np.float32), np.ones(weight, np.float32)
    meter = meter_of(made, {"x": x}, {"w": w})
    assert observe(meter, {"w": w})[0].valid
    x[3].flat[0] = np.nan
    broken = meter_of(made, {"x": x}, {"w": w})
    [observation] = observe(broken, {"w": w})
    assert not observation.valid
    # A convolution has units that do not see the first pixel.
    [[plane]] = planes_of(broken, observation.mask)
    assert not plane[3, 0]
    assert plane[:3].all()


NOT_GATES = {
    "softmax": "y = Softmax(z)",
    "sigmoid": "y = Sigmoid(z)",
    "tanh": "y = Tanh(z)",
    "GLU": "a, b = Split<axis = 1, num_outputs = 2>(z)\ns = Sigmoid(b)\ny = Mul(a, s)",
    "gated product": "a, b = Split<axis = 1, num_outputs = 2>(z)\nt = Tanh(a)\ns = Sigmoid(b)\ny = Mul(t, s)",
    "squeeze and excite": "p = MatMul(z, v)\ns = Sigmoid(p)\ny = Mul(z, s)",
    "squeeze and excite, hard product": "p = MatMul(z, v)\nt = Tanh(p)\ny = Mul(z, t)",
    "attention mask": "c = Greater(v, k(0))\ns = MatMul(z, v)\nb = Cast<to = 9>(x)\ny = Where(c, s, k(-inf))",
    "cut off at a value": "c = Less(z, k(0.5))\ny = Where(c, k(-inf), z)",
    "index arithmetic": (
        "i = Cast<to = 7>(z)\nn = Constant<value_int = 0>()\nm = Max(i, n)\nc = Greater(m, n)\nv1 = Where(c, m, n)\n"
        "d = Clip(v1, n)\ny = Cast<to = 1>(d)"
    ),
    "x tanh(x)": "t = Tanh(z)\ny = Mul(z, t)",
    "x squared": "y = Mul(z, z)",
    "a maximum of two activations": "a = Tanh(z)\ny = Max(z, a)",
    "a maximum of three": "a = Tanh(z)\ny = Max(z, a, k(0))",
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_GATES)
def test_what_is_no_gate(name):
    units = 10
    made = program(NOT_GATES[name] + "\nr = Relu(z)", weights={"w": (FEATURES, units), "v": (units, units)})
    assert [gate.op for gate in find_gates(made)] == ["Relu"]


@pytest.mark.parametrize(
    "body",
    [
        "n = ReduceL2<keepdims = 1>(z)\nm = Clip(n, k(1e-12))\ny = Div(z, m)",
        "n = ReduceL2<keepdims = 1>(z)\nm = Max(n, k(1e-12))\ny = Div(z, m)",
        "m = Clip(z, , k(50))\ny = Exp(m)",
        "c = Less(z, k(0.125))\ny = Where(c, k(0.125), z)",
    ],
)
def test_guards_are_listed_and_not_tracked(body):
    gate, relu = find_gates(program(body + "\nr = Relu(z)"))
    assert (gate.default, relu.default) == (False, True)
    assert "one bound" in gate.reason
    assert "more often a guard" in gate.reason
    assert select_gates([gate, relu]) == (relu,)
    assert select_gates([gate, relu], [gate.node]) == (gate,)


def test_bounds_that_are_weights():
    made = program("y = Clip(z, b)", weights={"w": (FEATURES, UNITS), "b": ()})
    [gate] = find_gates(made)
    assert not gate.trackable
    assert gate.reason == "its bounds are not constant"


def test_a_fused_bias():
    made = program("y = com.microsoft.FastGelu(z, b)", weights={"w": (FEATURES, UNITS), "b": (UNITS,)})
    [gate] = find_gates(made)
    assert not gate.trackable
    assert "its bias is fused into it" in gate.reason


def test_gates_that_do_not_depend_on_the_probe():
    body = "a = Relu(w)\ns = Shape(x)\nf = Cast<to = 1>(s)\nb = Relu(f)\nr = MatMul(x, a)\ny = Relu(r)"
    gates = find_gates(program(body))
    assert [gate.trackable for gate in gates] == [False, False, True]
    assert [gate.reason for gate in gates[:2]] == 2 * ["it does not depend on the probe"]


def test_the_parts_of_a_constant_are_no_part_of_the_gate():
    # The zeros take their shape from what comes out of another gate.
    body = "r = Relu(z)\nh = MatMul(r, v)\ns = Shape(r)\nn = Expand(k(0), s)\nc = Greater(h, k(0))\ny = Where(c, h, n)"
    gates = find_gates(program(body, weights={"w": (FEATURES, UNITS), "v": (UNITS, UNITS)}))
    assert [gate.op for gate in gates] == ["Relu", "Where"]


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        ("r = Relu(z)\nm = Min(r, k(6))\ny = Add(r, m)", ["Relu", "Clip"]),
        ("r = Relu(z)\nm = Min(r, k(6))\ny = Add(m, m)", ["Clip"]),
        ("p = Softplus(z)\nt = Tanh(p)\nm = Mul(z, t)\ny = Add(m, p)", ["Softplus", "Mish"]),
        ("r = Relu(z)\nm = Max(r, k(1e-6))\ny = Log(m)", ["Relu", "Max"]),
    ],
)
def test_a_part_of_a_gate_that_is_used_by_itself_is_a_gate(body, ops):
    assert [gate.op for gate in find_gates(program(body))] == ops


def test_a_unit_of_two_planes_flips_once():
    x = np.full((SAMPLES, UNITS), 10, np.float32)
    made = program("y = Clip(z, k(0), k(6))", inputs={"x": x.shape}, weights={"w": (UNITS,)}, before="z = Mul(x, w)")
    meter = meter_of(made, {"x": x}, {"w": np.ones(UNITS, np.float32)})
    _, second = observe(meter, {"w": -np.ones(UNITS, np.float32)}, {"w": np.ones(UNITS, np.float32)})
    np.testing.assert_array_equal(second.flips, np.full((1, SAMPLES), UNITS))


# Selection

SEVERAL = """
r = Relu(z)
a = MatMul(r, v)
b = LeakyRelu(a)
c = MatMul(b, v)
d = Gelu(c)
f = Relu(w)
t = Tanh(d)
y = Add(t, f)
"""


@pytest.fixture(scope="module")
def several():
    made = program(SEVERAL, inputs={"x": (UNITS, UNITS)}, weights={"w": (UNITS, UNITS), "v": (UNITS, UNITS)})
    nodes = {node.name: node for node in made.model.graph}
    gates = find_gates(made)
    assert {gate.node for gate in gates} <= set(nodes)
    return tuple(
        type(gate)(**{**vars(gate), "path": path})
        for gate, path in zip(gates, ["enc.0.act", "enc.1.act", "dec.0.act", "dec.1.act"], strict=True)
    )


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        ([], [0, 1]),
        (["enc.*"], [0, 1]),
        (["*.0.act"], [0, 2]),
        (["op:relu"], [0]),
        (["op:RELU"], [0]),
        (["op:*relu"], [0, 1]),
        (["kind:smooth"], [2]),
        (["KIND:smooth", "op:relu"], None),
        (["kind:*"], [0, 1, 2]),
        (["*"], [0, 1, 2]),
        (["!enc.0.*"], [1]),
        (["!op:leakyrelu"], [0]),
        (["*", "!kind:smooth", "!enc.0.act"], [1]),
        (["!enc.0.act", "enc.*"], [1]),
        (["enc.0.act", "kind:smooth"], [0, 2]),
        (["node_LeakyRelu"], [1]),
        (["node_*elu"], [0, 1, 2]),
    ],
)
def test_selection(several, patterns, chosen):
    if chosen is None:
        with pytest.raises(RegimeError, match=r"--gates 'KIND:smooth' matches no gate"):
            select_gates(several, patterns)
    else:
        assert select_gates(several, patterns) == tuple(several[index] for index in chosen)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["op:elu"], r"--gates 'op:elu' matches no gate; expected kind:.*op:LeakyRelu.*regime inspect lists them"),
        (["!nothing"], r"--gates 'nothing' matches no gate"),
        (["enc.*", "ENC.*"], r"--gates 'ENC.\*' matches no gate"),
        (["dec.1.act"], r"--gates 'dec.1.act': .* cannot be tracked: it does not depend on the probe"),
        (["enc.*", "!*.act"], r"none of the 4 gates in the graph is left to track: .* \(Relu\): excluded"),
        (["!enc.*"], r"none of the 4 gates in the graph is left to track"),
    ],
)
def test_selections_that_are_errors(several, patterns, message):
    with pytest.raises(RegimeError, match=message):
        select_gates(several, patterns)
