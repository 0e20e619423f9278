"""Names and parts: checkpoints of a model that was wrapped, pruned or reparametrised, for a plain program."""

import warnings

import numpy as np
import pytest
import torch
from regime_proto.adapters import from_torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from regime_proto.engine.graph.matching import matched
from regime_proto.engine.graph.program import ProgramError
from regime_proto.probe import as_probe
from regime_proto.source import State


def plain():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Unflatten(1, (1, 7)), nn.Conv1d(1, 4, 3), nn.ReLU())


def weight_norm(model):
    for index in (0, 3):
        parametrizations.weight_norm(model[index])
    return model


def weight_norm_over_another_axis(model):
    parametrizations.weight_norm(model[0], dim=1)
    parametrizations.weight_norm(model[3], dim=None)
    return model


def old_weight_norm(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for index in (0, 3):
            torch.nn.utils.weight_norm(model[index])
    return model


def pruned(model):
    prune.l1_unstructured(model[0], "weight", 0.4)
    prune.random_structured(model[3], "weight", 0.5, dim=0)
    return model


CHANGES = [weight_norm, weight_norm_over_another_axis, old_weight_norm, pruned]
PROBE = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)


def tensors_of(model):
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def trained(model):
    """Move every parameter, so that the weight is no longer the one that it was made of."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.eval()(torch.from_numpy(PROBE))
    return model


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("prefix", ["", "net."])
def test_weights_in_parts_are_those_that_torch_computes(change, prefix):
    model = trained(change(plain()))
    program = from_torch.export(plain(), as_probe(PROBE))
    state = {prefix + name: array for name, array in tensors_of(model).items()}
    bound = program.bind(State(state), "x")
    for index in (0, 3):
        expected = model[index].weight.detach().numpy()
        np.testing.assert_allclose(bound[f"{index}.weight"], expected, rtol=1e-6, atol=1e-8)
    assert set(bound) == {tensor.name for tensor in program.trainable}


@pytest.mark.parametrize("change", CHANGES)
def test_a_program_of_such_a_model_takes_the_parts_themselves(change):
    program = from_torch.export(change(plain()), as_probe(PROBE))
    state = tensors_of(trained(change(plain())))
    bound = program.bind(State(state), "x")
    assert {name for name in bound if "weight" in name} == {name for name in state if "weight" in name}
    assert all(bound[name] is state[name] for name in bound)


def test_a_whole_weight_wins_over_its_parts():
    tensors = {"a.weight": np.ones(2), "a.weight_g": np.ones(2), "a.weight_v": np.ones(2)}
    assert set(matched(tensors, {"a.weight"})) == set(tensors)


def test_another_parametrisation_is_named():
    model = plain()
    parametrizations.spectral_norm(model[0])
    program = from_torch.export(plain(), as_probe(PROBE))
    with pytest.raises(ProgramError, match=r"1 tensor missing: '0\.weight'"):
        program.bind(State(tensors_of(model)), "x")


def test_a_prefix_that_not_all_have_is_no_prefix():
    tensors = {"net.a": np.ones(1), "other": np.ones(1)}
    assert set(matched(tensors, {"a"})) == set(tensors)
    assert set(matched({"x.net.a": np.ones(1), "x.net.b": np.ones(1)}, {"a", "b"})) == {"a", "b"}
