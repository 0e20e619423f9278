"""Weights as constants of the frozen graph: the same function, fused."""

import nets
import numpy as np
import onnx
import pytest
import torch

from regime_proto.adapters.from_torch.exporter import export
from regime_proto.engine.frozen import may_be_constant
from regime_proto.program.constant_weights import ConstantWeights
from regime_proto.program.probe import as_probe
from regime_proto.runtime.device import Device
from regime_proto.runtime.ir import ir

HOST = Device("cpu", resident=False)


def made(make):
    model = make()
    for _ in range(3):
        model(torch.randn(16, *nets.SHAPES[type(model)]))
    probe = nets.probe(model)
    program = export(model.eval(), as_probe(probe))
    [name] = program.probe_inputs
    weights = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items() if tensor.ndim}
    return program, weights, {name: probe}


@pytest.mark.parametrize("make", [nets.make_mlp, nets.make_conv, nets.make_encoder])
def test_the_function_is_the_same_without_weights_as_inputs(make):
    program, weights, probe = made(make)
    fed = HOST.session(program.parse_model())
    model = program.parse_model()
    assert ConstantWeights(weights)(model).modified
    fixed = HOST.session(model, constants=weights)
    assert fixed.inputs == set(probe) == fed.inputs - set(weights)
    placed = {name: HOST.place(array) for name, array in {**weights, **probe}.items()}
    # That some weights are given all the same changes nothing.
    [expected], [found], [again] = ([*session.run(placed).values()] for session in (fed, fixed, fixed))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.numpy(), again.numpy())


def test_what_takes_constants_is_fused():
    program, weights, _ = made(nets.make_conv)
    model = program.parse_model()
    assert "BatchNormalization" in {node.op_type for node in model.graph}
    ConstantWeights(weights)(model)
    for name in weights.keys() & model.graph.initializers.keys():
        model.graph.initializers[name].const_value = ir.tensor(weights[name], name=name)
    kept = {node.op_type for node in HOST.optimized(model).graph.node}
    assert kept.isdisjoint({"BatchNormalization", "Expand", "CastLike"})


def test_a_graph_without_such_weights_stays_as_it_is():
    value = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> net (float[2,4] x) => (float[2,4] y) { y = Relu(x) }'
    )
    assert not ConstantWeights({"w": np.ones(3, np.float32)})(ir.from_proto(value)).modified


def test_states_of_other_types_and_large_ones_are_fed():
    program, weights, _ = made(nets.make_mlp)
    assert may_be_constant(program, weights, HOST)
    half = {name: array.astype(np.float16) for name, array in weights.items()}
    assert not may_be_constant(program, half, HOST)
    assert not may_be_constant(program, weights, Device("cuda", resident=True))
    unused = np.broadcast_to(np.zeros(1, np.float32), (2**27,))
    assert not may_be_constant(program, {**weights, "unused": unused}, HOST)
