"""Affine maps of networks against torch's own derivatives in float64, and how far they reach."""

import nets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from regime_proto.adapters.from_torch.exporter import export
from regime_proto.engine.linearizing import Linearizer
from regime_proto.program.gates import find_gates
from regime_proto.program.probe import as_probe
from regime_proto.runtime.device import Device
from regime_proto.schema.errors import RegimeError

HOST = Device("cpu", resident=False)


class Pooled(nn.Module):
    """Convolutions with pooling, padded and not, and learned slopes."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.slope = nn.PReLU(4)
        self.pool = nn.MaxPool2d(2)
        self.second = nn.Conv2d(4, 5, 3, padding=1)
        self.clip = nn.Hardtanh(-0.5, 0.75)
        self.wide = nn.MaxPool2d(3, stride=2, padding=1)
        self.head = nn.Linear(5 * 2 * 2, 3)

    def forward(self, x):
        x = self.pool(self.slope(self.norm(self.first(x))))
        return self.head(self.wide(self.clip(self.second(x))).flatten(1))


def trained(model, shape, seed=0):
    """Give a model weights and statistics that are no longer those it begins with; return a probe."""
    torch.manual_seed(seed)
    model.train()
    for _ in range(3):
        model(torch.randn(16, *shape))
    return model.eval(), torch.randn(5, *shape).numpy()


def make(name):
    if name == "pooled":
        return trained(Pooled(), (2, 10, 10))
    model = {"mlp": nets.make_mlp, "conv": nets.make_conv}[name]()
    probe = nets.probe(model, samples=5)
    return trained(model, probe.shape[1:])


def linearizer(model, probe, **options):
    program = export(model, as_probe(probe))
    [name] = program.probe_inputs
    weights = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items() if tensor.ndim}
    return Linearizer(program, {name: probe}, HOST, **options), weights


@pytest.mark.parametrize("name", ["mlp", "conv", "pooled"])
def test_maps_are_those_of_torch(name):
    model, probe = make(name)
    found = linearizer(model, probe)
    maps = found[0].maps(found[0].run(found[1]), [0, 3])
    exact = model.double()
    for affine, sample in zip(maps, (0, 3), strict=True):
        x = torch.from_numpy(probe[sample : sample + 1]).double()
        jacobian = torch.autograd.functional.jacobian(exact, x)[0, :, 0].flatten(1).numpy()
        y = exact(x)[0].detach().numpy()
        np.testing.assert_allclose(affine.matrix, jacobian, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(affine.offset, y - jacobian @ x.flatten().numpy(), rtol=1e-4, atol=1e-4)
        assert affine.residual < 1e-5 * max(1, np.linalg.norm(y))
        assert affine.sample == sample


def watched(model, x):
    """Return what must stay on its side of 0, with gradients, and which elements poolings take."""
    kept, taken, handles, relu = [], [], [], F.relu

    def seen(z, *arguments, **options):
        kept.append(z.flatten())
        return relu(z, *arguments, **options)

    def gate(module, inputs):
        bounds = (module.min_val, module.max_val) if isinstance(module, nn.Hardtanh) else (0,)
        kept.extend((inputs[0] - bound).flatten() for bound in bounds)

    def pool(module, inputs):
        options = (module.kernel_size, module.stride, module.padding)
        most, at = F.max_pool2d(inputs[0], *options, return_indices=True)
        taken.append(at.flatten())
        size, stride, padding = options
        filled = F.pad(inputs[0], [padding] * 4, value=-1e3)
        others = F.unfold(filled, size, stride=stride).unflatten(1, (inputs[0].shape[1], -1))
        kept.append((most.flatten(2)[:, :, None] - others).flatten())

    for module in model.modules():
        if isinstance(module, nn.PReLU | nn.Hardtanh):
            handles.append(module.register_forward_pre_hook(gate))
        elif isinstance(module, nn.MaxPool2d):
            handles.append(module.register_forward_pre_hook(pool))
    F.relu = seen
    try:
        model(x)
    finally:
        F.relu = relu
        for handle in handles:
            handle.remove()
    return torch.cat(kept), torch.cat([*taken, torch.zeros(0)])


def is_same(model, x, other):
    (signs, taken), (others, others_taken) = watched(model, x), watched(model, other)
    return torch.equal(signs > 0, others > 0) and torch.equal(taken, others_taken)


@pytest.mark.parametrize("name", ["mlp", "conv", "pooled"])
def test_the_region_reaches_as_far_as_is_said(name):
    """No point of the ball has another pattern; in the direction of what is nearest it changes right behind it."""
    model, probe = make(name)
    found, weights = linearizer(model, probe)
    [affine] = found.maps(found.run(weights), [1])
    exact = model.double().requires_grad_(requires_grad=False)
    x = torch.from_numpy(probe[1:2]).double().requires_grad_()
    random = np.random.default_rng(0)
    for _ in range(50):
        direction = random.standard_normal(x.numel())
        direction *= 0.999 * affine.radius / np.linalg.norm(direction)
        assert is_same(exact, x, x + torch.from_numpy(direction).reshape(x.shape))
    signs, _ = watched(exact, x)
    gradients = [torch.autograd.grad(value, x, retain_graph=True)[0] for value in signs]
    reached = [
        float(value.detach().abs() / gradient.norm())
        for value, gradient in zip(signs, gradients, strict=True)
        if gradient.norm() > 1e-12
    ]
    assert affine.radius == pytest.approx(min(reached), rel=1e-4)


def test_a_network_without_corners_reaches_everywhere():
    """All units of its one gate are on, whatever comes in."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(1)
    found, weights = linearizer(model.eval(), np.ones((2, 3), np.float32))
    [affine] = found.maps(found.run(weights), [0])
    assert (affine.radius, affine.limit) == (np.inf, "")
    np.testing.assert_array_equal(affine.matrix, 0)
    assert found.regions(found.run(weights)) == 1


def test_regions_that_the_probe_visits():
    """Signs of the inputs themselves."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
    probe = np.array([[1, 1], [2, 3], [-1, 1], [1, -1], [5, -2]], np.float32)
    found, weights = linearizer(model.eval(), probe)
    assert found.regions(found.run(weights)) == 3


def test_a_layer_before_what_is_no_affine_map():
    """The encoder has a softmax in front of its gate, and a norm behind it."""
    model = nets.make_encoder().eval()
    said = r"\w+ node_\w+ of layer.* is not affine in the inputs, .*, and no gate before it could be mapped"
    gate = find_gates(export(model, as_probe(nets.probe(model))))[0]
    for options in ({}, {"outputs_of": gate.node}):
        with pytest.raises(RegimeError, match=said):
            linearizer(model, nets.probe(model), **options)
    smooth = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)).eval()
    probe = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    said = r"gate \w+ \(Gelu\) is smooth, not piecewise affine, so there is no affine map; map .*: --outputs-of 1$"
    with pytest.raises(RegimeError, match=said):
        linearizer(smooth, probe)
    program = export(smooth, as_probe(probe))
    gate = find_gates(program)[0]
    for name in (gate.node, gate.path):
        found, weights = linearizer(smooth, probe, outputs_of=name)
        [affine] = found.maps(found.run(weights), [2])
        z = smooth[0](torch.from_numpy(probe[2])).detach()
        np.testing.assert_allclose(affine.matrix, ((z > 0)[:, None] * smooth[0].weight).detach().numpy(), atol=1e-6)
    with pytest.raises(RegimeError, match="--outputs-of 'nothing': no gate with that node or module"):
        linearizer(smooth, probe, outputs_of="nothing")


class AttentionBetween(nn.Module):
    """Two gates before an attention, and one behind it."""

    def __init__(self):
        super().__init__()
        self.before = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU())
        self.behind = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, x):
        h = self.before(x)
        return self.behind(torch.softmax(h @ h.transpose(1, 2), dim=-1) @ h)


def test_the_layers_that_can_be_taken_are_named():
    model = AttentionBetween().eval()
    probe = np.random.default_rng(0).standard_normal((4, 3, 4)).astype(np.float32)
    for options in ({}, {"outputs_of": "behind.1"}):
        with pytest.raises(RegimeError, match=r"--outputs-of before\.3 \(or before\.1\)$"):
            linearizer(model, probe, **options)
    for name in ("before.3", "before.1"):
        found, weights = linearizer(model, probe, outputs_of=name)
        assert found.maps(found.run(weights), [1])[0].matrix.shape == (3 * 6, 3 * 4)


def test_what_limits_the_radius_is_named():
    """Of an image without structure all elements of a window are equal: a tie."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2 * 4, 3), nn.ReLU()).eval()
    probe = np.random.default_rng(0).standard_normal((2, 1, 4, 4)).astype(np.float32)
    probe[1] = 0.5
    found, weights = linearizer(model, probe)
    apart, tied = found.maps(found.run(weights), [0, 1])
    assert apart.radius > 0
    assert apart.limit.startswith(("gate node_", "max-pooling node_"))
    assert tied.radius == 0
    assert tied.limit.startswith("a tie in max-pooling node_max_pool2d")


def test_whole_numbers_have_no_affine_map():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    with pytest.raises(
        RegimeError, match=r"needs exactly one input with real numbers for each sample; the probe has .* int64"
    ):
        linearizer(model, np.zeros((4, 3), np.int64))
