"""Δw that says more about the optimiser than about the weights."""

import numpy as np
import pytest
import torch

import regime_proto


def warnings_of(weights, **options):
    trajectory = regime_proto.synthetic.trajectory(weights=weights, steps=len(weights), **options)
    return [text for text in regime_proto.analyze(trajectory, resamples=0).warnings if "flat" in text]


def test_a_flat_weight_change_is_told_and_a_falling_one_is_not():
    assert warnings_of(np.linspace(1, 0.8, 100))
    assert not warnings_of(np.linspace(1, 0.4, 100))
    # Noise does not make a curve fall.
    assert warnings_of(np.full(400, 0.5), noise=0.3)
    assert not warnings_of(np.linspace(1, 0.8, 10))


def deltas_of(optimizer, **options):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    stepper = optimizer(network.parameters(), **options)
    inputs = torch.randn(64, 8)
    labels = inputs[:, :1] * inputs[:, 1:2]
    sizes = []
    for _ in range(200):
        before = torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()
        stepper.zero_grad()
        torch.nn.functional.mse_loss(network(inputs), labels).backward()
        stepper.step()
        after = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
        sizes.append(float((after - before).abs().mean()))
    return np.array(sizes) / max(sizes)


@pytest.mark.parametrize(("optimizer", "lr", "is_flat"), [("SignSGD", 0.001, True), ("SGD", 0.05, False)])
def test_steps_of_equal_length_are_told_from_steps_that_follow_the_gradient(optimizer, lr, is_flat):
    class SignSGD(torch.optim.SGD):
        """What Adam is without its averages."""

        def step(self):
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.grad.sign_()
            super().step()

    made = SignSGD if optimizer == "SignSGD" else torch.optim.SGD
    assert bool(warnings_of(deltas_of(made, lr=lr))) == is_flat


def test_the_distance_from_the_start_is_told_where_the_file_has_it():
    trajectory = regime_proto.synthetic.trajectory(steps=4)
    assert regime_proto.analyze(trajectory, resamples=0).to_json()["distance"] is None
    norms = np.array([[0, 0], [3, 4], [6, 8], [9, 12], [12, 16]], float)
    trajectory["weight_distance_l2"] = (("step", "tensor"), norms)
    result = regime_proto.analyze(trajectory, resamples=0)
    np.testing.assert_allclose(result.curves["weight_distance"], [5, 10, 15, 20])
    assert result.to_json()["distance"] == {"last": 20.0, "half_at": 2}
