"""The graphs that run on a card, held against the kernels of ONNX Runtime's CUDA provider; no card is needed."""

import nets
import numpy as np
import onnx_ir as ir
import pytest
import transformers_models
from cuda_kernels import fallen_back
from graphs import FEATURES, RESIDENT, SAMPLES, TYPES, UNITS, above, program, quarters
from onnx.reference import ReferenceEvaluator
from spellings import EVERY

from regime_proto.adapters.from_torch import exporter
from regime_proto.engine.compare import comparing_graph
from regime_proto.engine.session import mask_graph
from regime_proto.plugins.registry import exporter_for
from regime_proto.program.gates import find_gates
from regime_proto.program.mask_outputs import Rows
from regime_proto.program.probe import as_probe

OURS = "regime_"
# What follows the gate keeps its operators in the graph, which ends at the last gate.
PRECISIONS = ("float", "float16", "double")
PRODUCT = "z = Mul(x, w)"
BEHIND = "\nbehind = Neg(y)\nlast = Relu(behind)"
# Gates that run on the CPU only.
CPU_ONLY = {("Celu", "float"): ["Celu(12) float"]}


def masked(made, stored, *, rows=None, nudged=None):
    """Return the graph that packs the masks of all gates, for weights that are stored as `stored`."""
    gates = [gate for gate in find_gates(made) if gate.trackable]
    dtypes = {name: np.dtype(stored) for name in made.weight_inputs}
    rows = [rows or Rows(SAMPLES, 0)] * len(gates)
    return mask_graph(made, gates, dtypes=dtypes, rows=rows, packed=True, nudged=nudged)


def ours_and_others(model):
    """Return the nodes that fall back to the CPU: our own, and what else there is."""
    fallen = fallen_back(model)
    ours = {name: what for name, what in fallen.items() if name.startswith(OURS)}
    return ours, [what for name, what in fallen.items() if name not in ours]


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", EVERY)
def test_every_gate_and_its_masks_run_on_the_card(name, dtype):
    made = program(EVERY[name][0] + BEHIND, dtype=dtype, output="last")
    ours, others = ours_and_others(masked(made, TYPES[dtype]))
    assert not ours
    # Those that have no kernel at all, such as Mish, are run in pieces.
    assert others == CPU_ONLY.get((name, dtype), [])


@pytest.mark.parametrize("name", ["Relu", "Clip", "Gelu"])
def test_activations_in_bfloat16_are_compared_on_the_card(name):
    made = program(EVERY[name][0], dtype="bfloat16")
    assert ours_and_others(masked(made, np.float32)) == ({}, [])


@pytest.mark.parametrize("opset", [10, 13, 18, 21, 22, 23])
def test_other_operator_sets(opset):
    assert ours_and_others(masked(program("y = Relu(z)", opset=opset), np.float16)) == ({}, [])


@pytest.mark.parametrize("stored", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_weights_of_any_precision_are_widened_on_the_card(dtype, stored):
    units = np.arange(0, UNITS, 2)
    rows = Rows(SAMPLES, 1, units, np.ones((SAMPLES, len(units)), bool))
    turned = "t = MatMul(x, w)\nz = Transpose(t)"
    made = program("y = Clip(z, k(0), k(6))", dtype=dtype, before=turned)
    assert ours_and_others(masked(made, stored, rows=rows, nudged=1)) == ({}, [])


@pytest.mark.parametrize("stored", [np.float16, np.float32, np.float64, np.int8, np.int64])
def test_comparing_runs_on_the_card(stored):
    weights = [RESIDENT.place(np.zeros(shape, stored)) for shape in ((FEATURES, UNITS), (UNITS,), (3, 2, 1, 1))]
    assert fallen_back(comparing_graph(weights, planes=[1, 2])) == {}


@pytest.mark.usefixtures("nets_are_exported_once")
@pytest.mark.parametrize("make", [nets.make_mlp, nets.make_conv, nets.make_encoder])
def test_networks_run_on_the_card(make):
    model = make()
    made = exporter.export(model, as_probe(nets.probe(model, SAMPLES)))
    rows = Rows(SAMPLES, int(make is nets.make_encoder))
    assert ours_and_others(masked(made, np.float32, rows=rows, nudged=0)) == ({}, [])


@pytest.mark.parametrize("name", ["gpt2", "vit"])
def test_networks_of_transformers_run_on_the_card(name):
    *_, probe, axis = transformers_models.MODELS[name]
    model = transformers_models.make(name)
    made = exporter_for(model).export(model, as_probe(probe))
    samples = len(next(iter(probe.values())))
    assert ours_and_others(masked(made, np.float16, rows=Rows(samples, axis), nudged=0)) == ({}, [])


def test_bfloat16_is_compared_as_it_is():
    body, thresholds = EVERY["Clip"]
    made = program(body, dtype="bfloat16", inputs={"x": (SAMPLES, UNITS)}, weights={"w": (UNITS,)}, before=PRODUCT)
    x, w = quarters((SAMPLES, UNITS), 0, TYPES["bfloat16"]), np.ones(UNITS, TYPES["bfloat16"])
    model = masked(made, TYPES["bfloat16"])
    found = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x, "w": w})
    np.testing.assert_array_equal(found[: len(thresholds)], above(x * w, thresholds))
