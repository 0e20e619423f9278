"""Plain ONNX models as programs, and as checkpoints."""

import collections
import contextlib
import os
import re
import shutil
import warnings
from pathlib import Path

import nets
import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from reading import read
from real_graphs import GRAPHS, real_graph

import regime_proto
from regime_proto.adapters.from_onnx import adapter as from_onnx
from regime_proto.checkpoints.source import State
from regime_proto.cli.main import main
from regime_proto.conversion.plan import MissingPart, load_program, make_plan, write_program
from regime_proto.conversion.run import run_plan
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.engine.measure import Meter
from regime_proto.plugins.open_directory import open_directory
from regime_proto.plugins.protocols import Describing, Exporter, Reader
from regime_proto.plugins.registry import exporter_for, readers
from regime_proto.program.gates import find_gates, select_gates
from regime_proto.program.initializers import GatherInitializers
from regime_proto.program.probe import ProbeError, as_probe
from regime_proto.program.program import Program, ProgramError
from regime_proto.program.trainable_weights import find_weights
from regime_proto.runtime.device import find_device
from regime_proto.schema.errors import RegimeError, RegimeWarning

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


def model(body, inputs="float[N,4] x", seed=0, functions="", **arrays):
    """Return a model of nodes in text form; an initializer is given as an array, or as the shape of a random one."""
    text = f'<ir_version: 9, opset_import: ["" : 18, "f" : 1]> g ({inputs}) => (float[] y) {{ {body} }} {functions}'
    parsed = onnx.parser.parse_model(text)
    # The text form wants a shape, and only inference knows it.
    parsed.graph.output[0].type.tensor_type.ClearField("shape")
    generator = np.random.default_rng(seed)
    for name, array in arrays.items():
        if isinstance(array, tuple):
            array = generator.standard_normal(array).astype(np.float32)
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return parsed


def small(seed=0, **arrays):
    """Return a net of two layers."""
    body = "h = Gemm(x, w1, b1) r = Relu(h) m = MatMul(r, w2) y = Add(m, b2)"
    shapes = {"w1": (4, 5), "b1": (5,), "w2": (5, 3), "b2": (3,)}
    return model(body, seed=seed, **{**shapes, **arrays})


def probe(samples=6, *shape):
    return np.random.default_rng(9).standard_normal((samples, *(shape or (4,)))).astype(np.float32)


def weights(proto):
    gathered = onnx_ir.from_proto(proto)
    GatherInitializers()(gathered)
    return find_weights(gathered)


def run(content, feeds):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options).run(None, feeds)


def assert_same_outputs(path, program, feeds, atol=0.0):
    """Feed the program with the weights in a file, and compare with that file's own outputs."""
    bound = program.bind(read(from_onnx, Path(path)), str(path))
    onnx.checker.check_model(program.content)
    for found, expected in zip(run(program.content, {**feeds, **bound}), run(str(path), feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def saved(proto, path):
    onnx.save(proto, path)
    return path


ROLES = {
    "conv": ("y = Conv(x, w, b)", {"w": (2, 3, 3, 3), "b": (2,)}, {"w": True, "b": True}),
    "transposed conv": ("y = ConvTranspose(x, w, b)", {"w": (3, 2, 3, 3), "b": (2,)}, {"w": True, "b": True}),
    "norm": (
        "y = BatchNormalization(x, s, b, m, v)",
        {"s": (3,), "b": (3,), "m": (3,), "v": np.ones(3, np.float32)},
        {"s": True, "b": True, "m": False, "v": False},
    ),
    "instance norm": ("y = InstanceNormalization(x, s, b)", {"s": (3,), "b": (3,)}, {"s": True, "b": True}),
    "layer norm": ("y = LayerNormalization(x, s, b)", {"s": (8,), "b": (8,)}, {"s": True, "b": True}),
    "slope of one element": ("y = PRelu(x, s)", {"s": (1,)}, {"s": True}),
    "left operand": ("y = MatMul(w, x)", {"w": (5, 8)}, {"w": True}),
    "behind a transposition": (
        "t = Transpose<perm=[1,0]>(w) c = Identity(t) y = MatMul(x, c)",
        {"w": (5, 8)},
        {"w": True},
    ),
    "half precision": (
        "c = Cast<to=1>(w) y = MatMul(x, c)",
        {"w": np.ones((8, 5), np.float16)},
        {"w": True},
    ),
    "stacked": ("c = Concat<axis=0>(a, b) y = MatMul(x, c)", {"a": (5, 5), "b": (3, 5)}, {"a": True, "b": True}),
    "fake quantization": (
        "q = QuantizeLinear(w, s, z) d = DequantizeLinear(q, s, z) y = MatMul(x, d)",
        {"w": (8, 5), "s": np.float32(0.1), "z": np.int8(0)},
        {"w": True},
    ),
    "integers": (
        "d = DequantizeLinear(w, s) y = MatMul(x, d)",
        {"w": np.ones((8, 5), np.int8), "s": np.float32(0.1)},
        {},
    ),
    "einsum": ('y = Einsum<equation="abij,jk->abik">(x, w)', {"w": (8, 5)}, {"w": True}),
    "elementwise": (
        "p = Mul(x, s) q = Add(p, b) y = Div(q, c)",
        {"s": (3, 1, 1), "b": (8,), "c": np.float32(8)},
        {"s": True, "b": True},
    ),
    "bias of a single unit": (
        "m = MatMul(x, w) a = Add(m, b) y = Add(a, c)",
        {"w": (8, 1), "b": (1,), "c": (1,)},
        {"w": True, "b": True},
    ),
    "bounds, exponents and masks": (
        "c = Clip(x, l, u) p = Pow(c, e) m = Max(p, v) k = Greater(m, v) y = Where(k, m, v)",
        {"l": np.float32(0), "u": np.float32(6), "e": np.float32(2), "v": (8,)},
        {},
    ),
    "scales of a resize, that are multiplied too": (
        "r = Resize(x, , s) k = Mul(s, f) t = ReduceSum<keepdims=0>(k) y = Mul(r, t)",
        {"s": np.array([1, 1, 1, 1], np.float32), "f": (4,)},
        {"f": True},
    ),
    "shapes": ("y = Reshape(x, s)", {"s": np.array([-1, 8])}, {}),
    "tied": ("m = MatMul(x, w) y = MatMul(m, w)", {"w": (8, 8)}, {"w": True}),
    "constant node": ("w = Constant<value = float[8,1] {1,2,3,4,5,6,7,8}>() y = MatMul(x, w)", {}, {"w": True}),
    "unused": ("y = MatMul(x, w)", {"w": (8, 8), "spare": (4, 4)}, {"w": True}),
}


@pytest.mark.parametrize("name", ROLES)
def test_weights_are_told_by_their_use(name):
    body, arrays, expected = ROLES[name]
    proto = model(body, "float[N,3,8,8] x", **arrays)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    assert weights(proto) == expected


def test_recurrent_and_embedding_weights():
    body = "e = Gather(table, x) s, h = GRU<hidden_size=5>(e, w, r, b, , state) y = Identity(h)"
    arrays = {"table": (7, 4), "w": (1, 15, 4), "r": (1, 15, 5), "b": (1, 30), "state": (1, 2, 5)}
    proto = model(body, "int64[3,2] x", **arrays)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    assert weights(proto) == {"table": True, "w": True, "r": True, "b": True}
    # A table of one dimension is a list of numbers to choose from.
    assert weights(model("y = Gather(table, x)", "int64[3] x", table=(7,))) == {}


def test_operators_of_others_are_not_guessed():
    proto = model("c = f.Keep(w) y = MatMul(x, c)", w=(4, 4))
    assert weights(proto) == {}


def test_a_program_of_a_model_gives_the_same_outputs(tmp_path):
    path = saved(small(), tmp_path / "net.onnx")
    program = from_onnx.export(path, as_probe(probe()))
    assert [tensor.name for tensor in program.trainable] == ["w1", "b1", "w2", "b2"]
    assert program.inputs["x"].shape == (6, 4)
    assert [gate.shape for gate in find_gates(program)] == [(6, 5)]
    assert not program.model.graph.initializers
    assert_same_outputs(path, program, {"x": probe()})
    other = saved(small(seed=1), tmp_path / "other.onnx")
    assert_same_outputs(other, program, {"x": probe()})
    assert Program.parse(program.content, "x") == program


def test_paths_and_models_are_accepted_alike(tmp_path):
    path = saved(small(), tmp_path / "net.onnx")
    proto = onnx.load(path)
    before = proto.SerializeToString(deterministic=True)
    programs = {exporter_for(given).export(given, as_probe(probe())).content for given in (path, str(path), proto)}
    assert len(programs) == 1
    assert proto.SerializeToString(deterministic=True) == before
    assert not from_onnx.accepts("nets:make_mlp")
    assert not from_onnx.accepts(nets.make_mlp())
    assert all(isinstance(from_onnx, kind) for kind in (Reader, Exporter, Describing))
    assert readers()["onnx"] is from_onnx


def structures(folder, protos):
    return [from_onnx.outline(saved(proto, folder / f"{index}.onnx")).structure for index, proto in enumerate(protos)]


def test_the_program_does_not_depend_on_the_weights_or_on_who_exported_them(tmp_path):
    first, other = small(), small(seed=1)
    other.producer_name, other.doc_string, other.graph.name = "another", "text", "other"
    other.graph.node[0].doc_string = "/home/somebody/net.py"
    other.metadata_props.add(key="step", value="3")
    programs = [from_onnx.export(proto, as_probe(probe())) for proto in (first, small(seed=1), other)]
    assert programs[0].content == programs[1].content
    assert programs[2].framework == {"another": "unknown"}
    assert len(set(structures(tmp_path, (first, small(seed=1), other)))) == 1
    assert b"somebody" not in programs[2].content


def test_a_constant_of_another_value_is_another_structure(tmp_path):
    body = "h = Gemm(x, w) s = Mul(h, c) y = Relu(s)"
    first, same, other = structures(tmp_path, [model(body, w=(4, 4), c=np.float32(scale)) for scale in (1, 1, 2)])
    assert first == same != other


def test_a_mask_of_infinities_does_not_count():
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    program = from_onnx.export(model("h = Gemm(x, w) y = Add(h, m)", w=(4, 4), m=mask), as_probe(probe(4)))
    assert [tensor.name for tensor in program.trainable] == ["w"]
    assert "m" in program.weight_inputs


def test_initializers_that_are_inputs_too(tmp_path):
    proto = small()
    proto.ir_version = 3
    proto.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, ["a"] * len(tensor.dims))
        for tensor in proto.graph.initializer
    )
    path = saved(proto, tmp_path / "old.onnx")
    program = from_onnx.export(path, as_probe(probe()))
    assert program.probe_inputs == ("x",)
    assert program.weight_inputs["w1"].shape == (4, 5)
    assert_same_outputs(path, program, {"x": probe()})


def test_weights_in_branches(tmp_path):
    def branch(name):
        weight = onnx.numpy_helper.from_array(np.full((5, 3), len(name), np.float32), "w2")
        node = onnx.helper.make_node("MatMul", ["r", "w2"], [name])
        out = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        return onnx.helper.make_graph([node], name, [], [out], [weight])

    proto = model(
        "h = Gemm(x, w1) r = Relu(h) s = ReduceSum<keepdims=0>(r) c = Cast<to=9>(s) y = Identity(r)", w1=(4, 5)
    )
    proto.graph.node[-1].CopyFrom(
        onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch("yes"), else_branch=branch("no"))
    )
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    path = saved(proto, tmp_path / "net.onnx")
    program = from_onnx.export(path, as_probe(probe()))
    names = [tensor.name for tensor in program.trainable]
    assert len(names) == 3
    assert names[:2] == ["w1", "w2"]
    assert_same_outputs(path, program, {"x": probe()})


def test_weights_in_functions(tmp_path):
    function = '<domain: "f", opset_import: ["" : 18]> Layer (a, w) => (r) { m = MatMul(a, w) r = Relu(m) }'
    shift = "c = Constant<value = float[3] {1, 2, 3}>() r = Add(a, c)"
    inner = f'<domain: "f", opset_import: ["" : 18]> Shift (a) => (r) {{ {shift} }}'
    proto = model(
        "h = f.Layer(x, w1) k = f.Layer(h, w2) y = f.Shift(k)", w1=(4, 5), w2=(5, 3), functions=function + inner
    )
    path = saved(proto, tmp_path / "net.onnx")
    program = from_onnx.export(path, as_probe(probe()))
    assert {"w1", "w2"} < set(program.weight_inputs)
    assert len(program.trainable) == 3
    assert len(find_gates(program)) == 2
    assert not program.model.functions
    assert_same_outputs(path, program, {"x": probe()})


@pytest.mark.parametrize("make", [nets.make_mlp, nets.make_conv, nets.make_encoder])
def test_torch_models_exported_with_the_defaults(make, tmp_path):
    """Weights are folded then, and still those of one file run in the program of another."""
    paths = []
    for step, trained in enumerate(nets.train(make(), 3)):
        if step == 0:
            # Its statistics are those of no training.
            continue
        path = tmp_path / f"step_{step}.onnx"
        trained.eval()
        example = torch.from_numpy(nets.probe(trained, samples=3))
        dynamic = ({0: torch.export.Dim("batch")},)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(trained, (example,), path, dynamo=True, dynamic_shapes=dynamic, verbose=False)
        trained.train()
        paths.append(path)
    array = nets.probe(make(), samples=6)
    program = from_onnx.program_of(paths[0], as_probe(array))
    [name] = program.probe_inputs
    assert program.inputs[name].shape == array.shape
    assert all(gate.shape[0] in (6, 5) for gate in find_gates(program))
    for path in paths:
        assert_same_outputs(path, program, {name: array})
    assert len({from_onnx.outline(path).structure for path in paths}) == 1
    assert any(gate.path for gate in find_gates(program)) or make is nets.make_encoder


def test_a_batch_size_baked_into_the_model(tmp_path):
    body = "h = Gemm(x, w) y = Relu(h)"
    fixed = model(body, "float[1,4] x", w=(4, 4))
    with pytest.raises(
        ProgramError, match=r"input 'x' expects float32\[1, 4\], but the probe is float32\[6, 4\]; give a pr.*1 s"
    ):
        from_onnx.export(fixed, as_probe(probe()))
    inside = model("f = Reshape(x, s) h = MatMul(f, w) y = Relu(h)", s=np.array([1, 4]), w=(4, 4))
    with pytest.raises(ProgramError, match=r"the model fails on the probe \(x: float32\[6, 4\]\): .*Reshape"):
        from_onnx.export(inside, as_probe(probe()))


@pytest.mark.parametrize("dynamo", [True, False])
def test_a_dynamic_batch_axis_as_the_message_says(tmp_path, dynamo):
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 3)

        def forward(self, x, rest):
            return torch.relu(self.layer(x) + rest)

    net, args, path = Two(), (torch.ones(1, 4), torch.ones(1, 3)), tmp_path / "net.onnx"
    fixed = {"verbose": False, "dynamo": dynamo, "input_names": ["x", "rest"]}
    probes = as_probe({"x": np.ones((6, 4), np.float32), "rest": np.ones((6, 3), np.float32)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, args, path, **fixed)
        with pytest.raises(ProgramError, match=r"probe of 1 sample, or export.*torch.onnx.export\(model, ") as error:
            from_onnx.export(path, probes)
        said = re.search(r"torch.onnx.export\(model, args, path, (.*)\)$", str(error.value))[1]
        torch.onnx.export(net, args, path, **{**fixed, **eval(f"dict({said})")})
    assert from_onnx.export(path, probes).samples == 6


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            probe().astype(float),
            ProgramError,
            r"expects float32\[N, 4\], but the probe is float64\[6, 4\]; save the probe with x.astype",
        ),
        (probe(6, 5), ProgramError, r"input 'x' expects float32\[N, 4\], but the probe is float32\[6, 5\]"),
        (probe(6, 4, 1), ProgramError, r"the probe is float32\[6, 4, 1\]"),
        ([probe(), probe()], ProbeError, r"2 arrays for 1 input \(x\)"),
    ],
)
def test_a_wrong_probe(given, error, message):
    with pytest.raises(error, match=message):
        from_onnx.export(small(), as_probe(given))


def test_weights_of_no_dimension_keep_their_shape():
    proto = model("h = Gemm(x, w, c) y = PRelu(h, s)", w=(4, 4), c=np.float32(2), s=np.float32(0.5))
    program = from_onnx.export(proto, as_probe(probe()))
    assert {tensor.name: tensor.shape for tensor in program.trainable} == {"w": (4, 4), "c": (), "s": ()}


def test_a_missing_array():
    two = model("h = Gemm(x, w) s = Add(h, z) y = Relu(s)", "float[N,4] x, float[N,4] z", w=(4, 4))
    with pytest.raises(ProgramError, match=r"no array in the probe for input 'z', float32\[N, 4\]"):
        from_onnx.export(two, as_probe({"x": probe()}))


def test_shapes_that_inference_cannot_tell_are_taken_from_a_run():
    indices = "k = NonZero(t) r = Transpose<perm=[1,0]>(k) g = GatherND(t, r) n = Shape(g)"
    body = f"{indices} s = Concat<axis=0>(minus, n) v = Reshape(x, s) h = MatMul(v, w) y = Relu(h)"
    proto = model(body, w=(4, 4), t=np.array([1, 0, 1, 1, 1], np.float32), minus=np.array([-1]))
    program = from_onnx.export(proto, as_probe(probe()))
    assert [gate.shape for gate in find_gates(program)] == [(6, 4)]
    assert [value.name for value in program.model.graph.outputs] == ["y"]


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (model("y = Relu(x)"), "none of its 0 initializers is the weight of a layer"),
        (model("h = MatMul(x, w) y = Relu(h)", "float[N,4] x, float[4,4] w"), "neither folded .* nor passed as inputs"),
        (model("y = Clip(x, l)", l=np.float32(0)), "none of its 1 initializers is the weight"),
        (onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])), "has no nodes"),
    ],
)
def test_models_without_weights(proto, message):
    with pytest.raises(RegimeError, match=message):
        from_onnx.export(proto, as_probe(probe()))


def test_old_operators_are_refused():
    proto = small()
    proto.opset_import[0].version = 6
    with pytest.raises(
        RegimeError, match=r"operator set version 6; expected 7 or newer; convert it with onnx.version_converter"
    ):
        from_onnx.export(proto, as_probe(probe()))


def test_sparse_weights_are_refused():
    proto = small()
    proto.graph.sparse_initializer.add()
    with pytest.raises(RegimeError, match="sparse initializers"):
        from_onnx.export(proto, as_probe(probe()))


def with_external_data(folder, location="net.bin", name="net.onnx"):
    proto = small()
    folder.mkdir(exist_ok=True)
    onnx.save(proto, folder / name, save_as_external_data=True, location="net.bin", size_threshold=0)
    loaded = onnx.load(folder / name, load_external_data=False)
    for tensor in loaded.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str(location)
    (folder / name).write_bytes(loaded.SerializeToString())
    return folder / name


def test_external_data_beside_the_model(tmp_path, monkeypatch):
    path = with_external_data(tmp_path / "run")
    program = from_onnx.export(path, as_probe(probe()))
    assert_same_outputs(path, program, {"x": probe()})
    monkeypatch.chdir(path.parent)
    assert from_onnx.export("net.onnx", as_probe(probe())).content == program.content
    with pytest.raises(RegimeError, match="tensor 'w1' is in another file; pass the path of the model"):
        from_onnx.export(onnx.load(path, load_external_data=False), as_probe(probe()))


def test_constants_in_external_data_are_taken_into_the_program(tmp_path):
    proto = model("h = Gemm(x, w) y = Max(h, c)", w=(4, 4), c=(4,))
    path = tmp_path / "net.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="net.bin", size_threshold=0)
    program = from_onnx.export(path, as_probe(probe()))
    expected = run(str(path), {"x": probe()})
    state = {name: np.array(array) for name, array in read(from_onnx, path).tensors.items()}
    (tmp_path / "net.bin").unlink()
    np.testing.assert_array_equal(run(program.content, {"x": probe(), **state}), expected)


@pytest.mark.parametrize("location", ["/etc/hostname", "../net.bin", "a/../../net.bin", "C:\\net.bin", "..\\net.bin"])
def test_external_data_elsewhere_is_refused(tmp_path, location):
    path = with_external_data(tmp_path / "run", location)
    shutil.copy(tmp_path / "run/net.bin", tmp_path / "net.bin")
    for use in (lambda path: read(from_onnx, path), lambda path: from_onnx.export(path, as_probe(probe()))):
        with pytest.raises(
            RegimeError, match=r"net.onnx: tensor 'w1' is stored in .*, outside the model's folder; refused"
        ):
            use(path)


def test_a_link_out_of_the_folder_is_refused_before_anything_is_opened(tmp_path):
    path = with_external_data(tmp_path / "run", "link.bin")
    # A pipe: whoever opens it waits for ever.
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "run/link.bin").symlink_to(tmp_path / "pipe")
    with pytest.raises(RegimeError, match="a link that leads outside the model's folder; refused"):
        read(from_onnx, path)
    (tmp_path / "run/link.bin").unlink()
    (tmp_path / "run/link.bin").hardlink_to(tmp_path / "run/net.bin")
    with pytest.raises(RegimeError, match="other hard links and may therefore be a file from elsewhere; refused"):
        read(from_onnx, path)
    (tmp_path / "run/link.bin").unlink()
    (tmp_path / "run/link.bin").symlink_to("net.bin")
    assert read(from_onnx, path).tensors["w1"].shape == (4, 5)


def test_a_tensor_hidden_in_a_branch_or_a_function_is_looked_at_too(tmp_path):
    hidden = onnx.TensorProto(name="hidden", data_type=1, dims=[3], data_location=onnx.TensorProto.EXTERNAL)
    hidden.external_data.add(key="location", value="/etc/passwd")
    constant = onnx.helper.make_node("Constant", [], ["k"], value=hidden)
    proto = small()
    proto.functions.append(onnx.helper.make_function("f", "F", [], ["k"], [constant], proto.opset_import))
    with pytest.raises(RegimeError, match="tensor 'hidden' is stored in '/etc/passwd'"):
        read(from_onnx, saved(proto, tmp_path / "function.onnx"))
    out = onnx.helper.make_tensor_value_info("k", 1, None)
    for branch in (
        onnx.helper.make_graph([constant], "b", [], [out]),
        onnx.helper.make_graph([], "b", [], [out], [hidden]),
    ):
        proto = small()
        proto.graph.node.append(onnx.helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch))
        with pytest.raises(RegimeError, match="tensor 'hidden' is stored in '/etc/passwd'"):
            read(from_onnx, saved(proto, tmp_path / "branch.onnx"))


def test_external_data_that_is_cut_off_or_missing(tmp_path):
    path = with_external_data(tmp_path / "run")
    data = path.with_name("net.bin")
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(
        RegimeError, match=r"bytes \d+ to \d+: expected 12 bytes in a file of \d+; damaged or incomplete"
    ):
        read(from_onnx, path)
    data.unlink()
    with pytest.raises(RegimeError, match="there is no such file; put it next to the model"):
        read(from_onnx, path)


@pytest.mark.parametrize("length", [0, 1, 100, -300, -5, -1])
def test_a_truncated_file_is_an_error_in_one_line(tmp_path, length):
    content = small().SerializeToString()
    path = tmp_path / "step_1.onnx"
    path.write_bytes(content[:length])
    assert from_onnx.recognise(path)
    with pytest.raises(RegimeError, match=r"step_1.onnx: not an ONNX model") as caught:
        read(from_onnx, path)
    assert "\n" not in str(caught.value)


def test_every_truncation_is_a_regime_error(tmp_path):
    proto = small()
    proto.metadata_props.add(key="step", value="3")
    content = proto.SerializeToString()
    path = tmp_path / "net.onnx"
    for length in range(0, len(content), 3):
        path.write_bytes(content[:length])
        for use in (from_onnx.peek, from_onnx.read):
            with contextlib.suppress(RegimeError):
                use(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", [40, pytest.param(150, marks=pytest.mark.slow)])
def test_any_changed_byte_is_a_regime_error_or_another_model(tmp_path, number):
    content = small().SerializeToString()
    generator = np.random.default_rng(0)
    path = tmp_path / "net.onnx"
    for position in generator.choice(len(content), number, replace=False):
        path.write_bytes(content[:position] + generator.bytes(1) + content[position + 1 :])
        for use in (from_onnx.peek, from_onnx.read, lambda path: from_onnx.export(path, as_probe(probe()))):
            with contextlib.suppress(RegimeError):
                use(path)


def test_a_tensor_of_too_few_bytes(tmp_path):
    proto = small()
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]
    with pytest.raises(RegimeError, match="tensor 'w1': not an ONNX model, or damaged"):
        read(from_onnx, saved(proto, tmp_path / "net.onnx"))


@pytest.fixture
def onnx_run(tmp_path):
    """A directory of models; the alphabet has another order than their steps."""
    folder = tmp_path / "run"
    folder.mkdir()
    for index, step in enumerate((2, 10, 100, 0)):
        proto = small(seed=index)
        onnx.helper.set_model_props(proto, {"step": str(step), "epoch": str(step / 8), "loss": "0.25", "note": "text"})
        onnx.save(proto, folder / f"net_{step}.onnx")
    np.save(tmp_path / "probe.npy", probe())
    return folder


def test_a_directory_of_models_in_step_order(onnx_run):
    source = open_directory(onnx_run)
    assert (source.adapter, source.step_kind, source.metrics) == ("onnx", "step", ("loss",))
    assert [checkpoint.step for checkpoint in source.checkpoints] == [0, 2, 10, 100]
    state = source.read(source.checkpoints[3])
    assert (state.epoch, dict(state.metrics)) == (12.5, {"loss": 0.25})
    assert list(state.tensors) == ["w1", "b1", "w2", "b2"]


def test_the_program_of_a_directory_comes_from_its_first_model(onnx_run):
    plan = make_plan(onnx_run, ConversionSettings(probe=onnx_run.parent / "probe.npy"))
    first = from_onnx.program_of(onnx_run / "net_0.onnx", as_probe(probe()))
    assert plan.program == first
    assert load_program(onnx_run, probe=probe())[0] == first
    with pytest.raises(MissingPart, match=r"no probe.npz in it"):
        make_plan(onnx_run)


def test_an_own_program_is_no_checkpoint(onnx_run):
    program = from_onnx.program_of(onnx_run / "net_0.onnx", as_probe(probe()))
    program.save(onnx_run / "program_7.onnx")
    (onnx_run / "notes_8.onnx").write_text("hello")
    source = open_directory(onnx_run)
    assert {entry.path.name for entry in source.skipped} == {"program_7.onnx", "notes_8.onnx"}


def test_a_directory_of_models_on_the_command_line(onnx_run, tmp_path):
    where = [str(onnx_run), "--probe", str(tmp_path / "probe.npy")]
    done = CliRunner().invoke(main, ["analyze", *where, "--json", "-q", "--resamples", "0"])
    assert done.exit_code == 0, done.output
    described = CliRunner().invoke(main, ["inspect", *where])
    assert described.exit_code == 0, described.output


def test_a_model_named_on_the_command_line(onnx_run, tmp_path):
    path, out = onnx_run / "net_2.onnx", tmp_path / "out"
    arguments = ["--probe", str(tmp_path / "probe.npy"), "-o", str(out)]
    done = CliRunner().invoke(main, ["program", "--model", str(path), *arguments])
    assert done.exit_code == 0, done.output
    assert Program.load(out / "program.onnx").trainable
    done = CliRunner().invoke(main, ["program", "--model", str(tmp_path / "none.onnx"), *arguments])
    assert done.exit_code == 1
    assert "none.onnx: no such file or directory" in done.output


def test_a_plain_model_called_program_onnx(onnx_run):
    shutil.copy(onnx_run / "net_2.onnx", onnx_run / "program.onnx")
    with pytest.raises(ProgramError, match=r"not a program .*`regime program .* or with `--model FILE.onnx`"):
        load_program(onnx_run, probe=probe())
    write_program(onnx_run, model=str(onnx_run / "program.onnx"), probe=probe(), overwrite=True)
    assert load_program(onnx_run, probe=probe())[0].trainable


def layer_weights(path):
    """Return the initializers (Constant nodes among them) that convolutions and matrix products use directly."""
    graph = onnx.load(path).graph
    held = {tensor.name for tensor in graph.initializer}
    held |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    linear = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    return {name for node in linear for name in node.input if name in held}


def real_probe(path, samples):
    [value] = onnx_ir.load(path).graph.inputs[:1]
    lengths = [length if isinstance(length, int) and length > 0 else 64 for length in value.shape][1:]
    return value.name, probe(samples, *lengths)


@pytest.mark.parametrize("name", [name for name in GRAPHS if not name.startswith("speech")])
def test_real_graphs(name):
    path = real_graph(name)
    given, array = real_probe(path, 2 if name.startswith("ocr") else 1)
    program = from_onnx.export(path, as_probe({given: array}))
    assert layer_weights(path) <= {tensor.name for tensor in program.trainable}
    assert len(program.content) < 100_000
    assert_same_outputs(path, program, {given: array})


@pytest.mark.parametrize(("name", "gates"), [("squeezenet", 26), ("shufflenet", 33)])
def test_real_graphs_whose_weights_are_computed(name, gates):
    """Most weights of these are `ConstantOfShape`: constants, since no file of a run can hold other values."""
    path = LIGHT / f"light_{name}.onnx"
    names = {tensor.name for tensor in onnx.load(path).graph.initializer}
    [given] = [value.name for value in onnx.load(path).graph.input if value.name not in names]
    program = from_onnx.export(path, as_probe({given: probe(1, 3, 224, 224)}))
    assert layer_weights(path) <= {tensor.name for tensor in program.trainable}
    assert_same_outputs(path, program, {given: probe(1, 3, 224, 224)})


def test_a_real_graph_without_weights():
    path = LIGHT / "light_bvlc_alexnet.onnx"
    with pytest.raises(RegimeError, match="none of its 17 initializers is the weight of a layer"):
        from_onnx.export(path, as_probe({"data_0": probe(1, 3, 224, 224)}))


def with_another_constant(seed):
    """A graph whose second layer is scaled, and whose last bias has another name."""
    body = "h = Gemm(x, w1, b1) r = Relu(h) m = MatMul(r, w2) s = Mul(m, c) a = Relu(s) y = Add(a, b)"
    shapes = {"w1": (4, 5), "b1": (5,), "w2": (5, 3), f"last{seed}": (3,)}
    proto = model(body.replace(", b)", f", last{seed})"), seed=seed, **shapes, c=np.float32(seed))
    for index, node in enumerate(proto.graph.node):
        node.name = f"n{index}"
    return proto


def test_a_run_of_different_graphs_has_a_session_each(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    protos = [with_another_constant(seed) for seed in (1, 2, 3)]
    paths = [saved(proto, folder / f"step_{index}.onnx") for index, proto in enumerate(protos)]
    given = probe()
    with pytest.warns(
        RegimeWarning, match=r"3 different graphs, and each is run with its own; 1 of 4 weight tensors do not"
    ):
        out = regime_proto.convert(folder, tmp_path / "run.h5", probe=given)
    with regime_proto.open_trajectory(out) as trajectory:
        assert list(trajectory["tensor"].values) == ["w1", "b1", "w2"]
        assert "graphs differ" in trajectory.attrs["tensors_compared"]
        masks = np.unpackbits(trajectory["mask"].values, axis=2)
        flips = trajectory["flips"].values
        change = trajectory["weight_delta_l1"].values
    expected = []
    for proto in protos:
        proto.graph.output.extend([onnx.ValueInfoProto(name=name) for name in ("r", "a")])
        _, first, second = run(proto.SerializeToString(), {"x": given})
        expected.append((first > 0, second > 0))
    for row, (first, second) in enumerate(expected):
        np.testing.assert_array_equal(masks[row, :, :5], first)
        np.testing.assert_array_equal(masks[row, :, 8:11], second)
    for row in (1, 2):
        for layer in (0, 1):
            np.testing.assert_array_equal(flips[row, layer], (expected[row][layer] != expected[row - 1][layer]).sum(1))
    states = [read(from_onnx, path).tensors for path in paths]
    np.testing.assert_allclose(change[1], [np.abs(states[1][n] - states[0][n]).sum() for n in ("w1", "b1", "w2")], 1e-6)


def test_different_graphs_without_a_common_gate(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    protos = [with_another_constant(1), with_another_constant(2)]
    protos[1].graph.node[1].name = "renamed"
    for index, proto in enumerate(protos):
        saved(proto, folder / f"step_{index}.onnx")
    message = r"step_1.onnx: the graph has no gate n1 \(Relu, shape \[6, 5\]\), unlike that of the first checkpoint"
    with pytest.warns(RegimeWarning), pytest.raises(RegimeError, match=message):
        regime_proto.convert(folder, tmp_path / "run.h5", probe=probe())


def test_equal_graphs_share_a_session(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    for index in range(3):
        saved(small(seed=index), folder / f"step_{index}.onnx")
    plan = make_plan(folder, ConversionSettings(probe=probe()))
    assert plan.variants is None
    assert len(plan.program.trainable) == 4


REAL = {
    "mnist-conv": ((1, 1, 28, 28), {"Relu": 2}),
    "espcn": ((1, 3, 4, 4), {"Relu": 3}),
    # The squeeze-and-excitation blocks of both end in a HardSigmoid.
    "ocr-direction": ((2, 3, 48, 192), {"Relu": 15, "Clip": 18, "HardSigmoid": 9}),
    "ocr-detection": ((2, 3, 64, 64), {"Relu": 12, "Clip": 24, "HardSigmoid": 10}),
}
COMPUTED = {"resnet50": 49, "vgg19": 18, "densenet121": 121, "inception_v1": 57, "squeezenet": 26, "shufflenet": 33}
LARGE = ("resnet50", "vgg19", "densenet121")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in COMPUTED]
)
def test_every_gate_of_a_real_graph_is_found(name):
    [value] = [
        v for v in onnx.load(LIGHT / f"light_{name}.onnx").graph.input if v.name in ("data_0", "data", "gpu_0/data_0")
    ]
    given = as_probe({value.name: probe(1, 3, 224, 224)})
    gates = find_gates(from_onnx.export(LIGHT / f"light_{name}.onnx", given))
    assert collections.Counter(gate.op for gate in select_gates(gates)) == {"Relu": COMPUTED[name]}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "ocr-detection" else []) for name in REAL]
)
def test_masks_of_a_real_graph_over_a_random_walk(name, tmp_path):
    """Compare with thresholds on the activations, taken as plain outputs of the original model."""
    shape, counts = REAL[name]
    gathered = onnx_ir.from_proto(onnx.load(real_graph(name)))
    GatherInitializers()(gathered)
    roles = find_weights(gathered)
    original = onnx_ir.to_proto(gathered)
    constants = {tensor.name for tensor in original.graph.initializer}
    [value] = [value.name for value in original.graph.input if value.name not in constants]
    given = probe(*shape)
    folder = tmp_path / "models"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for step in range(3):
        for tensor in original.graph.initializer:
            if roles.get(tensor.name):
                walked = onnx.numpy_helper.to_array(tensor)
                walked = walked + 0.01 * (walked.std() or 1.0) * generator.standard_normal(walked.shape)
                tensor.CopyFrom(onnx.numpy_helper.from_array(walked.astype(np.float32), tensor.name))
        saved(original, folder / f"step_{step}.onnx")
    plan = make_plan(folder, ConversionSettings(probe={value: given}))
    assert collections.Counter(gate.op for gate in plan.gates) == counts
    run_plan(plan, tmp_path / "run.h5")
    with regime_proto.open_trajectory(tmp_path / "run.h5") as trajectory:
        assert trajectory["flips"].values[1:].sum(axis=(1, 2)).all()
        assert (trajectory["weight_delta_l1"].values[1:] > 0).all()
        for row in range(3):
            compare_masks(trajectory, row, plan, folder / f"step_{row}.onnx", {value: given})


def compare_masks(trajectory, row, plan, path, feeds):
    proto = onnx.load(path)
    del proto.graph.output[:]
    names = list(dict.fromkeys(gate.value for gate in plan.gates))
    proto.graph.output.extend([onnx.ValueInfoProto(name=name) for name in names])
    values = dict(zip(names, run(proto.SerializeToString(), feeds), strict=True))
    starts, stops = (trajectory[f"layer_byte_{end}"].values for end in ("start", "stop"))
    differing = total = 0
    for index, gate in enumerate(plan.gates):
        z = values[gate.value].reshape(plan.samples, -1)
        stored = trajectory["mask"].values[row, :, starts[index] : stops[index]]
        planes = np.unpackbits(stored.reshape(plan.samples, len(gate.planes), -1), axis=2)[..., : z.shape[1]]
        for number, plane in enumerate(gate.planes):
            expected = z >= plane.threshold if plane.closed else z > plane.threshold
            differs = planes[:, number] != expected
            # The runtime fuses and orders differently with weights as constants.
            assert (np.abs(z[differs] - plane.threshold) <= 1e-5 * max(1.0, np.abs(z).max())).all()
            differing, total = differing + differs.sum(), total + differs.size
    assert differing <= 1e-4 * total


def speech(samples=6):
    """What a detector of speech takes: sound, the state of its recurrent part with the samples second, and the rate."""
    return {
        "input": 0.3 * probe(samples, 576),
        "state": 0.3 * np.stack(2 * [probe(samples, 128)]),
        "sr": np.array(16000),
    }


def masks_of(program, bound, path):
    weights = program.bind(read(from_onnx, path), str(path))
    meter = Meter.calibrate(program, select_gates(find_gates(program)), bound, find_device("cpu"), weights)
    assert [row.axis for row in meter.rows] == [0] * 5
    return [np.asarray(plane.numpy()).reshape(meter.rows[0].samples, -1) for plane in meter.run(weights).planes]


@pytest.fixture(scope="module")
def speech_masks():
    """Those of the activations themselves, as outputs of the one file in which they are not inside of a branch."""
    path = real_graph("speech-16k")
    proto = onnx.load(path)
    names = [node.output[0] for node in proto.graph.node if node.op_type == "Relu"]
    del proto.graph.output[:]
    proto.graph.output.extend([onnx.ValueInfoProto(name=name) for name in names])
    given = speech()
    return [value.reshape(6, -1) > 0 for value in run(proto.SerializeToString(), given)]


@pytest.mark.parametrize("name", ["speech", "speech-16k", "speech-branch"])
def test_scalars_and_states_in_a_real_probe(name, tmp_path, speech_masks):
    path = real_graph(name)
    write_program(tmp_path, model=str(path), probe=speech())
    program, bound = load_program(tmp_path)
    assert {key: int(value) for key, value in bound.items() if key.startswith("regime_")} == {
        "regime_axis_state": 1,
        "regime_axis_sr": -1,
    }
    assert program.fixed == {"sr": 16000}
    assert (program.samples, program.sample_axes) == (6, {"state": 1, "sr": -1})
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "program.onnx")])
    assert "5 tracked, 960 units per sample, 6 samples" in shown.output
    assert "state: float32[2, 6, 128], sample axis 1" in shown.output
    found = masks_of(program, bound, path)
    assert sum((mask != expected).sum() for mask, expected in zip(found, speech_masks, strict=True)) <= 2
    assert all(0.05 < mask.mean() < 0.95 for mask in found)
    with pytest.raises(
        ProbeError, match=r"sr is 8000, but the program was created for 16000; for a different value, export"
    ):
        load_program(tmp_path, probe={**speech(), "sr": np.array(8000)})


def test_a_state_that_is_given_wrongly_is_found_out():
    """Permuting the samples must permute the state with them."""
    path = real_graph("speech-16k")
    given = {**speech(), "regime_axis_state": -1}
    program, bound = load_program(Path(), model=str(path), probe=given)
    weights = program.bind(read(from_onnx, path), str(path))
    gates = select_gates(find_gates(program))
    with pytest.raises(
        RegimeError, match=r"follows the 6 probe samples; if the model mixes samples there, .*regime_axis_"
    ):
        Meter.calibrate(program, gates, bound, find_device("cpu"), weights)


def test_scalars_that_are_no_branch():
    proto = model("s = Mul(x, gain) h = Gemm(s, w) y = Relu(h)", "float[N,4] x, float gain", w=(4, 4))
    program = from_onnx.export(proto, as_probe({"x": probe(), "gain": np.array(0.5, np.float32)}))
    assert program.fixed == {"gain": 0.5}
    [found] = run(program.content, {"x": probe(), "gain": np.array(9, np.float32), **weights_in(proto)})
    [expected] = run(proto.SerializeToString(), {"x": probe(), "gain": np.array(0.5, np.float32)})
    np.testing.assert_array_equal(found, expected)
    assert Program.parse(program.content, "x") == program


def weights_in(proto):
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def test_lengths_that_only_a_run_can_tell_are_no_damage():
    indices = "k = NonZero(t) r = Transpose<perm=[1,0]>(k) g = GatherND(t, r) n = Shape(g)"
    body = f"{indices} s = Concat<axis=0>(minus, n, n, n) v = Reshape(x, s) p = MaxPool<kernel_shape=[2,2]>(v) "
    body += "f = Flatten(p) h = Gemm(f, w) y = Relu(h)"
    arrays = {"t": np.array([1, 0, 1, 1], np.float32), "minus": np.array([-1]), "w": (12, 5)}
    proto = model(body, "float[N,27] x", **arrays)
    program = from_onnx.export(proto, as_probe(probe(6, 27)))
    assert [gate.shape for gate in find_gates(program)] == [(6, 5)]
    [found] = run(program.content, {"x": probe(6, 27), "w": weights_in(proto)["w"]})
    [expected] = run(proto.SerializeToString(), {"x": probe(6, 27)})
    np.testing.assert_array_equal(found, expected)


def test_both_outputs_of_a_branch_that_is_always_taken():
    def branch(name):
        nodes = [onnx.helper.make_node("Relu", ["h"], [f"{name}{index}"]) for index in range(2)]
        outs = [
            onnx.helper.make_tensor_value_info(f"{name}{index}", onnx.TensorProto.FLOAT, None) for index in range(2)
        ]
        return onnx.helper.make_graph(nodes, name, [], outs)

    proto = model("h = Gemm(x, w) c = Cast<to=9>(k) y = Identity(h)", "float[N,4] x, int64 k", w=(4, 5))
    proto.graph.node[-1].CopyFrom(
        onnx.helper.make_node("If", ["c"], ["y", "z"], name="if", then_branch=branch("a"), else_branch=branch("b"))
    )
    proto.graph.output.add(name="z", type=proto.graph.output[0].type)
    program = from_onnx.export(proto, as_probe({"x": probe(), "k": np.array(1)}))
    assert [gate.nested for gate in find_gates(program)] == [False, False]


def test_a_checkpoint_of_all_initializers_matches():
    """Constants, unused ones and those without a name of their own among them."""
    body = "c = Constant<value = int64[2] {-1, 4}>() v = Reshape(x, c) h = Gemm(v, w, b) m = Max(h, zero) "
    body += "y = Reshape(m, s)"
    arrays = {"w": (4, 5), "b": (5,), "zero": np.zeros(5, np.float32), "s": np.array([-1, 5]), "spare": (3, 3)}
    proto = model(body, "float[N,2,2] x", **arrays)
    program = from_onnx.export(proto, as_probe(probe(6, 2, 2)))
    everything = {**weights_in(proto), "c": np.array([-1, 4])}
    bound = program.bind(State(everything), "all.npz")
    assert {"w", "b"} <= set(bound) <= {"w", "b", "spare"}
    assert [tensor.name for tensor in program.trainable] == ["w", "b"]
    with pytest.raises(
        ProgramError, match=r"all\.npz: s differs from the constant of that name in the program; export"
    ):
        program.bind(State({**everything, "s": np.array([-1, 1])}), "all.npz")
    with pytest.raises(ProgramError, match=r"1 tensor not in the program: 'more'"):
        program.bind(State({**everything, "more": np.zeros(2)}), "all.npz")


@pytest.mark.parametrize("name", ["mnist-conv", "ocr-direction"])
def test_all_initializers_of_a_real_graph_match(name):
    path = real_graph(name)
    given, array = real_probe(path, 2 if name.startswith("ocr") else 1)
    program = from_onnx.export(path, as_probe({given: array}))
    held = weights_in(onnx.load(path))
    held |= {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in onnx.load(path).graph.node
        if node.op_type == "Constant"
    }
    assert set(program.bind(State(held), "all.npz")) >= {tensor.name for tensor in program.trainable}


def test_counters_of_batch_norm_in_checkpoints_are_not_asked_of_a_graph(tmp_path):
    net = nets.make_mlp().eval()
    inputs = nets.probe(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (torch.from_numpy(inputs),), tmp_path / "net.onnx", dynamo=True, optimize=False, verbose=False
        )
    folder = tmp_path / "checkpoints"
    states = nets.save_run(folder, net.train(), states=4)
    assert any(name.endswith("num_batches_tracked") for name in states[0])
    by_graph = regime_proto.convert(
        folder, tmp_path / "graph.h5", model=tmp_path / "net.onnx", probe=inputs, noise="none"
    )
    by_model = regime_proto.convert(folder, tmp_path / "model.h5", model=net, probe=inputs, noise="none")
    with regime_proto.open_trajectory(by_graph) as found, regime_proto.open_trajectory(by_model) as expected:
        assert (found["flips"].to_numpy() == expected["flips"].to_numpy()).all()
