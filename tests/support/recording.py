"""Trainings that are recorded live and saved at every step, to hold one against the other."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from regime_proto.program.gates import find_gates, select_gates
from regime_proto.program.program import Program
from regime_proto.schema.reader import open_checked, read_header, read_layers, read_rows

# Of float32 sums of some dozens of products, relative to the largest activation.
ROUNDING = 1e-5


def rows(path):
    """Return the growing variables of a trajectory."""
    with open_checked(path) as file:
        return read_rows(file, read_header(file))


def extra(path):
    """Return what a trajectory says beyond its format."""
    with open_checked(path) as file:
        return dict(file["extra"].attrs) if "extra" in file else {}


def pre_activations_of(program, gates, probe):
    """Return a function of weights: what the thresholds of each gate are held against, ReLUs by their inputs."""
    model = program.parse_model()
    nodes = {node.name: node for node in model.graph}
    values = {value.name: value for node in model.graph for value in node.outputs}
    wanted = [nodes[gate.node].inputs[0] if gate.kind == "relu" else values[gate.value] for gate in gates]
    model.graph.outputs.clear()
    model.graph.outputs.extend(dict.fromkeys(wanted))
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    taken = {value.name for value in session.get_inputs()}

    def pre_activations(weights):
        found = session.run(None, {name: array for name, array in {**weights, **probe}.items() if name in taken})
        by_value = dict(zip(dict.fromkeys(wanted), found, strict=True))
        return [by_value[value] for value in wanted]

    return pre_activations


def assert_near_zero(layers, gates, masks, others, values):
    """Hold two masks of one state against each other: where they differ, the pre-activation is within rounding."""
    differing = 0
    start = 0
    for layer, gate, value in zip(layers, gates, values, strict=True):
        bits = [
            np.unpackbits(mask[:, start : start + layer.bytes], axis=1)[:, : layer.size] for mask in (masks, others)
        ]
        start += layer.bytes
        samples = len(masks)
        axis = next(axis for axis, length in enumerate(gate.shape) if length == samples)
        distance = np.abs(np.moveaxis(value, axis, 0).reshape(samples, -1))
        differ = bits[0] != bits[1]
        assert (distance[differ] <= ROUNDING * distance.max()).all()
        differing += int(differ.sum())
    return differing


def assert_same_run(live, converted, checkpoints, probe):
    """Deltas within 1e-6, masks up to units within rounding of zero, flips as the masks have it."""
    one, other = rows(live), rows(converted)
    np.testing.assert_array_equal(one["step"], other["step"])
    np.testing.assert_array_equal(one["valid"], other["valid"])
    for name in ("weight_delta_l1", "weight_delta_l2"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6, atol=0)
    measured = [{name for name in rows if name.startswith(("weight_distance", "quantity_"))} for rows in (one, other)]
    assert measured[0] == measured[1]
    for name in measured[0] - {"quantity_active_fraction"}:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6, atol=1e-9, err_msg=name)
    with open_checked(converted) as file:
        layers = read_layers(file)
        program = Program.parse(file["program"][...].tobytes(), "program")
    gates = [gate for gate in select_gates(find_gates(program), ["*"]) if gate.node in {layer.name for layer in layers}]
    states = [torch.load(path) for path in checkpoints]
    pre_activations = pre_activations_of(program, gates, dict(zip(program.probe_inputs, [probe], strict=True)))
    differing = np.zeros(len(states), int)
    for number, state in enumerate(states):
        weights = {name: tensor.numpy() for name, tensor in state.items()}
        values = pre_activations(weights)
        differing[number] = assert_near_zero(layers, gates, one["mask"][number], other["mask"][number], values)
    apart = np.abs(one["flips"].astype(int) - other["flips"].astype(int)).sum(axis=(1, 2))
    assert (apart[1:] <= differing[1:] + differing[:-1]).all()
    return int(differing.sum())
