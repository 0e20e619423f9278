"""Splits by way of sequences become plain splits, where all is constant; what they make is the same."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from regime_proto.program.sequences import SplitWithoutSequences

BRANCH = """s = SplitToSequence<axis = 1>(x, n)
c = Cast<to = 9>(n)
a = If(c) <
    then_branch = t () => (float[p,q,r] u) {u = SequenceAt(s, i)},
    else_branch = e () => (float[p,q,r] v) {v = SequenceAt(s, i)}
>"""
X = np.arange(2 * 7 * 3, dtype=np.float32).reshape(2, 7, 3)


def graph(body, outputs, opset=18, **constants):
    """Return a graph of x, whose constants become initializers."""
    declared = ", ".join(f"{kind} {name}" for name, kind in outputs.items())
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}]> g (float[2,7,3] x) => ({declared}) {{{body}}}'
    )
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.array(made), name) for name, made in constants.items()
    )
    return model


def rewritten(model):
    """Return the graph after the pass, and whether that changed it."""
    parsed = ir.from_proto(model)
    ShapeInferencePass()(parsed)
    modified = SplitWithoutSequences()(parsed).modified
    return ir.to_proto(parsed), modified


def results(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})


@pytest.mark.parametrize("opset", [13, 18, 24])
@pytest.mark.parametrize(
    ("axis", "lengths"),
    [(1, 3), (1, 7), (1, 10), (-1, 1), (0, 2), (1, [1, 2, 4]), (1, [7]), (-2, [3, 4])],
    ids=str,
)
def test_parts_are_the_same(axis, lengths, opset):
    model = graph(
        f"s = SplitToSequence<axis = {axis}>(x, n)\na = SequenceAt(s, i)\nb = SequenceAt(s, j)\nc = Neg(a)\nd = Abs(a)",
        dict.fromkeys("abcd", "float[p,q,r]"),
        opset,
        n=np.int64(lengths),
        i=np.int64(0),
        j=np.int64(-1),
    )
    changed, modified = rewritten(model)
    assert modified
    assert {"SplitToSequence", "SequenceAt"}.isdisjoint(node.op_type for node in changed.graph.node)
    for before, after in zip(results(model), results(changed), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("body", "outputs", "opset"),
    [
        ("s = SplitToSequence<axis = 1>(x)\na = SequenceAt(s, i)", {"a": "float[p,q,r]"}, 18),
        (BRANCH, {"a": "float[p,q,r]"}, 18),
        ("s = SplitToSequence<axis = 1>(x, n)\na = SequenceLength(s)", {"a": "int64"}, 18),
        ("s = SplitToSequence<axis = 1>(x, n)\nb = SequenceAt(s, i)\na = Identity(s)", {"a": "seq(float[p,q,r])"}, 18),
        (
            "s = SplitToSequence<axis = 1>(x, n)\na = SequenceAt(s, i)",
            {"a": "float[p,q,r]", "s": "seq(float[p,q,r])"},
            18,
        ),
        (
            "s = SplitToSequence<axis = 1>(x, n)\nk = Size(x)\nm = Sub(k, k)\na = SequenceAt(s, m)",
            {"a": "float[p,q,r]"},
            18,
        ),
        ("s = SplitToSequence<axis = 1>(x, n)\na = SequenceAt(s, i)", {"a": "float[p,q,r]"}, 12),
    ],
    ids=[
        "no lengths",
        "a part in a branch",
        "its length",
        "as a whole",
        "an output",
        "a part that is computed",
        "an old operator set",
    ],
)
def test_other_sequences_stay(body, outputs, opset):
    model = graph(body, outputs, opset, n=np.int64(3), i=np.int64(1))
    changed, modified = rewritten(model)
    assert not modified
    assert [node.op_type for node in changed.graph.node] == [node.op_type for node in model.graph.node]


def test_a_part_beyond_the_last_stays():
    model = graph(
        "s = SplitToSequence<axis = 1>(x, n)\na = SequenceAt(s, i)", {"a": "float[p,q,r]"}, n=np.int64(3), i=np.int64(3)
    )
    assert not rewritten(model)[1]
