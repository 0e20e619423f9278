"""Frozen gates: with the masks of its own the network as it is, with others the affine pieces that these say."""

import nets
import numpy as np
import onnxruntime
import pytest
import torch
from graphs import FEATURES, SAMPLES, UNITS, above, program, quarters
from spellings import PIECEWISE
from torch import nn

from regime_proto.adapters.from_torch.exporter import export
from regime_proto.program.freezing import FreezeGates, frozen_name
from regime_proto.program.gates import find_gates, select_gates
from regime_proto.program.probe import as_probe
from regime_proto.runtime.ir import PreconditionError, ir


def session(model):
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])


def frozen(made, gates):
    model = made.parse_model()
    FreezeGates(gates)(model)
    return session(model)


def run(session, feeds):
    wanted = {value.name for value in session.get_inputs()}
    return session.run(None, {name: array for name, array in feeds.items() if name in wanted})[0]


def pieces(z, y, regions):
    """Return slope and intercept of each region, fitted to a gate's values."""
    z = z.astype(float)
    return [np.polyfit(z[regions == region], y[regions == region], 1) for region in range(regions.max() + 1)]


@pytest.mark.parametrize("name", PIECEWISE)
def test_every_piecewise_gate(name):
    body, thresholds = PIECEWISE[name]
    made = program(body)
    [gate] = [gate for gate in find_gates(made) if gate.trackable]
    x = quarters((SAMPLES, FEATURES), 1, spread=6)
    w, other = (quarters((FEATURES, UNITS), seed, spread=6) for seed in (2, 3))
    z, masks, others = x @ w, above(x @ w, thresholds), above(x @ other, thresholds)
    plain, changed = session(made.parse_model()), frozen(made, [gate])
    y = run(plain, {"x": x, "w": w})

    def with_masks(masks):
        return run(changed, {"x": x, "w": w, **{frozen_name(0, plane): mask for plane, mask in enumerate(masks)}})

    np.testing.assert_allclose(with_masks(masks), y, rtol=1e-6, atol=1e-6)
    grid = {"x": np.zeros_like(x), "w": np.zeros_like(w)}
    grid["x"][:, 0], grid["x"][:, 1] = np.linspace(-8, 8, SAMPLES), 1
    grid["w"][0], grid["w"][1] = 1, np.linspace(-1.5, 1.5, UNITS)
    points = grid["x"] @ grid["w"]
    lines = pieces(points.ravel(), run(plain, grid).ravel(), np.sum(above(points, thresholds), axis=0).ravel())
    slopes, intercepts = (np.array(values)[np.sum(others, axis=0)] for values in zip(*lines, strict=True))
    np.testing.assert_allclose(with_masks(others), slopes * z + intercepts, rtol=1e-5, atol=1e-5)


class Slopes(nn.Module):
    """Learned slopes: one for each channel, and one in all."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 5, 3), nn.PReLU(5), nn.Conv2d(5, 4, 3), nn.PReLU(), nn.Flatten(), nn.LazyLinear(3)
        )

    def forward(self, x):
        return self.layers(x)


def test_slopes_that_are_weights():
    torch.manual_seed(0)
    model = Slopes().eval()
    x = torch.randn(4, 2, 9, 9)
    y = model(x)
    with torch.no_grad():
        model.layers[1].weight.copy_(torch.tensor([0.5, -1.0, 0.0, 2.0, 0.1]))
        y = model(x).numpy()
    made = export(model, as_probe(x.numpy()))
    gates = select_gates(find_gates(made))
    assert len(gates) == 2
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    first = model.layers[0](x)
    second = model.layers[2](model.layers[1](first))
    masks = {frozen_name(0, 0): (first > 0).numpy(), frozen_name(1, 0): (second > 0).numpy()}
    [probe] = made.probe_inputs
    found = run(frozen(made, gates), {probe: x.numpy(), **weights, **masks})
    np.testing.assert_allclose(found, y, rtol=1e-5, atol=1e-5)
    # All units of the first gate below their threshold: its slopes alone.
    off = {**masks, frozen_name(0, 0): np.zeros_like(masks[frozen_name(0, 0)])}
    with torch.no_grad():
        below = first * model.layers[1].weight[:, None, None]
        second = model.layers[2](below)
        third = torch.where(torch.from_numpy(masks[frozen_name(1, 0)]), second, second * model.layers[3].weight)
        expected = model.layers[4:](third).numpy()
    np.testing.assert_allclose(
        run(frozen(made, gates), {probe: x.numpy(), **weights, **off}), expected, rtol=1e-5, atol=1e-5
    )


def test_smooth_gates_are_refused():
    made = program("y = Gelu(z)")
    with pytest.raises(PreconditionError, match="smooth"):
        FreezeGates(find_gates(made))(made.parse_model())


@pytest.mark.parametrize("make", [nets.make_mlp, nets.make_conv, nets.make_encoder])
def test_a_frozen_network_is_the_network(make):
    model = make().eval()
    probe = nets.probe(model)
    made = export(model, as_probe(probe))
    gates = select_gates(find_gates(made))
    names = made.probe_inputs
    weights = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    feeds = {**weights, **dict(zip(names, probe.values() if isinstance(probe, dict) else [probe], strict=True))}
    exposed = made.parse_model()
    values = {value.name: value for node in exposed.graph for value in node.outputs}
    exposed.graph.outputs.extend(values[gate.value] for gate in gates)
    opened = session(exposed)
    wanted = {value.name for value in opened.get_inputs()}
    y, *activations = opened.run(None, {name: array for name, array in feeds.items() if name in wanted})
    masks = {
        frozen_name(index, plane): mask.reshape(z.shape)
        for index, (gate, z) in enumerate(zip(gates, activations, strict=True))
        for plane, mask in enumerate(above(z, [(plane.threshold, plane.closed) for plane in gate.planes]))
    }
    np.testing.assert_allclose(run(frozen(made, gates), {**feeds, **masks}), y, rtol=1e-4, atol=1e-5)
