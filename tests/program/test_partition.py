"""A graph in parts gives what it gives whole, and no part has more weights than it may."""

import itertools

import numpy as np
import onnx
import pytest
from graphs import HOST, SAMPLES, program, quarters

from regime_proto.engine.session import mask_graph
from regime_proto.program.gates import find_gates
from regime_proto.program.partition import Cutting, partition
from regime_proto.program.program import ProgramError
from regime_proto.runtime.ir import ir

WIDTHS = (4, 11, 7, 11, 5, 9)
CHAIN = {f"w{number}": shape for number, shape in enumerate(itertools.pairwise(WIDTHS))}
BYTES = {name: 4 * rows * columns for name, (rows, columns) in CHAIN.items()}
LAYERS = "\n".join(
    f"z{number} = MatMul({'x' if not number else f'r{number - 1}'}, w{number})\nr{number} = Relu(z{number})"
    for number in range(len(CHAIN))
)


def chain():
    return program(LAYERS, before="", weights=CHAIN, output=f"r{len(CHAIN) - 1}")


def graph_of(made):
    gates = [gate for gate in find_gates(made) if gate.trackable]
    return HOST.optimized(mask_graph(made, gates, dtypes={}))


def feeds(made):
    specs = {**made.inputs, **made.weight_inputs}
    return {
        name: HOST.place(quarters(spec.shape, number, np.dtype(spec.dtype)))
        for number, (name, spec) in enumerate(specs.items())
    }


def run_whole(graph, given):
    return {name: value.numpy() for name, value in HOST.session(ir.from_proto(graph), as_is=True).run(given).items()}


def run_parts(cut, given):
    """Run the parts one after the other, each from what those before it hand on; return the outputs of the graph."""
    values = {name: value for name, value in given.items() if name not in weights_of(cut)}
    if cut.shared.nodes:
        values |= HOST.session(cut.model_of(cut.shared), as_is=True).run(values)
    found = dict(values)
    for part, needed in zip(cut.parts, cut.needed_after, strict=True):
        made = HOST.session(cut.model_of(part), as_is=True).run(
            {**values, **{name: given[name] for name in part.weights}}
        )
        found |= made
        values = {name: value for name, value in (values | made).items() if name in needed}
    return {output.name: found[output.name].numpy() for output in cut.model.graph.output}


def weights_of(cut):
    return {name for part in cut.parts for name in part.weights}


def assert_same_values(cut, made):
    given = feeds(made)
    expected, found = run_whole(cut.model, given), run_parts(cut, given)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(values, found[name], err_msg=name)
    assert any(values.any() for values in found.values())


@pytest.mark.parametrize("budget", [0, 4 * 44, 4 * 77, 4 * 100, 4 * 170, 10**9])
def test_no_part_has_more_weights_than_it_may_but_a_tensor_alone(budget):
    made = chain()
    cut = partition(graph_of(made), BYTES, Cutting(budget))
    assert weights_of(cut) == set(CHAIN)
    assert cut.weight_bytes == tuple(sum(BYTES[name] for name in part.weights) for part in cut.parts)
    assert all(size <= budget or len(part.weights) == 1 for size, part in zip(cut.weight_bytes, cut.parts, strict=True))
    assert sorted(number for part in cut.parts for number in part.nodes) == list(range(len(cut.model.graph.node)))
    assert_same_values(cut, made)


@pytest.mark.parametrize("least", range(1, len(CHAIN) + 1))
def test_there_are_as_many_parts_as_were_asked_for(least):
    made = chain()
    cut = partition(graph_of(made), BYTES, Cutting(10**9, least))
    assert least <= len(cut.parts) <= len(CHAIN)
    assert_same_values(cut, made)


def test_more_parts_than_there_can_be_are_refused():
    with pytest.raises(ProgramError, match=r"--parts 9: .* into at most 5 parts; give --parts 5 or less"):
        partition(graph_of(chain()), BYTES, Cutting(10**9, 9))


def test_cuts_lie_where_little_is_alive():
    # Three layers of a residual stream of 4, each with 64 inside.
    body, weights, stream = [], {}, "x"
    for layer in range(3):
        weights |= {f"up{layer}": (4, 64), f"down{layer}": (64, 4)}
        body += [f"u{layer} = MatMul({stream}, up{layer})", f"r{layer} = Relu(u{layer})"]
        body += [f"d{layer} = MatMul(r{layer}, down{layer})", f"s{layer} = Add({stream}, d{layer})"]
        stream = f"s{layer}"
    made = program("\n".join([*body, "y = Relu(s2)"]), before="", weights=weights)
    sizes = dict.fromkeys(weights, 4 * 256)
    cut = partition(graph_of(made), sizes, Cutting(2 * 4 * 256))
    assert [part.weights for part in cut.parts] == [(f"down{layer}", f"up{layer}") for layer in range(3)]
    # The stream, and a sum of activations for each gate.
    assert cut.live_bytes <= 4 * SAMPLES * 4 + 8 * 3
    assert_same_values(cut, made)
    # Masks are handed out at once, and keep no activation alive.
    finer = partition(graph_of(made), sizes, Cutting(4 * 256))
    assert finer.live_bytes <= 4 * SAMPLES * (64 + 4) + 8 * 3


def test_a_weight_that_several_parts_use_is_a_weight_of_each():
    made = program(
        "z = MatMul(x, w)\na = Relu(z)\nb = MatMul(a, v)\n"
        "t = Transpose<perm = [1, 0]>(w)\nc = MatMul(b, t)\ny = Relu(c)",
        before="",
        weights={"w": (4, 11), "v": (11, 11)},
    )
    cut = partition(graph_of(made), {"w": 176, "v": 484}, Cutting(0))
    assert [name for part in cut.parts for name in part.weights].count("w") == 2
    assert_same_values(cut, made)


def test_what_depends_on_the_probe_alone_is_computed_once_and_is_not_alive():
    made = program(
        "p = Exp(x)\nz = MatMul(p, w)\na = Relu(z)\nb = MatMul(a, v)\nq = Add(b, p)\ny = Relu(q)",
        before="",
        weights={"w": (4, 4), "v": (4, 4)},
    )
    cut = partition(graph_of(made), {"w": 64, "v": 64}, Cutting(64))
    assert len(cut.shared.nodes) == 1
    assert len(cut.parts) == 2
    assert cut.live_bytes <= 4 * SAMPLES * 4 + 8
    assert_same_values(cut, made)


SEQUENCES = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[8,4] x, float[4,8] w, float[4,6] v) => (float[8,6] y) {
    n = Constant<value = int64 {4}>()
    z = MatMul(x, w)
    a = Relu(z)
    s = SplitToSequence<axis = 1>(a, n)
    l = SequenceLength(s)
    o = Constant<value = int64 {1}>()
    i = Sub(l, o)
    b = SequenceAt(s, i)
    c = MatMul(b, v)
    y = Relu(c)
}
"""


def test_sequences_stay_within_a_part():
    # Which one is taken is computed, so they are not split otherwise.
    graph = HOST.optimized(ir.from_proto(onnx.parser.parse_model(SEQUENCES)))
    cut = partition(graph, {"w": 128, "v": 96}, Cutting(0))
    assert [part.weights for part in cut.parts] == [("w",), ("v",)]
    assert not any("seq" in str(value.type) for part in cut.parts for value in cut.model_of(part).graph.inputs)
    shapes = {"x": (8, 4), "w": (4, 8), "v": (4, 6)}
    given = {name: HOST.place(quarters(shape, number)) for number, (name, shape) in enumerate(shapes.items())}
    np.testing.assert_array_equal(run_parts(cut, given)["y"], run_whole(cut.model, given)["y"])


def test_branches_take_values_from_outside():
    made = program(
        "z = MatMul(x, w)\na = Relu(z)\nt = ReduceSum<keepdims = 0>(a)\nh = Greater(t, k(0))\n"
        "b = If(h)<then_branch = one () => (float[8,11] p) {p = MatMul(a, v)},"
        " else_branch = two () => (float[8,11] q) {q = Identity(a)}>\nc = MatMul(b, u)\ny = Relu(c)",
        before="",
        weights={"w": (4, 11), "v": (11, 11), "u": (11, 3)},
    )
    cut = partition(graph_of(made), {"w": 176, "v": 484, "u": 132}, Cutting(0))
    assert any("v" in part.weights for part in cut.parts)
    assert_same_values(cut, made)
