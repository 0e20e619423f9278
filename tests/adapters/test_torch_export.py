"""Torch models that are exported in spite of how they are written: compared, unit by unit, with hooks in torch."""

import contextlib
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Beta, Categorical, Distribution, Independent, Normal
from torch.overrides import TorchFunctionMode

from regime_proto.adapters.from_torch import adapter as from_torch
from regime_proto.adapters.from_torch import follower as torch_follow
from regime_proto.adapters.from_torch.tracing import tracing
from regime_proto.checkpoints.source import State
from regime_proto.conversion.plan import load_program, write_program
from regime_proto.engine.measure import Meter
from regime_proto.program.gates import find_gates, select_gates
from regime_proto.program.probe import as_probe, load_probe
from regime_proto.runtime.device import find_device
from regime_proto.schema.errors import RegimeError, RegimeWarning

RANDOM = np.random.default_rng(0)


def array(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


@contextlib.contextmanager
def layer_by_layer():
    """Let torch run the layers of a transformer one by one, so that hooks see them."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def activations(model, *args, **kwargs):
    """Return what goes into each ReLU, in the order of their use."""
    seen = []

    class Watch(TorchFunctionMode):
        """A hook on every ReLU, those that are called as a function too."""

        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func in (torch.relu, nn.functional.relu):
                seen.append(args[0].numpy())
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), layer_by_layer(), Watch():
        model.eval()(*args, **kwargs)
    return seen


def assert_same_masks(model, program, bound, expected, axis=0):
    """Compare a program with the inputs of the model's ReLUs, whose samples lie along `axis`."""
    weights = program.bind(State({name: tensor.numpy() for name, tensor in model.state_dict().items()}), "state")
    meter = Meter.calibrate(program, select_gates(find_gates(program)), bound, find_device("cpu"), weights)
    assert len(meter.layers) == len(expected) > 0
    planes = [np.asarray(plane.numpy()) for plane in meter.run(weights).planes]
    for plane, z in zip(planes, expected, strict=True):
        rows = np.moveaxis(z, axis, 0).reshape(len(plane), -1)
        differs = plane != (rows > 0)
        assert 0.05 < plane.mean() < 0.95
        assert (np.abs(rows[differs]) < 1e-5).all()
    return meter


def module(signature, expression):
    """Return a module with a forward of this signature."""
    scope = {"nn": nn, "torch": torch}
    exec(f"def forward(self, {signature}):\n    return self.act(self.fc({expression}))", scope)

    def init(self):
        nn.Module.__init__(self)
        self.fc, self.act = nn.Linear(3, 9), nn.ReLU()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("table", torch.full((3,), 0.5), persistent=False)

    torch.manual_seed(0)
    return type("Model", (nn.Module,), {"__init__": init, "forward": scope["forward"]})()


X, Y, Z, W = (array(5, 3) for _ in range(4))
SIGNATURES = {
    "upper case": ("X", "X", {"X": X}),
    "case only": ("X, x", "X - 2 * x", {"x": Y, "X": X}),
    "of others": ("größe, file, print", "größe - 2 * file + 3 * print", {"größe": X, "file": Y, "print": Z}),
    "of operators and values": (
        "val_0, linear, relu",
        "(val_0 + self.table).unsqueeze(1).mean(1) - 2 * linear + 3 * relu",
        {"val_0": X, "linear": Y, "relu": Z},
    ),
    "of tensors": (
        "weight, table, weight_input",
        "weight * self.weight - 2 * (table + self.table) + 3 * weight_input",
        {"weight": X, "table": Y, "weight_input": Z},
    ),
    "of the exporter": ("args, regime_input_0", "args - 2 * regime_input_0", {"args": X, "regime_input_0": Y}),
    "positional only": ("x, Y, /, z", "x - 2 * Y + 3 * z", [X, Y, Z]),
    "positional only, named": ("x, Y, /", "x - 2 * Y", {"Y": Y, "x": X}),
    "any number": ("x, *Others", "x - 2 * Others[0] + 3 * Others[1]", [X, Y, Z]),
    "any names": ("x, **others", "x - 2 * others['B'] + 3 * others['a']", {"a": Z, "x": X, "B": Y}),
    "keywords": ("x, y=None, *, Mask=None", "x - 2 * Mask", {"x": X, "Mask": Y}),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_arguments_of_any_name(name, tmp_path):
    signature, expression, given = SIGNATURES[name]
    model = module(signature, expression)
    write_program(tmp_path, model=model, probe=given)
    program, bound = load_program(tmp_path)
    assert list(program.model.graph.initializers) == list(dict.fromkeys(program.model.graph.initializers))
    tensors = [torch.from_numpy(value) for value in (given if isinstance(given, list) else given.values())]
    named = isinstance(given, dict) and "/" not in signature
    arguments = dict(zip(given, tensors, strict=True)) if named else {}
    if isinstance(given, dict) and not named:
        tensors = tensors[::-1]
    assert_same_masks(model, program, bound, activations(model, *([] if named else tensors), **arguments))
    # The same probe again, under the names that the model has for it.
    assert {key: value.tolist() for key, value in load_program(tmp_path, probe=given)[1].items()} == {
        key: value.tolist() for key, value in bound.items()
    }


@pytest.mark.parametrize("name", ["case only", "of tensors", "any number"])
def test_they_are_followed_in_training_too(name):
    signature, expression, given = SIGNATURES[name]
    model = module(signature, expression)
    live = torch_follow.follow(model, as_probe(given))
    gates = select_gates(find_gates(live.program))
    meter = Meter.calibrate(live.program, gates, live.probe, find_device("cpu"), live.tensors(None))
    # The engine compares its masks with those of the meter.
    assert live.native(meter).name.startswith("torch")


def test_one_array_and_one_input_belong_together(tmp_path):
    model = module("X", "X")
    with pytest.warns(RegimeWarning, match=r"probe: array 'input\.1' is used for 'X', the only input of the model"):
        program, bound = load_program(tmp_path, model=model, probe={"input.1": X})
    assert list(bound) == list(program.probe_inputs) == ["X"]
    with pytest.raises(RegimeError, match=r"array 'c' is not an input of the model; its inputs are a, b"):
        load_program(tmp_path, model=module("a, b", "a - b"), probe={"c": X, "a": Y})


class Encoder(nn.Module):
    """A transformer that is given its mask, and not told that it is a causal one."""

    def __init__(self, *, batch_first, layers=1):
        super().__init__()
        self.along = int(batch_first)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, activation=nn.ReLU())
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=batch_first)

    def forward(self, x, padding=None):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[self.along])
        return self.body(x, mask=mask, src_key_padding_mask=padding)


class Whole(nn.Module):
    """Encoder and decoder."""

    def __init__(self):
        super().__init__()
        self.body = nn.Transformer(8, 2, 1, 1, 16, batch_first=True, activation=nn.ReLU())

    def forward(self, source, target):
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.body(source, target, tgt_mask=mask)


def test_a_transformer_with_a_mask():
    torch.manual_seed(0)
    model, x = Encoder(batch_first=True, layers=2), array(5, 7, 8)
    program, bound = load_program(None, model=model, probe=x)
    assert_same_masks(model, program, bound, activations(model, torch.from_numpy(x)))
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_a_transformer_of_sequences_first():
    """The sample is the second axis of the probe, which has to say so."""
    torch.manual_seed(0)
    model, x = Encoder(batch_first=False), array(7, 5, 8)
    program, bound = load_program(None, model=model, probe={"x": x, "regime_axis_x": 1})
    meter = assert_same_masks(model, program, bound, activations(model, torch.from_numpy(x)), axis=1)
    assert [row.samples for row in meter.rows] == [5]
    program, bound = load_program(None, model=model, probe=x)
    with pytest.raises(RegimeError, match=r"follows the 7 probe samples; .* add an array regime_axis_x to it: 1 f"):
        assert_same_masks(model, program, bound, activations(model, torch.from_numpy(x)), axis=1)


def test_a_transformer_with_padding():
    torch.manual_seed(0)
    model, x, padding = Encoder(batch_first=True), array(5, 7, 8), np.zeros((5, 7), bool)
    padding[2, 4:] = True
    x, padding = torch.from_numpy(x), torch.from_numpy(padding).float().masked_fill(torch.from_numpy(padding), -1e9)
    program, bound = load_program(None, model=model, probe={"x": x, "padding": padding})
    assert_same_masks(model, program, bound, activations(model, x, padding))


def test_encoder_and_decoder():
    torch.manual_seed(0)
    model, given = Whole(), {"source": array(5, 4, 8), "target": array(5, 6, 8)}
    program, bound = load_program(None, model=model, probe=given)
    tensors = {name: torch.from_numpy(value) for name, value in given.items()}
    assert_same_masks(model, program, bound, activations(model, **tensors))


def test_a_mask_that_is_the_same_for_all_samples():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation=nn.ReLU())
            self.body = nn.TransformerEncoder(layer, 1)

        def forward(self, x, mask):
            return self.body(x, mask=mask)

    torch.manual_seed(0)
    model, x = Masked(), array(5, 5, 8)
    mask = nn.Transformer.generate_square_subsequent_mask(5).numpy()
    program, bound = load_program(None, model=model, probe={"x": x, "mask": mask, "regime_axis_mask": -1})
    assert_same_masks(model, program, bound, activations(model, torch.from_numpy(x), torch.from_numpy(mask)))


POLICIES = {
    "checked on purpose": lambda h: Categorical(logits=h, validate_args=True).entropy(),
    "normal": lambda h: Normal(h, h.exp()).log_prob(torch.zeros_like(h)),
    "the distribution and a value": lambda h: (Independent(Normal(h, h.exp()), 1), h.sum(-1)),
}


class Policy(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head
        self.body = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 4))

    def forward(self, observation):
        return self.head(self.body(observation))


@pytest.mark.parametrize("name", POLICIES)
def test_policies(name):
    torch.manual_seed(0)
    model, x = Policy(POLICIES[name]), array(8, 6)
    program, bound = load_program(None, model=model, probe=x)
    assert_same_masks(model, program, bound, activations(model, torch.from_numpy(x)))
    assert "forward" not in vars(model)


def test_every_part_of_what_a_model_returns_is_kept():
    """An actor that returns a distribution, beside a critic that returns a tensor."""

    class ActorCritic(nn.Module):
        def __init__(self):
            super().__init__()
            self.actor = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))
            self.critic = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 1))

        def forward(self, x):
            return Categorical(logits=self.actor(x)), self.critic(x)

    torch.manual_seed(0)
    model, x = ActorCritic(), array(8, 6)
    program, bound = load_program(None, model=model, probe=x)
    assert_same_masks(model, program, bound, activations(model, torch.from_numpy(x)))


def branching(h):
    return h if h.sum() > 0 else -h


REFUSED = {
    "branch": (
        branching,
        r"its forward branches on values that it computes: `return h if h\.sum\(\) > 0 else -h` \(.*\.py:\d+\); wr",
    ),
    "no operator": (
        lambda h: Beta(h.exp(), h.exp()).log_prob(h.sigmoid()),
        r"ONNX has no operator for \S*lgamma\S*; l",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_is_said_in_one_line(name, capfd):
    head, message = REFUSED[name]
    with pytest.raises(RegimeError, match=message) as caught:
        from_torch.export(Policy(head), as_probe(array(8, 6)))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert_as_it_was()


@pytest.fixture(autouse=True)
def checked_distributions():
    """Other libraries may have switched the checks of distributions off in this process."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(True)
    yield
    Distribution.set_default_validate_args(before)


def assert_as_it_was():
    assert torch.backends.mha.get_fastpath_enabled()
    assert Distribution._validate_args
    assert torch.is_grad_enabled()
    with pytest.raises(ValueError, match="Expected parameter loc"):
        Normal(torch.tensor([float("nan")]), torch.ones(1))


def test_what_is_switched_is_switched_back(capfd):
    streams = sys.stdout, sys.stderr
    model = Encoder(batch_first=True)

    def fails():
        with tracing(model):
            sys.stdout.write("traced")
            sys.stderr.write("traced")
            raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        fails()
    assert (sys.stdout, sys.stderr) == streams
    assert capfd.readouterr() == ("", "")
    assert_as_it_was()
    torch.backends.mha.set_fastpath_enabled(False)
    Distribution.set_default_validate_args(False)
    try:
        with tracing(model):
            pass
        assert not torch.backends.mha.get_fastpath_enabled()
        assert not Distribution._validate_args
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
        Distribution.set_default_validate_args(True)


def test_other_threads_go_on_printing_and_wait_to_trace(capfd):
    inside, done, order = threading.Event(), threading.Event(), []

    def other():
        inside.wait()
        sys.stdout.write("from another thread\n")
        done.set()
        with tracing(None):
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    with tracing(None):
        inside.set()
        done.wait()
        sys.stdout.write("from this one\n")
        order.append("this")
    thread.join()
    assert order == ["this", "other"]
    assert capfd.readouterr().out == "from another thread\n"
    assert_as_it_was()


def test_a_probe_of_any_names_is_kept(tmp_path):
    given = {"file": X, "allow_pickle": Y, "input.1": Z, "a/b:0": W}
    from regime_proto.program.probe import probe_content

    (tmp_path / "probe.npz").write_bytes(probe_content(given))
    found = load_probe(tmp_path / "probe.npz")
    assert found.names == tuple(given)
    assert all(np.array_equal(*pair) for pair in zip(found.arrays, given.values(), strict=True))
