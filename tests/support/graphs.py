"""Small ONNX graphs, written as text, and what their masks are by definition."""

import re
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from regime_proto.checkpoints.source import Checkpoint, State
from regime_proto.engine.measure import Meter, MeterSettings
from regime_proto.program.gates import find_gates, select_gates
from regime_proto.program.program import Program, Tensor
from regime_proto.program.rewrite import NameNodes
from regime_proto.runtime.device import Device

SAMPLES, FEATURES, UNITS = 8, 4, 11
HOST, RESIDENT = Device("cpu", resident=False), Device("cpu", resident=True)
TYPES = {"float": np.float32, "float16": np.float16, "double": np.float64, "bfloat16": ml_dtypes.bfloat16}


def program(body, *, dtype="float", opset=20, inputs=None, weights=None, output="y", before="z = MatMul(x, w)"):
    """Return a program of x (sample, feature) and w (feature, unit); ``k(0.5)`` in `body` is a constant.

    `inputs` and `weights` hold other shapes than those of x and w.
    """
    inputs = inputs or {"x": (SAMPLES, FEATURES)}
    weights = weights or {"w": (FEATURES, UNITS)}
    constants = {}

    def named(match):
        name = f"k_{len(constants)}"
        with np.errstate(over="ignore"):
            constants[name] = np.array(float(match[1])).astype(TYPES[dtype])
        return name

    text = re.sub(r"\bk\(([^)]*)\)", named, f"{before}\n{body}")
    arguments = ", ".join(
        f"{dtype}[{','.join(map(str, shape))}] {name}" for name, shape in {**inputs, **weights}.items()
    )
    header = f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    model = onnx.parser.parse_model(f"{header} g ({arguments}) => ({dtype} {output}) {{{text}}}")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    model.graph.output[0].type.tensor_type.ClearField("shape")
    parsed = ir.from_proto(model)
    ShapeInferencePass(check_type=False, strict_mode=False)(parsed)
    NameNodes()(parsed)
    tensors = [Tensor(name, tuple(shape), trainable=True) for name, shape in weights.items()]
    return Program.from_model(parsed, tensors=tensors, probe_inputs=list(inputs), framework={})


def quarters(shape, seed, dtype=np.float32, spread=8):
    """Return multiples of 1/4: their products and short sums are exact in every type, and often hit a threshold."""
    return (np.random.default_rng(seed).integers(-spread, spread + 1, shape) / 4).astype(dtype)


def meter_of(program, probe, weights, *patterns, device=HOST, **options):
    gates = select_gates(find_gates(program), patterns)
    return Meter.calibrate(program, gates, probe, device, weights, settings=MeterSettings(**options))


def observe(meter, *states):
    """Return one observation per state, each compared with the one before."""
    measured = [
        meter.measure(meter.bind(Checkpoint(step, Path(f"{step}")), State(state))) for step, state in enumerate(states)
    ]
    return [meter.compare(now, before) for now, before in zip(measured, [None, *measured], strict=False)]


def planes_of(meter, mask):
    """Return the planes of every layer in packed masks: (plane, sample, unit) bool."""
    found, start = [], 0
    for layer in meter.layers:
        part = mask[:, start : start + layer.bytes].reshape(len(mask), len(layer.thresholds), -1)
        found.append(np.unpackbits(part, axis=2).astype(bool)[..., : layer.width].swapaxes(0, 1))
        start += layer.bytes
    assert start == mask.shape[1]
    return found


def above(z, thresholds):
    """Return by definition which thresholds each unit is above; (t, True) counts t itself as above."""
    z = z.reshape(len(z), -1)
    return np.array([z >= z.dtype.type(at) if closed else z > z.dtype.type(at) for at, closed in thresholds])


def flips(before, after):
    """Return per sample how many units are in another region."""
    return (before.sum(axis=0) != after.sum(axis=0)).sum(axis=1)
