"""Programs from elsewhere: run first where they can do no harm, and what takes too much is refused."""

import json
import shutil
import time

import nets
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import regime_proto
from regime_proto.adapters.from_torch.exporter import export
from regime_proto.conversion.plan import load_program
from regime_proto.engine import trial
from regime_proto.program.probe import as_probe
from regime_proto.program.program import FILE_NAME, METADATA_KEY, ProgramError
from regime_proto.schema.errors import RegimeError

PROBE = {"x": np.ones((2, 4), np.float32)}


def int64(name, *values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


def model(nodes, *, initializers=(), functions=(), weights=True, metadata=None):
    """A graph ``x → y`` around some nodes that make ``z`` of ``x``, with a ReLU behind them."""
    value = helper.make_tensor_value_info
    held = [numpy_helper.from_array(np.ones((4, 4), np.float32), "w")]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
            *nodes,
            helper.make_node("Relu", ["z"], ["r"], "gate"),
            helper.make_node("MatMul", ["r", "w"], ["y"], "last"),
        ],
        "g",
        [value("x", TensorProto.FLOAT, [2, 4]), *([] if weights else [value("w", TensorProto.FLOAT, [4, 4])])],
        [value("y", TensorProto.FLOAT, [2, 4])],
        initializer=[*(held if weights else []), *initializers],
        value_info=[value(name, TensorProto.FLOAT, [2, 4]) for name in ("z", "r")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    made = helper.make_model(graph, opset_imports=opsets, functions=functions)
    made.ir_version = 10
    if metadata is not None:
        helper.set_model_props(made, {METADATA_KEY: metadata})
    return made


def endless_loop():
    """A loop of 10¹⁵ turns."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Tanh", ["state"], ["next"]),
        ],
        "body",
        [
            value("turn", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("state", TensorProto.FLOAT, [2, 4]),
        ],
        [value("go_on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, [2, 4])],
    )  # fmt: skip
    turns = numpy_helper.from_array(np.array(10**15, np.int64), "turns")
    always = numpy_helper.from_array(np.array(True), "always")
    return [helper.make_node("Loop", ["turns", "always", "h"], ["z"], body=body)], [turns, always], []


def huge(op):
    """Terabytes made of a few numbers, reduced to what the rest of the graph takes."""
    if op == "ConstantOfShape":
        made, constants = [helper.make_node(op, ["shape"], ["big"])], [int64("shape", 10**6, 10**6)]
    elif op == "Expand":
        made, constants = [helper.make_node(op, ["one", "shape"], ["big"])], [
            int64("shape", 10**6, 10**6), numpy_helper.from_array(np.ones(1, np.float32), "one")
        ]  # fmt: skip
    else:
        scalars = zip(("from", "to", "by"), (0.0, 1e12, 1.0), strict=True)
        constants = [numpy_helper.from_array(np.array(number), name) for name, number in scalars]
        made = [helper.make_node(op, ["from", "to", "by"], ["wide"]), helper.make_node("Cast", ["wide"], ["big"], to=1)]
    made.append(helper.make_node("ReduceMax", ["big"], ["most"], keepdims=0))
    return [*made, helper.make_node("Add", ["h", "most"], ["z"])], constants, []


def functions_of_functions():
    """25 functions, each of two calls of the one before: 2²⁵ nodes once they are inlined."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    made = [helper.make_function("own", "f0", ["a"], ["b"], [helper.make_node("Tanh", ["a"], ["b"])], opsets)]
    for level in range(1, 26):
        calls = [
            helper.make_node(f"f{level - 1}", ["a"], ["m"], domain="own"),
            helper.make_node(f"f{level - 1}", ["m"], ["b"], domain="own"),
        ]
        made.append(helper.make_function("own", f"f{level}", ["a"], ["b"], calls, opsets))
    return [helper.make_node("f25", ["h"], ["z"], domain="own")], [], made


HOSTILE = {
    "loop": endless_loop,
    **{op: lambda op=op: huge(op) for op in ("ConstantOfShape", "Expand", "Range")},
    "functions": functions_of_functions,
}


def description(tensors):
    return json.dumps({"version": "1.0", "tensors": tensors, "probe_inputs": ["x"], "framework": {}})


WEIGHT = [{"name": "w", "shape": [4, 4], "trainable": True, "aliases": []}]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """What the limits are is not what is tested; the shorter, the sooner a loop ends."""
    monkeypatch.setenv("REGIME_LIMIT_PROGRAM_SECONDS", "1")
    monkeypatch.delenv(trial.TRUST)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind in ("Expand", "Range") else []) for kind in HOSTILE]
)
@pytest.mark.parametrize("written", ["a program", pytest.param("a model", marks=pytest.mark.slow)])
def test_what_takes_too_much_is_refused(tmp_path, kind, written):
    nodes, constants, functions = HOSTILE[kind]()
    is_program = written == "a program"
    path = tmp_path / (FILE_NAME if is_program else "net.onnx")
    metadata = description(WEIGHT) if is_program else None
    hostile = model(nodes, initializers=constants, functions=functions, weights=not is_program, metadata=metadata)
    onnx.save(hostile, path)
    start = time.monotonic()
    with pytest.raises(
        ProgramError, match=rf"{path.name}: refused: (one run needs .*; if you trust|it .*cannot be run)"
    ):
        load_program(tmp_path, model=None if is_program else str(path), probe=PROBE)
    assert time.monotonic() - start < 60


DESCRIPTIONS = {
    "deep": "[" * 200_000,
    "list": "[]",
    "number": "3",
    "tensors": description([1]),
    "shape": description(WEIGHT).replace("[4, 4]", '"ab"'),
}


@pytest.mark.parametrize(
    ("kind", "trusted"),
    [
        *((kind, True) for kind in DESCRIPTIONS),
        ("deep", False),
        ("shape", False),
        *(pytest.param(kind, False, marks=pytest.mark.slow) for kind in ("list", "number", "tensors")),
    ],
)
def test_a_description_of_another_form_is_an_error_of_ours(tmp_path, monkeypatch, kind, trusted):
    if trusted:
        monkeypatch.setenv(trial.TRUST, "1")
    hostile = model([helper.make_node("Tanh", ["h"], ["z"])], weights=False, metadata=DESCRIPTIONS[kind])
    onnx.save(hostile, tmp_path / FILE_NAME)
    with pytest.raises(RegimeError, match=rf"{FILE_NAME}: (damaged program description|refused: it cannot be run)"):
        load_program(tmp_path, probe=PROBE)


def runs(monkeypatch):
    """Count the children; each is started as ever."""
    started, run = [], trial._run
    monkeypatch.setattr(trial, "_run", lambda *arguments: started.append(arguments) or run(*arguments))
    return started


def test_what_passed_is_not_run_again(tmp_path, monkeypatch):
    started = runs(monkeypatch)
    path = tmp_path / "net.onnx"
    onnx.save(model([helper.make_node("Tanh", ["h"], ["z"])]), path)
    for _ in range(2):
        program, _ = load_program(tmp_path, model=str(path), probe=PROBE)
        assert [tensor.name for tensor in program.trainable] == ["w"]
    assert len(started) == 1
    # Another content, another form of the probe: another graph that is run.
    other = model([helper.make_node("Tanh", ["h"], ["z"])])
    other.doc_string = "changed"
    onnx.save(other, path)
    load_program(tmp_path, model=str(path), probe=PROBE)
    assert len(started) == 2


def test_large_weights_are_drawn_part_by_part(monkeypatch):
    made = nets.make_mlp()
    program, probe = export(made, as_probe(nets.probe(made))), as_probe(nets.probe(made))
    drawn = []
    draw = trial._drawn
    monkeypatch.setattr(trial, "_drawn", lambda *arguments: drawn.append(arguments) or draw(*arguments))
    trial.run_once(program, probe)
    whole = drawn.copy()
    drawn.clear()
    monkeypatch.setattr(trial, "_LARGEST_WHOLE", 0)
    trial.run_once(program, probe)
    # The head lies behind the last gate.
    assert 2 < len(drawn) < len(whole)


def test_whoever_trusts_all_programs_says_so(tmp_path, monkeypatch):
    started = runs(monkeypatch)
    monkeypatch.setenv(trial.TRUST, "1")
    onnx.save(model([helper.make_node("Tanh", ["h"], ["z"])]), tmp_path / "net.onnx")
    load_program(tmp_path, model=str(tmp_path / "net.onnx"), probe=PROBE)
    assert not started


def test_what_this_machine_exported_is_not_run_apart(mlp_run, monkeypatch):
    started = runs(monkeypatch)
    load_program(mlp_run)
    assert not started


def test_a_copy_of_a_run_from_elsewhere_is_run_apart_once(mlp_run, tmp_path, monkeypatch):
    started = runs(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = shutil.copytree(mlp_run, tmp_path / "checkpoints")
    results = [
        regime_proto.analyze(regime_proto.convert(folder, tmp_path / f"{turn}.h5"), resamples=0) for turn in range(2)
    ]
    assert len(started) == 1
    assert results[0].rho == results[1].rho


def test_records_of_others_are_not_believed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    probe = as_probe(nets.probe(nets.make_mlp()))
    trial.remember(b"content", probe)
    record = trial._record(b"content", probe)
    assert trial._is_known(record)
    (tmp_path / "regime-proto" / "programs").chmod(0o777)
    assert not trial._is_known(record)
