"""One network with one sequence of weights gives the same masks, the same Δw and the same ρ in every framework."""

import frameworks
import numpy as np
import pytest
from frameworks import CASES, masks, measured

pytestmark = [pytest.mark.libraries, pytest.mark.usefixtures("jax_exports")]

# Of the scale of a layer: within it float32 cannot tell on which side of zero a unit is.
NEAR_ZERO = 1e-5


CASES.append(("mlp", "sklearn"))


@pytest.fixture(scope="module")
def network(request, tmp_path_factory):
    """A network, its states, their pre-activations, and its trajectory from files of torch."""
    layers = frameworks.NETWORKS[request.param]
    states = frameworks.trained(layers)
    activations = [frameworks.pre_activations(layers, state, frameworks.probe(layers)) for state in states]
    folder = tmp_path_factory.mktemp("torch")
    return layers, states, activations, *measured("torch", layers, states, folder)


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
