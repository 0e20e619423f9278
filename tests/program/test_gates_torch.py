"""Activations as torch exports them, against thresholds on torch's own pre-activations."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from activations import ACTIVATIONS, FEATURES, SAMPLES, UNITS, Before
from graphs import above, flips, meter_of, observe, planes_of, quarters
from torch import nn

from regime_proto.adapters.from_torch import adapter as from_torch
from regime_proto.program.gates import Gate, find_gates, select_gates
from regime_proto.program.probe import as_probe
from regime_proto.schema.errors import RegimeError


class Several(nn.Module):
    """Layers with an activation each, beside one another."""

    def __init__(self, activations):
        super().__init__()
        self.parts = nn.ModuleList(Before(activation) for activation in activations)

    def forward(self, x):
        return tuple(part(x) for part in self.parts)


@dataclass(frozen=True)
class Measured:
    """A gate, and over three states what was found of it; `expected` are its planes by definition."""

    gate: Gate
    planes: list
    flips: list
    expected: list


def measured(names):
    """Export these activations as one net and measure three states of it; return a `Measured` by each name."""
    torch.manual_seed(0)
    model = Several([ACTIVATIONS[name][0] for name in names])
    x = quarters((SAMPLES, FEATURES), 1)
    program = from_torch.export(model, as_probe(x))
    gates = find_gates(program)
    assert len(gates) == len(names)
    states, expected = [], []
    for seed in (2, 3, 4):
        with torch.no_grad():
            for index, part in enumerate(model.parts):
                part.fc.weight.copy_(torch.from_numpy(quarters((UNITS, FEATURES), seed + 100 * index)))
                part.fc.bias.copy_(torch.from_numpy(quarters((UNITS,), seed + 100 * index + 10)))
        states.append({key: value.numpy().copy() for key, value in model.state_dict().items()})
        before = [part.fc(torch.from_numpy(x)).detach().numpy() for part in model.parts]
        expected.append([above(z, ACTIVATIONS[name][1]) for name, z in zip(names, before, strict=True)])
    [probe] = program.probe_inputs
    meter = meter_of(program, {probe: x}, states[0], "kind:*")
    found = observe(meter, *states)
    planes = [planes_of(meter, observation.mask) for observation in found]
    assert {len(layers) for layers in planes} == {len(names)}
    counts = [observation.flips for observation in found]
    return {
        name: Measured(gates[index], *([each[index] for each in made] for made in (planes, counts, expected)))
        for index, name in enumerate(names)
    }


def assert_right(found, name):
    _, _, kind = ACTIVATIONS[name]
    assert found.gate.trackable
    assert (found.gate.kind, found.gate.default) == (kind, kind != "smooth")
    before = found.expected[0]
    for planes, counts, wanted in zip(found.planes, found.flips, found.expected, strict=True):
        np.testing.assert_array_equal(planes, wanted)
        np.testing.assert_array_equal(counts, flips(before, wanted))
        before = wanted


@pytest.fixture(scope="module")
def together():
    """All activations as one net: half a second for the export of each are saved."""
    return measured(list(ACTIVATIONS))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_torch(together, name):
    assert_right(together[name], name)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "ReLU" else [pytest.mark.slow]) for name in ACTIVATIONS]
)
def test_an_activation_by_itself(name):
    assert_right(measured([name])[name], name)


class Attention(nn.Module):
    """Causal and padded attention, gated units, squeeze and excite, and normalised vectors: no gate but the last."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(UNITS, 2, batch_first=True)
        self.excite = nn.Linear(UNITS, UNITS)
        self.wide = nn.Linear(UNITS, 2 * UNITS)
        self.lstm = nn.LSTMCell(UNITS, UNITS)
        self.last = nn.Linear(UNITS, UNITS)

    def forward(self, x):
        mask = torch.triu(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool), diagonal=1)
        hidden, _ = self.attention(x, x, x, attn_mask=mask)
        hidden = hidden.masked_fill(torch.arange(x.shape[1])[None, :, None] > 3, float("-inf")).softmax(1)
        hidden = F.glu(self.wide(hidden))
        hidden = hidden * torch.sigmoid(self.excite(hidden.mean(1, keepdim=True)))
        distance = torch.maximum(torch.arange(x.shape[1]) - 2, torch.tensor(0)).clamp(0, 4)
        hidden = hidden + distance[None, :, None]
        hidden = F.normalize(hidden, dim=-1)
        h, _ = self.lstm(hidden[:, 0])
        return F.relu(self.last(h))


def test_a_model_full_of_what_looks_like_gates():
    torch.manual_seed(0)
    gates = find_gates(from_torch.export(Attention(), as_probe(np.ones((SAMPLES, 5, UNITS), np.float32))))
    assert [gate.op for gate in select_gates(gates)] == ["Relu"]
    [guard] = [gate for gate in gates if not gate.default]
    assert guard.reason.startswith("one bound, 1e-12")


def test_activations_without_a_threshold():
    model = Several([nn.Sigmoid(), nn.Tanh(), nn.Softmax(1), nn.GLU(1), nn.Tanhshrink()])
    program = from_torch.export(model, as_probe(np.ones((SAMPLES, FEATURES), np.float32)))
    with pytest.raises(RegimeError, match="the model has no gate to track"):
        find_gates(program)
