"""Names and parts: checkpoints of a model that was wrapped, pruned or reparametrised, for a plain program."""

import time
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from regime_proto.adapters.from_torch import adapter as from_torch
from regime_proto.checkpoints.source import State
from regime_proto.program.probe import as_probe
from regime_proto.program.program import ProgramError
from regime_proto.program.tensor_matching import matched


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


class Wrapper(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


@pytest.fixture(scope="module")
def programs():
    """Those of a model, and of the same one inside of a user's wrapper."""
    return {
        "plain": from_torch.export(plain(), as_probe(PROBE)),
        "wrapped": from_torch.export(Wrapper(plain()), as_probe(PROBE)),
    }


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("prefix", ["", "net."])
def test_weights_in_parts_are_those_that_torch_computes(programs, change, prefix):
    model = trained(change(plain()))
    program = programs["plain"]
    state = {prefix + name: array for name, array in tensors_of(model).items()}
    bound = program.bind(State(state), "x")
    for index in (0, 3):
        expected = model[index].weight.detach().numpy()
        np.testing.assert_allclose(bound[f"{index}.weight"], expected, rtol=1e-6, atol=1e-8)
    assert set(bound) == {tensor.name for tensor in program.trainable}


@pytest.mark.parametrize(
    "change",
    [weight_norm, pytest.param(weight_norm_over_another_axis, marks=pytest.mark.slow), old_weight_norm, pruned],
)
def test_a_program_of_such_a_model_takes_the_parts_themselves(change):
    program = from_torch.export(change(plain()), as_probe(PROBE))
    state = tensors_of(trained(change(plain())))
    bound = program.bind(State(state), "x")
    assert {name for name in bound if "weight" in name} == {name for name in state if "weight" in name}
    assert all(np.shares_memory(bound[name], state[name]) for name in bound)


def test_a_whole_weight_wins_over_its_parts():
    tensors = {"a.weight": np.ones(2), "a.weight_g": np.ones(2), "a.weight_v": np.ones(2)}
    assert set(matched(tensors, {"a.weight"})) == set(tensors)


def test_another_parametrisation_is_named(programs):
    model = plain()
    parametrizations.spectral_norm(model[0])
    with pytest.raises(ProgramError, match=r"1 tensor missing: '0\.weight'"):
        programs["plain"].bind(State(tensors_of(model)), "x")


def test_a_prefix_that_not_all_have_is_no_prefix():
    tensors = {"net.a": np.ones(1), "other": np.ones(1)}
    assert set(matched(tensors, {"a"})) == set(tensors)
    assert set(matched({"x.net.a": np.ones(1), "x.net.b": np.ones(1)}, {"a", "b"})) == {"a", "b"}


SPELLINGS = {
    "as it is": lambda name: name,
    "in a wrapper": lambda name: f"net.{name}",
    "in another wrapper": lambda name: f"policy.mlp.{name}",
    "in a tree": lambda name: f"net/{name.replace('.', '/')}",
    "with slashes": lambda name: name.replace(".", "/"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("program", ["plain", "wrapped"])
@pytest.mark.parametrize("change", [lambda model: model, *CHANGES])
def test_one_more_prefix_on_either_side(programs, program, spelling, change):
    model = trained(change(plain()))
    held = {SPELLINGS[spelling](name): value for name, value in tensors_of(model).items()}
    bound = programs[program].bind(State(held), "x")
    assert set(bound) == {tensor.name for tensor in programs[program].trainable}
    prefix = "net." if program == "wrapped" else ""
    for index in (0, 3):
        np.testing.assert_allclose(bound[f"{prefix}{index}.weight"], model[index].weight.detach(), rtol=1e-6, atol=1e-8)
        np.testing.assert_array_equal(bound[f"{prefix}{index}.bias"], model[index].bias.detach())


def ones(*names, shape=(2,)):
    return {name: np.ones(shape) for name in names}


def test_names_of_haiku():
    known = ["mlp/~/linear_0.w", "mlp/~/linear_0.b"]
    for held in (("mlp.~.linear_0.w", "mlp.~.linear_0.b"), ("net/mlp/~/linear_0/w", "net/mlp/~/linear_0/b")):
        assert list(matched(ones(*held), known, [([name], (2,)) for name in known])) == known


@pytest.mark.parametrize(
    ("held", "shape"),
    [(["fc.weight"], (2,)), (["fc.weight", "fc.bias", "other.bias"], (2,)), (["fc.weight", "fc.bias"], (3,))],
)
def test_a_prefix_is_put_before_names_only_if_everything_fits(held, shape):
    known = ["net.fc.weight", "net.fc.bias"]
    assert list(matched(ones(*held, shape=shape), known, [([name], (2,)) for name in known])) == held


def test_tied_tensors_may_go_by_either_name():
    known = ["enc.w", "dec.w", "enc.b"]
    found = matched(ones("w", "b"), known, [(["dec.w", "enc.w"], (2,)), (["enc.b"], (2,))])
    assert list(found) == ["enc.w", "enc.b"]


def test_a_match_that_leaves_something_out_is_refused_with_the_nearest(programs):
    held = {f"policy.{name}": value for name, value in tensors_of(plain()).items() if name != "3.bias"}
    with pytest.raises(ProgramError, match=r"x: 4 tensors missing: 'net\.0\.weight' \(nearest: 'policy\.0\.weight'\)"):
        programs["wrapped"].bind(State(held), "x")


def test_many_names_are_matched_at_once():
    known = [f"net.layers.{layer}.block.{part}.weight" for layer in range(200) for part in range(12)]
    wanted = [([name], (1,)) for name in known]
    begin = time.process_time()
    assert list(matched(ones(*(name.replace("net.", "m.", 1) for name in known), shape=(1,)), known, wanted)) == known
    assert len(matched(ones(*(name.replace("block", "part") for name in known), shape=(1,)), known, wanted)) == len(
        known
    )
    assert time.process_time() - begin < 5


def test_names_that_differ_in_a_slash_only_are_left_alone():
    assert list(matched(ones("a/b", "c"), ["a.b", "a/b"])) == ["a/b", "c"]
    assert list(matched(ones("x.a/b", "x.a.b"), ["a.b"])) == ["a/b", "a.b"]
