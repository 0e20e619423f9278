"""Trainings of modules of flax.nnx, and of pairs of a function and its parameters, recorded in the loop."""

import itertools
import time
import warnings

import numpy as np
import pytest
from libraries import needed
from recording import rows

import regime_proto
from regime_proto.adapters.from_jax import adapter as from_jax
from regime_proto.schema import validate
from regime_proto.schema.errors import RegimeError

pytestmark = [pytest.mark.libraries, pytest.mark.usefixtures("jax_exports")]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    needed("jax2onnx")
    import jax
    import jax.numpy as jnp
    import orbax.checkpoint as ocp
    from flax import linen, nnx

    from regime_proto.adapters.from_jax import functions as jax_onnx  # noqa: F401

GENERATOR = np.random.default_rng(0)
INPUTS = GENERATOR.normal(size=(20, 6)).astype("float32")
TARGETS = GENERATOR.normal(size=(20, 2)).astype("float32")
PROBE = INPUTS[:8]
STEPS = 6
COUNT = itertools.count(1)


def net(params, x):
    hidden = jax.nn.relu(x @ params["hidden"]["w"] + params["hidden"]["b"])
    return hidden @ params["out"]["w"]


def begin():
    generator = np.random.default_rng(1)
    return {
        "hidden": {"w": jnp.asarray(generator.normal(size=(6, 9)), "float32"), "b": jnp.zeros(9)},
        "out": {"w": jnp.asarray(generator.normal(size=(9, 2)), "float32")},
    }


def updated(params):
    gradients = jax.grad(lambda params: jnp.square(net(params, INPUTS) - TARGETS).mean())(params)
    return jax.tree.map(lambda value, gradient: value - 0.1 * gradient, params, gradients)


# What goes in is given away, as trainings do to save memory.
update = jax.jit(updated, donate_argnums=0)


class Module(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(6, 9, rngs=rngs)
        self.norm = nnx.BatchNorm(9, rngs=rngs)
        self.drop = nnx.Dropout(0.3, rngs=rngs)
        self.second = nnx.Linear(9, 2, rngs=rngs)

    def __call__(self, x):
        return self.second(self.drop(nnx.relu(self.norm(self.first(x)))))


@nnx.jit
def improve(module):
    def loss(module):
        return jnp.square(module(INPUTS) - TARGETS).mean()

    gradients = nnx.grad(loss)(module)
    nnx.update(module, jax.tree.map(lambda p, g: p - 0.1 * g, nnx.state(module, nnx.Param), gradients))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, train=False):
        x = linen.BatchNorm(use_running_average=not train)(linen.Dense(4)(x))
        return linen.Dense(2)(linen.relu(x))


def bits(tree):
    values = [jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf for leaf in tree]
    return [np.asarray(value).tobytes() for value in values]


def assert_same(live, converted):
    assert not validate(live)
    one, other = rows(live), rows(converted)
    for name in ("step", "valid", "flips", "mask"):
        np.testing.assert_array_equal(one[name], other[name])
    for name in ("weight_delta_l1", "weight_delta_l2", "weight_distance_l2"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6)
    assert one["weight_delta_l1"][1:].all()
    assert one["flips"][1:].any()
    with regime_proto.open_trajectory(live) as ours, regime_proto.open_trajectory(converted) as theirs:
        assert ours["tensor"].values.tolist() == theirs["tensor"].values.tolist()
        assert ours.attrs["source_adapter"] == "jax, live"


def test_a_module_of_nnx_as_its_checkpoints(tmp_path):
    module = Module(nnx.Rngs(0))
    live = tmp_path / "live.h5"
    with (
        ocp.CheckpointManager(tmp_path / "checkpoints") as manager,
        regime_proto.record(module, PROBE, live, distance=True) as recorder,
    ):
        for step in range(STEPS):
            recorder.observe(step, epoch=step / 3, loss=jnp.float32(step))
            manager.save(step, args=ocp.args.StandardSave(nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngState)))))
            improve(module)
    converted = regime_proto.convert(
        tmp_path / "checkpoints", tmp_path / "converted.h5", model=Module(nnx.Rngs(1)), probe=PROBE, distance=True
    )
    assert_same(live, converted)
    np.testing.assert_allclose(rows(live)["epoch"], np.arange(STEPS) / 3)
    with regime_proto.open_trajectory(live) as trajectory:
        assert trajectory["metric_loss"].values.tolist() == list(range(STEPS))

    alone = Module(nnx.Rngs(0))
    for _ in range(STEPS):
        improve(alone)
    # With the states of the random number generators.
    assert bits(jax.tree.leaves(nnx.state(module))) == bits(jax.tree.leaves(nnx.state(alone)))
    assert all(part.deterministic is False for part in (module.drop, alone.drop))


def test_a_pair_as_its_checkpoints(tmp_path):
    params, alone = begin(), begin()
    live, checkpoints = tmp_path / "live.h5", tmp_path / "checkpoints"
    checkpoints.mkdir()
    with regime_proto.record((net, params), PROBE, live, distance=True) as recorder:
        for step in range(STEPS):
            recorder.observe(step, params=params)
            named = {f"{layer}.{name}": value for layer, held in params.items() for name, value in held.items()}
            np.savez(checkpoints / f"step_{step}.npz", **named)
            params, alone = update(params), update(alone)
    options = {"model": (net, begin()), "probe": PROBE, "distance": True}
    converted = regime_proto.convert(checkpoints, tmp_path / "converted.h5", **options)
    assert_same(live, converted)
    assert bits(jax.tree.leaves(params)) == bits(jax.tree.leaves(alone))


@jax.jit
def late(params):
    """Give parameters back as they are, some time after the call has returned."""
    waste = jax.lax.fori_loop(0, 60, lambda _, value: jax.numpy.tanh(value @ value), jax.numpy.ones((400, 400)))
    return jax.tree.map(lambda value: value + 0 * waste[0, 0], params)


def test_what_the_training_left_to_compute_is_not_the_time_of_observing(tmp_path):
    params = late(begin())
    with regime_proto.record((net, params), PROBE, tmp_path / "run.h5", every="50%") as recorder:
        recorder.observe(0, params=jax.block_until_ready(params))
        begun = time.perf_counter()
        for step in range(1, 17):
            params = late(params)
            recorder.observe(step, params=params)
        taken = time.perf_counter() - begun
        assert taken > 0.2
        assert recorder.status().observing_share < 0.5


def test_parameters_that_are_given_away_in_between(tmp_path):
    """Neither those of the begin, nor the last that were observed, are there at the end."""
    params = begin()
    with regime_proto.record((net, params), PROBE, tmp_path / "run.h5", every=2) as recorder:
        for step in range(STEPS):
            recorder.observe(step, params=params)
            before, params = params, update(params)
        with pytest.raises(RegimeError, match=r"params: hidden\.b was donated .*donate_argnums"):
            recorder.observe(STEPS, params=before)
    assert rows(tmp_path / "run.h5")["step"].tolist() == [0, 2, 4]


def test_variables_of_linen(tmp_path):
    model = Linen()
    variables = model.init(jax.random.key(0), PROBE)
    with regime_proto.record((model.apply, variables), PROBE, tmp_path / "run.h5") as recorder:
        for step in range(3):
            recorder.observe(step, params=variables)
            moved = jax.tree.map(lambda value: value + 0.1, variables["params"])
            statistics = model.apply(variables, INPUTS, train=True, mutable=["batch_stats"])[1]
            variables = {"params": moved, **statistics}
        with pytest.raises(RegimeError, match=r"params: lacks batch_stats\.BatchNorm_0\.mean, .*pass the whole tree"):
            recorder.observe(3, params={"params": variables["params"]})
    found = rows(tmp_path / "run.h5")
    assert found["weight_delta_l1"][1:].all()
    assert found["flips"][1:].any()


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    with regime_proto.record((net, begin()), PROBE, tmp_path_factory.mktemp("pair") / "run.h5") as recorder:
        yield recorder


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (None, r"step \d: pass the current parameters with params=…"),
        ({"hidden": begin()["hidden"]}, r"params: lacks out\.w, which existed when the recorder was created"),
        ({**begin(), "more": {"w": jnp.ones(2)}}, r"params: has more\.w, which did not exist"),
        (
            {**begin(), "out": {"w": jnp.ones((9, 3))}},
            r"params: out\.w is float32\[9, 3\]; expected float32\[9, 2\], as when the recorder was created",
        ),
        ({**begin(), "out": {"w": jnp.ones((9, 2), "bfloat16")}}, r"params: out\.w is bfloat16\[9, 2\]; expected"),
        (7, r"params: lacks hidden\.b, hidden\.w, out\.w, which"),
    ],
)
def test_parameters_that_are_not_those_of_the_pair(params, message, recorder):
    with pytest.raises(RegimeError, match=message) as raised:
        recorder.observe(next(COUNT), params=params)
    assert "\n" not in str(raised.value)


def test_a_module_holds_its_parameters_itself(tmp_path):
    module = Module(nnx.Rngs(0))
    recorder = regime_proto.record(module, PROBE, tmp_path / "run.h5")
    with pytest.raises(RegimeError, match="this model holds its own parameters; leave params out"):
        recorder.observe(0, params=nnx.state(module))
    module.second = nnx.Linear(9, 3, rngs=nnx.Rngs(0))
    with pytest.raises(RegimeError, match=r"Module: second\.bias is float32\[3\]; expected float32\[2\]"):
        recorder.observe(1)
    recorder.abandon()


def test_a_pair_goes_on_where_it_stopped(tmp_path):
    params, path = begin(), tmp_path / "run.h5"
    with regime_proto.record((net, params), PROBE, path) as recorder:
        for step in range(4):
            recorder.observe(step, params=params)
            kept, params = jax.tree.map(jnp.copy, params), update(params)
    with regime_proto.record((net, kept), PROBE, path, resume=3) as recorder:
        params = kept
        for step in range(4, 7):
            params = update(params)
            recorder.observe(step, params=params)
    found = rows(path)
    assert found["step"].tolist() == list(range(7))
    assert found["valid"].all()
    assert found["weight_delta_l1"][1:].all()


def test_what_is_nearly_a_model_is_told_apart(tmp_path):
    with pytest.raises(RegimeError, match=r"a flax\.linen module holds no parameters"):
        regime_proto.record(Linen(), PROBE, tmp_path / "run.h5")


def with_many(params, *inputs):
    return net(params, *inputs)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ((net, {}), ("x",)),
        (Module(nnx.Rngs(0)), ("x",)),
        ((Linen().apply, {}), ("x",)),
        ((with_many, {}), None),
    ],
)
def test_a_probe_is_drawn(model, names):
    """In the type in which JAX computes, whatever that of the data is."""
    drawn = from_jax.draw(model, [(INPUTS.astype("float64"), TARGETS)], 6, 0)
    assert drawn.names == names
    assert len(drawn.arrays) == 1
    np.testing.assert_array_equal(drawn.arrays[0], INPUTS[:6])
    assert drawn.arrays[0].dtype == np.float32


def test_a_drawn_probe_is_recorded(tmp_path):
    params = begin()
    batches = [(INPUTS[:10], TARGETS[:10]), (INPUTS[10:], TARGETS[10:])]
    with regime_proto.record(
        (with_many, params), "auto", tmp_path / "run.h5", loader=batches, batch_size=60
    ) as recorder:
        recorder.observe(0, params=params)
    assert rows(tmp_path / "run.h5")["mask"].shape[1] == 12
