"""Modules of flax.nnx, and functions of JAX with their parameters, become programs."""

import warnings

import bare
import numpy as np
import pytest
from libraries import load_exporter, needed

from regime_proto.adapters.from_jax import adapter as from_jax
from regime_proto.conversion.plan import write_program
from regime_proto.program.gates import find_gates
from regime_proto.program.probe import ProbeError, as_probe
from regime_proto.schema.errors import RegimeError

pytestmark = pytest.mark.libraries
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    needed("jax2onnx")
    import jax
    import jax.numpy as jnp
    from flax import linen, nnx

    from regime_proto.adapters.from_jax import functions as jax_onnx

GENERATOR = np.random.default_rng(0)
PROBE = GENERATOR.normal(size=(5, 7)).astype("float32")
IMAGES = GENERATOR.normal(size=(5, 8, 8, 1)).astype("float32")
PARAMS = {
    "hidden": {"w": GENERATOR.normal(size=(7, 4)).astype("float32"), "b": np.zeros(4, "float32")},
    "out": {"w": np.ones((4, 2), "float32")},
}


@pytest.fixture(autouse=True, scope="module")
def exporter():
    """The exporter at work: it imports its many parts before the first model."""
    load_exporter()


# Some models import these by themselves: no replacement of jax.nn.relu reaches them.
from jax.nn import elu, gelu, hard_silu, leaky_relu, relu, relu6, selu, silu, softplus  # noqa: E402


def program(model, probe=PROBE):
    return from_jax.export(model, as_probe(probe))


def gates(model, probe=PROBE):
    return [
        (gate.op, [plane.threshold for plane in gate.planes], gate.kind, gate.path)
        for gate in find_gates(program(model, probe))
    ]


def net_with(activation):
    def net(params, x):
        hidden = activation(x @ params["hidden"]["w"] + params["hidden"]["b"])
        return hidden @ params["out"]["w"]

    return net, PARAMS


class Module(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(64, 6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)])

    def __call__(self, image):
        hidden = nnx.relu(self.norm(self.conv(image)))
        hidden = nnx.max_pool(hidden, (2, 2), strides=(2, 2)).reshape(len(image), -1)
        return self.blocks[1](self.drop(nnx.leaky_relu(self.blocks[0](hidden))))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, train=False):
        x = linen.BatchNorm(use_running_average=not train)(linen.Dense(4)(x))
        return linen.Dense(2)(linen.relu(x))


def variables(make=Linen):
    return make().init(jax.random.key(0), jnp.asarray(PROBE))


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (relu, ("Relu", [0], "relu")),
        (jax.nn.relu, ("Relu", [0], "relu")),
        (lambda x: jnp.maximum(x, 0), ("Max", [0], "piecewise")),
        (lambda x: jnp.where(x > 0, x, 0), ("Where", [0], "piecewise")),
        (lambda x: x * (x > 0), ("Mul", [0], "piecewise")),
        (lambda x: jnp.where(x >= 0, x, 0.2 * x), ("Where", [0], "piecewise")),
        (relu6, ("Clip", [0, 6], "piecewise")),
        (lambda x: jnp.clip(x, 0, 6), ("Clip", [0, 6], "piecewise")),
        (leaky_relu, ("LeakyRelu", [0], "piecewise")),
        (lambda x: leaky_relu(x, 0.3), ("LeakyRelu", [0], "piecewise")),
        (elu, ("Elu", [0], "smooth")),
        (selu, ("Selu", [0], "smooth")),
        (silu, ("Silu", [0], "smooth")),
        (gelu, ("Gelu", [0], "smooth")),
        (softplus, ("Softplus", [0], "smooth")),
        (hard_silu, ("HardSwish", [-3, 3], "smooth")),
        (jax.jit(lambda x: jax.checkpoint(relu)(x)), ("Relu", [0], "relu")),
    ],
)
def test_each_activation_is_one_gate(activation, expected):
    assert gates(net_with(activation)) == [(*expected, "hidden")]


def test_a_module_of_nnx():
    found = program(Module(nnx.Rngs(0)), IMAGES)
    assert {tensor.name: tensor.trainable for tensor in found.tensors} == {
        "blocks.0.bias": True,
        "blocks.0.kernel": True,
        "blocks.1.bias": True,
        "blocks.1.kernel": True,
        "conv.bias": True,
        "conv.kernel": True,
        "norm.bias": True,
        "norm.mean": False,
        "norm.scale": True,
        "norm.var": False,
    }
    assert list(found.inputs) == ["image"]
    assert set(found.framework) == {"jax", "jax2onnx", "flax"}
    assert [(gate.op, gate.path) for gate in find_gates(found)] == [("Relu", "norm"), ("LeakyRelu", "blocks.0")]


def test_a_module_is_left_as_it_was():
    module = Module(nnx.Rngs(0))
    module.train()
    before = jax.tree.map(np.asarray, nnx.state(module, nnx.Param, nnx.BatchStat))
    program(module, IMAGES)
    assert not module.drop.deterministic
    assert not module.norm.use_running_average
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(module, nnx.Param, nnx.BatchStat))


def test_variables_of_linen():
    found = program((Linen().apply, variables()))
    trainable = {tensor.name: tensor.trainable for tensor in found.tensors}
    assert trainable["params.Dense_0.kernel"]
    assert trainable["params.BatchNorm_0.scale"]
    assert not trainable["batch_stats.BatchNorm_0.var"]
    assert [gate.path for gate in find_gates(found)] == ["BatchNorm_0"]
    named = program((Linen().apply, variables()), {"x": PROBE})
    assert list(named.inputs) == ["x"]


def test_lists_of_layers():
    layers = [(np.ones((7, 4), "float32"), np.ones(4, "float32")), (np.ones((4, 2), "float32"), np.ones(2, "float32"))]

    def net(layers, x):
        for weight, bias in layers[:-1]:
            x = jnp.maximum(x @ weight + bias, 0)
        return x @ layers[-1][0] + layers[-1][1]

    assert [tensor.name for tensor in program((net, layers)).tensors] == ["0.0", "0.1", "1.0", "1.1"]


def test_weights_are_inputs_and_nothing_of_them_stays():
    first = program(net_with(relu))
    other = jax.tree.map(lambda array: array + 1, PARAMS)
    assert first.sha256 == program((net_with(relu)[0], other)).sha256
    assert set(first.weight_inputs) == {"hidden.w", "hidden.b", "out.w"}


def test_a_program_that_computes_something_else_is_refused(monkeypatch):
    """As when an exporter folds a weight: the graph is right for the weights at hand only."""
    whole = jax_onnx._graph

    def folded(route, arrays):
        constants = dict(arrays)
        order = list(arrays)

        def function(*values):
            given = dict(zip(order, values, strict=True))
            return route(*({**given, "hidden.b": jnp.asarray(constants["hidden.b"])}[name] for name in order))

        return whole(function, arrays)

    monkeypatch.setattr(jax_onnx, "_graph", folded)
    with pytest.raises(RegimeError, match="computes different outputs"):
        program(net_with(relu))


@pytest.mark.parametrize(
    ("model", "probe", "error", "message"),
    [
        (net_with(relu), PROBE[:, :6], RegimeError, r"net: the model fails on the probe \(x: float32\[5, 6\]\)"),
        (
            net_with(relu),
            PROBE.astype("float64"),
            ProbeError,
            r"x is float64, in which .*astype\('float32'\)$",
        ),
        (net_with(relu), PROBE.astype("int64").clip(0), ProbeError, r"astype\('float32'\), or array.astype\('int32'\)"),
        (
            (lambda p, x: jax.nn.relu(x * p["n"]), {"n": np.ones(7, "int32")}),
            PROBE,
            RegimeError,
            "no model weights",
        ),
        ((lambda p, x: x, {"ema_params": PARAMS, "params": PARAMS}), PROBE, RegimeError, "rename it, or leave it out"),
        ((lambda p, x: jnp.linalg.svd(x * p["w"])[0], {"w": np.ones(7, "f4")}), PROBE, RegimeError, "cannot export"),
    ],
)
def test_what_cannot_be_exported(model, probe, error, message):
    with pytest.raises(error, match=message) as raised:
        program(model, probe)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ((PARAMS, net_with(relu)[0]), "the function must come first"),
        (Linen(), r"return the pair \(net.apply, net.init\(key, x\)\)"),
        ((Linen().apply, {"Dense_0": {"kernel": np.ones((7, 4), "f4")}}), "expects the dict that init returns"),
    ],
)
def test_what_is_nearly_a_model_is_told_apart(model, message):
    assert from_jax.accepts(model)
    with pytest.raises(RegimeError, match=message):
        program(model)


@pytest.mark.parametrize(
    "model", [("text", {}), (len, "text"), (len,), (len, {}, {}), {"params": PARAMS}, [len, {}], None]
)
def test_other_values_are_no_models_of_jax(model):
    assert not from_jax.accepts(model)


def test_programs_run_without_jax(tmp_path):
    write_program(tmp_path, model=net_with(relu), probe=PROBE)
    code = f"""
import numpy as np
import warnings
from pathlib import Path
import regime_proto
warnings.simplefilter("ignore")
folder = Path({str(tmp_path)!r})
for step in range(3):
    arrays = {{"hidden/w": np.full((7, 4), step, "f4"), "hidden/b": np.ones(4, "f4"), "out/w": np.ones((4, 2), "f4")}}
    np.savez(folder / f"step_{{step}}.npz", **arrays)
regime_proto.convert(folder, folder.parent / "run.h5")
"""
    done = bare.run(code, without=["jax", "jaxlib", "flax", "jax2onnx", "torch"])
    assert done.returncode == 0, done.stderr
