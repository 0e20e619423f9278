"""Branches whose way is known beforehand become part of the graph; the others stay, and are reported."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from torch import nn

from regime_proto.adapters.from_torch import adapter as from_torch
from regime_proto.engine.masks import pack_masks
from regime_proto.engine.measure import Meter
from regime_proto.program.control_flow import InlineConstantBranches
from regime_proto.program.gates import find_gates, select_gates
from regime_proto.program.probe import as_probe
from regime_proto.program.program import Program, Tensor
from regime_proto.runtime.device import Device

SAMPLES, FEATURES, UNITS = 6, 3, 5


def floats(name, *shape):
    return make_tensor_value_info(name, TensorProto.FLOAT, shape)


def untyped(name):
    return make_tensor_value_info(name, TensorProto.FLOAT, None)


def body(*nodes, outputs, initializers=()):
    return make_graph(list(nodes), "body", [], [untyped(name) for name in outputs], list(initializers))


def tensor(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def branch(op, name="y", of="z"):
    return body(make_node(op, [of], [name], name=f"{op}_{name}"), outputs=[name])


def choice(condition, then_branch, else_branch, outputs=("h",), name="if"):
    return make_node("If", [condition], list(outputs), name=name, then_branch=then_branch, else_branch=else_branch)


def network(*nodes, initializers=(), outputs=("h",), domains=()):
    """Return x @ w = z, then `nodes`."""
    graph = make_graph(
        [make_node("MatMul", ["x", "w"], ["z"], name="matmul"), *nodes],
        "network",
        [floats("x", SAMPLES, FEATURES), floats("w", FEATURES, UNITS)],
        [floats(name, SAMPLES, UNITS) for name in outputs],
        list(initializers),
    )
    model = make_model(
        graph, opset_imports=[make_opsetid("", 18), *(make_opsetid(name, 1) for name in domains)], ir_version=10
    )
    onnx.checker.check_model(model)
    return model


def data(seed=0):
    random = np.random.default_rng(seed)
    return {
        "x": random.standard_normal((SAMPLES, FEATURES)).astype(np.float32),
        "w": random.standard_normal((FEATURES, UNITS)).astype(np.float32),
    }


def run(model, feeds):
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def inlined(proto, feeds=None, **options):
    """Return the model after the pass, having checked that it computes what it did, under the same names."""
    model = ir.from_proto(proto)
    result = InlineConstantBranches(**options)(model)
    assert [value.name for value in model.graph.outputs] == [value.name for value in proto.graph.output]
    feeds = feeds or data()
    for expected, found in zip(run(proto, feeds), run(model, feeds), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not InlineConstantBranches(**options)(ir.from_proto(ir.to_proto(model))).modified
    return model, result.modified


def ops(model):
    return [node.op_type for node in model.graph]


def gates_of(model):
    return find_gates(program_of(model))


def program_of(model):
    tensors = [Tensor("w", (FEATURES, UNITS), trainable=True)]
    return Program.from_model(model, tensors=tensors, probe_inputs=["x"], framework={})


TRUE, FALSE = tensor("c", np.array(True)), tensor("c", np.array(False))
# The last axis of z has one element? torch asks so in what it exports of `squeeze`.
SQUEEZES = (
    make_node("Shape", ["z"], ["shape"]),
    make_node("Constant", [], ["last"], value=tensor("", np.array(1))),
    make_node("Constant", [], ["one"], value=tensor("", np.array(1))),
    make_node("Gather", ["shape", "last"], ["length"], axis=0),
    make_node("Equal", ["length", "one"], ["c"]),
)


@pytest.mark.parametrize(("condition", "taken"), [(TRUE, "Relu"), (FALSE, "Tanh")])
def test_a_constant_condition_chooses_its_branch(condition, taken):
    model, modified = inlined(network(choice("c", branch("Relu"), branch("Tanh")), initializers=[condition]))
    assert modified
    assert ops(model) == ["MatMul", taken, "Identity"]
    assert not model.graph.initializers


def test_a_condition_on_a_fixed_shape_is_known():
    model, modified = inlined(network(*SQUEEZES, choice("c", branch("Tanh"), branch("Relu"))))
    assert modified
    assert ops(model) == ["MatMul", "Relu", "Identity"]


@pytest.mark.parametrize(("start", "end"), [(0, 1), (1, 2), (-1, None), (None, -1)])
def test_parts_of_a_shape(start, end):
    bounds = {name: value for name, value in (("start", start), ("end", end)) if value is not None}
    expected = list((SAMPLES, UNITS)[slice(start, end)])
    nodes = (
        make_node("Shape", ["z"], ["shape"], **bounds),
        make_node("Equal", ["shape", "expected"], ["equal"]),
        make_node("Squeeze", ["equal"], ["c"]),
        choice("c", branch("Relu"), branch("Tanh")),
    )
    model, _ = inlined(network(*nodes, initializers=[tensor("expected", np.array(expected))]))
    assert ops(model) == ["MatMul", "Relu", "Identity"]


def test_size_is_known_like_a_shape():
    nodes = (make_node("Size", ["z"], ["size"]), make_node("Equal", ["size", "expected"], ["c"]))
    expected = tensor("expected", np.array(SAMPLES * UNITS))
    model, _ = inlined(network(*nodes, choice("c", branch("Relu"), branch("Tanh")), initializers=[expected]))
    assert ops(model) == ["MatMul", "Relu", "Identity"]


def test_branches_in_branches_are_inlined_too():
    inner = body(choice("c", branch("Tanh", "inner"), branch("Abs", "inner"), ["y"], name="inner_if"), outputs=["y"])
    model, _ = inlined(network(*SQUEEZES, choice("c", branch("Relu"), inner)))
    assert ops(model) == ["MatMul", "Abs", "Identity"]


def test_a_branch_behind_a_branch_sees_the_shape_that_was_hidden_by_it():
    squeezed = body(make_node("ReduceMax", ["z"], ["y"], keepdims=0), outputs=["y"])
    nodes = (
        choice("c", squeezed, branch("Relu"), ["first"]),
        make_node("Shape", ["first"], ["shape"]),
        make_node("Size", ["shape"], ["rank"]),
        make_node("Equal", ["rank", "two"], ["d"]),
        choice("d", branch("Abs", "v", of="first"), branch("Tanh", "v", of="first"), name="second_if"),
    )
    model, _ = inlined(network(*nodes, initializers=[FALSE, tensor("two", np.array(2))]))
    assert ops(model) == ["MatMul", "Relu", "Abs", "Identity"]


def test_what_a_branch_takes_from_outside_stays_connected():
    taken = body(
        make_node("Mul", ["z", "scale"], ["scaled"]),
        make_node("Add", ["scaled", "shift"], ["y"]),
        make_node("Identity", ["z"], ["kept"]),
        outputs=["y", "kept"],
        initializers=[tensor("shift", np.array(0.25, np.float32))],
    )
    other = body(make_node("Neg", ["z"], ["n"]), make_node("Abs", ["z"], ["a"]), outputs=["n", "a"])
    nodes = (
        choice("c", taken, other, ["h", "same"]),
        make_node("Relu", ["same"], ["r"], name="relu"),
    )
    scale = tensor("scale", np.array(3, np.float32))
    model, _ = inlined(network(*nodes, initializers=[TRUE, scale], outputs=["h", "r"]))
    assert sorted(ops(model)) == ["Add", "Identity", "Identity", "MatMul", "Mul", "Relu"]
    # What never runs uses nothing any more.
    [z] = model.graph.node("matmul").outputs
    assert sorted(node.op_type for node, _ in z.uses()) == ["Identity", "Mul"]


def test_a_branch_that_is_a_constant():
    ones = body(outputs=["k"], initializers=[tensor("k", np.ones((SAMPLES, UNITS), np.float32))])
    model, _ = inlined(network(choice("c", ones, branch("Relu")), initializers=[TRUE]))
    assert ops(model) == ["Identity"]


def test_names_stay_unique():
    first = choice("c", branch("Relu"), branch("Tanh"), ["a"], name="first")
    second = choice("c", branch("Relu"), branch("Tanh"), ["b"], name="second")
    # An If that stays has the name as well, and would hide the outer one.
    third = choice("d", branch("Relu", of="b"), branch("Abs", of="b"), name="third")
    nodes = (first, second, make_node("Add", ["a", "b"], ["s"]), make_node("ReduceMax", ["s"], ["m"], keepdims=0))
    nodes += (make_node("Cast", ["m"], ["d"], to=TensorProto.BOOL), third)
    model, _ = inlined(network(*nodes, initializers=[TRUE]))
    names = [value.name for node in model.graph for value in node.outputs]
    assert len(set(names)) == len(names)
    assert "y" not in names
    keys = [node.name for node in model.graph.all_nodes() if node.op_type == "Relu"]
    assert len(set(keys)) == len(keys) == 3


@pytest.mark.parametrize(
    ("nodes", "initializers"),
    [
        ([make_node("ReduceMax", ["x"], ["m"], keepdims=0), make_node("Cast", ["m"], ["c"], to=TensorProto.BOOL)], []),
        ([make_node("ReduceMax", ["w"], ["m"], keepdims=0), make_node("Cast", ["m"], ["c"], to=TensorProto.BOOL)], []),
        ([make_node("Cast", ["gain"], ["c"], to=TensorProto.BOOL)], [tensor("gain", np.array(1, np.float32))]),
        (
            [
                make_node("RandomUniform", [], ["u"], shape=[1], seed=1.0),
                make_node("Cast", ["u"], ["c"], to=TensorProto.BOOL),
            ],
            [],
        ),
        (
            # Which units are positive decides how many there are.
            [
                make_node("NonZero", ["z"], ["at"]),
                make_node("Size", ["at"], ["number"]),
                make_node("Cast", ["number"], ["c"], to=TensorProto.BOOL),
            ],
            [],
        ),
    ],
    ids=["probe", "weight", "stored weight", "random", "shape that follows the data"],
)
def test_a_condition_that_is_not_known_leaves_the_branch_where_it_is(nodes, initializers):
    proto = network(*nodes, choice("c", branch("Relu"), branch("Tanh")), initializers=initializers)
    model = ir.from_proto(proto)
    InlineConstantBranches()(model)
    assert "If" in ops(model)
    again = InlineConstantBranches()(model)
    assert not again.modified
    run(model, data())


def test_a_condition_that_cannot_be_run_is_not_known():
    nodes = (make_node("Decide", ["true"], ["c"], domain="elsewhere"), choice("c", branch("Relu"), branch("Tanh")))
    proto = network(*nodes, initializers=[tensor("true", np.array(True))], domains=["elsewhere"])
    model = ir.from_proto(proto)
    InlineConstantBranches()(model)
    assert "If" in ops(model)


def test_the_weights_can_be_named():
    proto = network(
        make_node("Cast", ["count"], ["c"], to=TensorProto.BOOL),
        choice("c", branch("Relu"), branch("Tanh")),
        initializers=[tensor("count", np.array(1, np.int64))],
    )
    assert "If" not in ops(inlined(proto)[0])
    model = ir.from_proto(proto)
    InlineConstantBranches(weights=["count"])(model)
    assert "If" in ops(model)


def test_gates_of_an_unknown_branch_are_reported_and_those_beside_it_tracked():
    nodes = (
        make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        make_node("Cast", ["m"], ["d"], to=TensorProto.BOOL),
        choice("c", branch("Relu", "known"), branch("Tanh", "known"), ["k"], name="known_if"),
        choice("d", branch("Relu", of="k"), branch("Abs", of="k"), name="unknown_if"),
    )
    model, _ = inlined(network(*nodes, initializers=[TRUE]))
    gates = gates_of(model)
    assert [gate.op for gate in gates if gate.trackable] == ["Relu"]
    reported = [gate for gate in gates if gate.nested]
    assert sorted(gate.op for gate in reported) == ["Abs", "Relu"]
    assert {gate.reason for gate in reported} == {"inside the If unknown_if, which does not always run it once"}


def loop():
    scope = [make_tensor_value_info("i", TensorProto.INT64, []), make_tensor_value_info("go", TensorProto.BOOL, [])]
    nodes = [make_node("Relu", ["state"], ["next"], name="inner"), make_node("Identity", ["go"], ["on"])]
    outputs = [make_tensor_value_info("on", TensorProto.BOOL, []), floats("next", SAMPLES, UNITS)]
    inside = make_graph(nodes, "body", [*scope, floats("state", SAMPLES, UNITS)], outputs)
    return make_node("Loop", ["n", "", "z"], ["h"], name="repeat", body=inside), [tensor("n", np.array(2))]


def scan():
    nodes = [make_node("Relu", ["state"], ["next"], name="inner"), make_node("Add", ["next", "row"], ["sum"])]
    inside = make_graph(
        nodes, "body", [floats("state", UNITS), floats("row", UNITS)], [floats("next", UNITS), floats("sum", UNITS)]
    )
    return make_node("Scan", ["start", "z"], ["end", "h"], name="repeat", body=inside, num_scan_inputs=1), [
        tensor("start", np.zeros(UNITS, np.float32))
    ]


@pytest.mark.parametrize("make", [loop, scan])
def test_gates_in_loops_are_reported(make):
    node, initializers = make()
    model, modified = inlined(network(node, initializers=initializers))
    assert not modified
    [gate] = gates_of(model)
    assert not gate.trackable
    assert gate.reason == f"inside the {node.op_type} repeat, which does not always run it once"
    with pytest.raises(Exception, match=r"is left to track.*inside the"):
        select_gates([gate])


def test_a_gate_of_several_operators_in_a_branch_is_reported_once():
    mish = body(
        make_node("Softplus", ["z"], ["p"]),
        make_node("Tanh", ["p"], ["t"]),
        make_node("Mul", ["z", "t"], ["y"]),
        outputs=["y"],
    )
    nodes = (
        make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        make_node("Cast", ["m"], ["d"], to=TensorProto.BOOL),
        choice("d", mish, branch("Tanh")),
    )
    [gate] = gates_of(inlined(network(*nodes))[0])
    assert (gate.op, gate.nested) == ("Mish", True)


def test_gates_of_inlined_branches_have_the_right_masks():
    hidden = body(make_node("Relu", ["z"], ["r"], name="relu"), make_node("Mul", ["r", "r"], ["y"]), outputs=["y"])
    model, _ = inlined(network(*SQUEEZES, choice("c", branch("Tanh"), hidden)))
    program = program_of(model)
    gates = select_gates(find_gates(program))
    feeds = data(1)
    meter = Meter.calibrate(program, gates, {"x": feeds["x"]}, Device("cpu", resident=False), {"w": feeds["w"]})
    bits = np.unpackbits(pack_masks(meter.run({"w": feeds["w"]})), axis=1)[:, :UNITS]
    np.testing.assert_array_equal(bits, feeds["x"] @ feeds["w"] > 0)


def test_a_model_without_branches_is_left_as_it_is():
    proto = network(make_node("Relu", ["z"], ["h"], name="relu"))
    model = ir.from_proto(proto)
    assert not InlineConstantBranches()(model).modified
    assert ir.to_proto(model) == ir.to_proto(ir.from_proto(proto))


def test_branches_of_a_torch_export():
    class Chooses(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(FEATURES, UNITS)
            self.register_buffer("flag", torch.tensor(True))

        def forward(self, x):
            hidden = self.fc(x)
            if self.branches == "known":
                return torch.cond(torch.tensor(True), torch.relu, torch.tanh, (hidden,))
            return torch.cond(self.flag, torch.relu, torch.tanh, (hidden,))

    model = Chooses()
    for model.branches, trackable in (("known", True), ("of a buffer", False)):
        [gate] = find_gates(from_torch.export(model, as_probe(data()["x"])))
        assert (gate.op, gate.trackable) == ("Relu", trackable)
