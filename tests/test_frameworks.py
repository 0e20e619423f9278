"""One network with one sequence of weights gives the same masks, the same Δw and the same ρ in every framework."""

import warnings

import frameworks
import numpy as np
import pytest
from libraries import needed

import regime_proto

pytestmark = [pytest.mark.libraries, pytest.mark.usefixtures("jax_exports")]

LIBRARIES = {"keras": ("keras", "jax2onnx"), "flax": ("flax", "orbax.checkpoint"), "sklearn": ("skops", "skl2onnx")}
# Of the scale of a layer: within it float32 cannot tell on which side of zero a unit is.
NEAR_ZERO = 1e-5


# scikit-learn has fully connected networks without normalisation only.
CASES = [(network, framework) for network in frameworks.NETWORKS for framework in ("keras", "flax", "numpy")]
CASES.append(("mlp", "sklearn"))


@pytest.fixture(scope="module")
def network(request, tmp_path_factory):
    """A network, its states, their pre-activations, and its trajectory from files of torch."""
    layers = frameworks.NETWORKS[request.param]
    states = frameworks.trained(layers)
    activations = [frameworks.pre_activations(layers, state, frameworks.probe(layers)) for state in states]
    folder = tmp_path_factory.mktemp("torch")
    return layers, states, activations, *measured("torch", layers, states, folder)


def measured(framework, layers, states, folder):
    """Return the trajectory of states that a framework wrote, and its result."""
    for name in LIBRARIES.get(framework, ()):
        needed(name)
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir()
    with warnings.catch_warnings():
        # Of the libraries, on each other.
        warnings.simplefilter("ignore")
        model = frameworks.WRITERS[framework](checkpoints, layers, states)
    probe = frameworks.probe(layers)
    given = frameworks.channels_first(probe) if framework == "torch" else probe
    path = regime_proto.convert(checkpoints, folder / "run.h5", model=model, probe=given)
    with regime_proto.open_trajectory(path) as trajectory:
        return trajectory.load(), regime_proto.analyze(path, resamples=0)


def masks(trajectory, layers, framework):
    """Return the masks of every layer, (step, sample, unit), the units in the layout of JAX."""
    found = []
    spans = zip(
        *(trajectory[name].values for name in ("layer_byte_start", "layer_byte_stop", "layer_size")), strict=True
    )
    for (start, stop, size), channels in zip(spans, channels_of(layers), strict=True):
        bits = np.unpackbits(trajectory["mask"].values[:, :, start:stop], axis=2)[:, :, :size]
        if framework == "torch" and channels:
            side = int((size // channels) ** 0.5)
            bits = bits.reshape(*bits.shape[:2], channels, side, side).transpose(0, 1, 3, 4, 2).reshape(bits.shape)
        found.append(bits.astype(bool))
    return found


def channels_of(layers):
    """Return the channels that go into each ReLU, 0 where these are no images."""
    last, found = 0, []
    for kind, *sizes in layers:
        last = sizes[1] if kind == "conv" else 0 if kind == "dense" else last
        if kind == "relu":
            found.append(last)
    return found


@pytest.mark.parametrize(("network", "framework"), CASES, indirect=["network"])
def test_a_framework_measures_as_torch_does(framework, network, tmp_path):
    layers, states, activations, expected, reference = network
    found, result = measured(framework, layers, states, tmp_path)

    assert found["step"].values.tolist() == expected["step"].values.tolist()
    differing = 0
    for layer, (ours, theirs) in enumerate(
        zip(masks(found, layers, framework), masks(expected, layers, "torch"), strict=True)
    ):
        values = np.stack([activation[layer] for activation in activations])
        assert ours.shape == values.shape
        assert ours.any()
        assert not ours.all()
        near = np.abs(values) < NEAR_ZERO * np.abs(values).mean()
        differing += (ours != theirs).sum()
        np.testing.assert_array_equal(ours[~near], theirs[~near])
        np.testing.assert_array_equal(ours[~near], (values > 0)[~near])
    assert (np.abs(expected["flips"].values.astype(int) - found["flips"].values).sum()) <= 2 * differing

    sizes = {"found": found["tensor_size"].sum(), "expected": expected["tensor_size"].sum()}
    assert sizes["found"] == sizes["expected"]
    for variable in ("weight_delta_l1", "weight_delta_l2"):
        power = 1 if variable.endswith("l1") else 2
        sums = [(one[variable].values[1:] ** power).sum(axis=1) for one in (found, expected)]
        np.testing.assert_allclose(*sums, rtol=1e-7)
    assert (found["flips"].values[1:].sum(axis=(1, 2)) > 0).all()
    assert result.rho == pytest.approx(reference.rho, rel=1e-6 if not differing else 1e-2)
    assert result.auc_w == pytest.approx(reference.auc_w, rel=1e-7)
