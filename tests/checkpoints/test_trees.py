"""The model in a nested tree of arrays."""

import numpy as np
import pytest

from regime_proto.checkpoints.param_trees import nested, tree_payload
from regime_proto.checkpoints.payload import NotACheckpoint, state_of


def layers(*names):
    return {name: {"kernel": np.ones((2, 2)), "bias": np.ones(2)} for name in names}


ONE = {"fc.kernel", "fc.bias"}
PLAIN = {"Dense_0.kernel", "Dense_0.bias", "Dense_1.kernel", "Dense_1.bias"}
DENSE = layers("Dense_0", "Dense_1")
STATISTICS = {"BatchNorm_0": {"mean": np.zeros(2), "var": np.ones(2)}}
ADAM = [{"count": np.array(3), "mu": DENSE, "nu": DENSE}, None]
BOTH = {f"params.{name}" for name in PLAIN} | {"batch_stats.BatchNorm_0.mean", "batch_stats.BatchNorm_0.var"}


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        (DENSE, PLAIN),
        ({"params": DENSE}, PLAIN),
        ({"params": {"params": DENSE}}, PLAIN),
        ({"step": 3, "params": DENSE, "opt_state": ADAM}, PLAIN),
        ({"state": {"step": np.array(3), "params": DENSE, "opt_state": ADAM}}, PLAIN),
        ({"params": DENSE, "opt": ADAM}, PLAIN),
        ({"params": DENSE, "batch_stats": STATISTICS}, BOTH),
        ({"params": DENSE, "batch_stats": STATISTICS, "opt_state": ADAM, "step": 1, "key": np.ones(2, "u4")}, BOTH),
        ({"state": {"params": DENSE, "batch_stats": STATISTICS}}, BOTH),
        ({"params": DENSE, "target_params": DENSE}, PLAIN),
        ({"params": DENSE, "metrics": {"loss": 0.5, "top": np.array(0.1)}}, PLAIN),
        ({"model": DENSE, "optimizer": ADAM}, PLAIN),
        ({"model": DENSE, "ema_params": DENSE, "step": 3}, PLAIN),
        # Modules that have the names of models.
        ({"net": layers("a"), "head": layers("b")}, {"net.a.kernel", "net.a.bias", "head.b.kernel", "head.b.bias"}),
        ({"fc": {"kernel": {"value": np.ones((2, 2))}, "bias": {"value": np.ones(2)}}}, ONE),
        ({"fc": layers("a")["a"], "drop": {"rngs": {"count": np.array(0, "u4"), "key": np.ones(2, "u4")}}}, ONE),
        ([(np.ones((2, 2)), np.ones(2)), (np.ones((2, 1)), np.ones(1))], {"0.0", "0.1", "1.0", "1.1"}),
        ({"w": np.ones((2, 2)), "b": np.ones(2), "step": 4}, {"w", "b"}),
        ({"a": {"kernel": np.ones((2, 2)), "scale": np.array(1.0)}}, {"a.kernel", "a.scale"}),
    ],
)  # fmt: skip
def test_the_model_in_a_tree(tree, names):
    assert set(state_of(tree_payload(tree), "tree").tensors) == names


def test_arrays_are_passed_on_as_they_are():
    array = np.ones((2, 2))
    assert tree_payload({"params": {"w": array}}).groups[""]["w"] is array


def test_numbers_beside_the_model_are_facts():
    tree = {"state": {"params": DENSE, "step": np.array(7), "metrics": {"loss": 0.5}}, "epoch": 2}
    assert tree_payload(tree).facts == {"step": 7, "loss": 0.5, "epoch": 2}


def test_other_weights_are_read_if_asked_for():
    payload = tree_payload({"params": DENSE, "ema_params": layers("x"), "target_params": layers("y")})
    assert set(state_of(payload, "tree", weights="ema_params").tensors) == {"x.kernel", "x.bias"}
    assert set(state_of(payload, "tree", weights="target_params").tensors) == {"y.kernel", "y.bias"}


@pytest.mark.parametrize("tree", [{}, {"step": 3}, {"opt_state": ADAM}, {"metrics": {"loss": 1.0}}])
def test_a_tree_without_a_model(tree):
    with pytest.raises(NotACheckpoint, match="no arrays of a model in it"):
        tree_payload(tree)


def test_leaves_by_path_become_a_tree():
    array = np.ones(2)
    leaves = {"params/a/w": array, "params/b": array, "step": 3}
    tree = nested((name.split("/"), leaf) for name, leaf in leaves.items())
    assert tree == {"params": {"a": {"w": array}, "b": array}, "step": 3}
    for names in (("a", "a/b"), ("a/b", "a"), ("a", "a")):
        with pytest.raises(ValueError, match=r"below|twice"):
            nested((name.split("/"), array) for name in names)
