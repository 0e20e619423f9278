"""Pooling over four axes, of which two have a window, is what pooling over these two is."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from regime_proto.program.pooling import PoolFewerAxes

X = np.random.default_rng(0).normal(size=(2, 9, 7, 3)).astype("float32")


def model(attributes):
    text = f"""<ir_version: 10, opset_import: ["" : 20]> g (float[2,9,7,3] x) => (float y) <int64[2] a = {{0, 1}}> {{
        u = Unsqueeze(x, a)
        p = MaxPool<{attributes}>(u)
        y = Squeeze(p, a)
    }}"""
    proto = onnx.parser.parse_model(text)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    parsed = ir.from_proto(proto)
    ShapeInferencePass(check_type=False, strict_mode=False)(parsed)
    return parsed


def run(made, x=X):
    session = onnxruntime.InferenceSession(ir.to_proto(made).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def pooled(attributes, x=X):
    """Return the pooling over rows and columns of (sample, row, column, channel), by the channel-first operator."""
    text = f"""<ir_version: 10, opset_import: ["" : 20]> g (float[2,9,7,3] x) => (float y) {{
        t = Transpose<perm = [0, 3, 1, 2]>(x)
        p = MaxPool<{attributes}>(t)
        y = Transpose<perm = [0, 2, 3, 1]>(p)
    }}"""
    proto = onnx.parser.parse_model(text)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return run(ir.from_proto(proto), x)


@pytest.mark.parametrize(
    ("over_four", "over_two"),
    [
        ("kernel_shape = [1, 2, 2, 1], strides = [1, 2, 2, 1]", "kernel_shape = [2, 2], strides = [2, 2]"),
        ("kernel_shape = [1, 3, 2, 1]", "kernel_shape = [3, 2]"),
        (
            "kernel_shape = [1, 3, 3, 1], strides = [1, 2, 1, 1], pads = [0, 1, 0, 0, 0, 1, 2, 0]",
            "kernel_shape = [3, 3], strides = [2, 1], pads = [1, 0, 1, 2]",
        ),
        ("kernel_shape = [1, 2, 2, 1], dilations = [1, 2, 3, 1]", "kernel_shape = [2, 2], dilations = [2, 3]"),
        ("kernel_shape = [1, 3, 1, 1]", "kernel_shape = [3, 1]"),
    ],
)
def test_pooling_is_the_same(over_four, over_two):
    made = model(over_four)
    assert PoolFewerAxes()(made).modified
    np.testing.assert_array_equal(run(made), pooled(over_two))
    assert [node.name for node in made.graph if node.op_type == "MaxPool"]


def test_pooling_over_other_axes():
    """Samples and channels may be pooled as well."""
    made = model("kernel_shape = [2, 2, 1, 3]")
    assert PoolFewerAxes()(made).modified
    windows = np.lib.stride_tricks.sliding_window_view(X, (2, 2, 1, 3))
    np.testing.assert_array_equal(run(made), windows.max(axis=(4, 5, 6, 7)))


def test_what_need_not_or_cannot_be_rewritten_is_left():
    for attributes in ("kernel_shape = [2, 2, 2, 2]", "kernel_shape = [1, 1, 1, 1]"):
        assert not PoolFewerAxes()(model(attributes)).modified
