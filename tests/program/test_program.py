"""Export, and the fit between a program and a state."""

import json
import re

import nets
import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from torch import nn

from regime_proto.adapters.from_torch import adapter as from_torch
from regime_proto.checkpoints.source import State
from regime_proto.engine.masks import pack_masks
from regime_proto.engine.measure import Meter
from regime_proto.program.gates import find_gates
from regime_proto.program.probe import ProbeError, as_probe
from regime_proto.program.program import Program, ProgramError
from regime_proto.runtime.device import find_device
from regime_proto.schema.errors import RegimeError


@pytest.fixture(scope="module")
def conv():
    return from_torch.export(nets.make_conv(), as_probe(nets.probe(nets.make_conv())))


def state_of(model):
    return State({name: tensor.numpy() for name, tensor in model.state_dict().items()})


def meter_of(program, model, probe):
    [name] = program.probe_inputs
    weights = program.bind(state_of(model), "state")
    return Meter.calibrate(program, find_gates(program), {name: probe}, find_device("cpu"), weights)


def test_the_export_does_not_depend_on_the_weights(conv):
    torch.manual_seed(5)
    other = from_torch.export(nets.ConvNet(), as_probe(nets.probe(nets.make_conv())))
    assert other.content == conv.content


def test_the_model_is_left_as_it_was():
    model = nets.make_mlp().train()
    model.body[3].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    from_torch.export(model, as_probe(nets.probe(model)))
    assert model.training
    assert not model.body[3].training
    assert model.body[2].training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_are_inputs_under_their_names_and_nothing_of_the_machine_is_left(conv, tmp_path):
    conv.save(tmp_path / "program.onnx")
    model = onnx.load(tmp_path / "program.onnx")
    onnx.checker.check_model(model)
    named = {value.name for value in model.graph.input}
    state = nets.make_conv().state_dict()
    assert named == {"image", *state} - {"norm.num_batches_tracked", "unused"}
    assert not {initializer.name for initializer in model.graph.initializer} & set(state)
    assert b".py" not in conv.content
    assert len(conv.content) < 20_000
    read = Program.load(tmp_path / "program.onnx")
    assert read == conv
    assert read.framework == {"torch": torch.__version__}


def test_trainable_tensors_are_all_listed_and_statistics_are_not(conv):
    assert [tensor.name for tensor in conv.trainable] == [name for name, _ in nets.make_conv().named_parameters()]
    assert {tensor.name for tensor in conv.tensors} == set(nets.make_conv().state_dict())


def test_tied_tensors_count_once_and_any_of_their_names_will_do():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(4, 4, bias=False)
            self.head = nn.Linear(4, 4, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return torch.relu(self.head(self.embed(x)))

    program = from_torch.export(Tied(), as_probe(np.ones((2, 4), np.float32)))
    [tensor] = program.tensors
    assert (tensor.name, tensor.aliases) == ("embed.weight", ("head.weight",))
    values = np.ones((4, 4), np.float32)
    for name in ("embed.weight", "head.weight"):
        assert np.shares_memory(program.bind(State({name: values}), "x")["embed.weight"], values)


def test_frozen_parameters_do_not_count():
    model, probe = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), as_probe(np.ones((2, 3), np.float32))
    model[0].weight.requires_grad = False
    program = from_torch.export(model, probe)
    assert [tensor.name for tensor in program.trainable] == ["0.bias", "2.weight", "2.bias"]
    for parameter in model.parameters():
        parameter.requires_grad = False
    with pytest.raises(RegimeError, match=r"no parameter has requires_grad"):
        from_torch.export(model, probe)


def test_half_precision_models_are_widened():
    model = nets.make_mlp().bfloat16()
    program = from_torch.export(model, as_probe(nets.probe(nets.make_mlp())))
    assert program.inputs["features"].dtype == "float32"
    assert {spec.dtype for spec in program.weight_inputs.values()} == {"float32"}
    assert next(model.parameters()).dtype is torch.bfloat16


def without(state, *names):
    return State({name: array for name, array in state.tensors.items() if name not in names})


def test_missing_tensors(conv):
    with pytest.raises(ProgramError, match=r"s.pt: 2 tensors missing: 'norm.running_mean'.*'conv2.bias'"):
        conv.bind(without(state_of(nets.make_conv()), "conv2.bias", "norm.running_mean"), "s.pt")
    # A counter that no computation needs may be missing, a parameter that none needs may not.
    assert conv.bind(without(state_of(nets.make_conv()), "norm.num_batches_tracked"), "s.pt")
    with pytest.raises(ProgramError, match=r"1 tensor missing: 'unused'"):
        conv.bind(without(state_of(nets.make_conv()), "unused"), "s.pt")
    with pytest.raises(
        ProgramError, match=r"2 tensors missing: .*; save the model's complete state, including running statistics"
    ):
        conv.bind(without(state_of(nets.make_conv()), "norm.running_mean", "norm.running_var"), "s.pt")


def test_misspelled_tensors_name_the_nearest(conv):
    state = state_of(nets.make_conv())
    renamed = State({name.replace("conv2", "conv_2"): array for name, array in state.tensors.items()})
    with pytest.raises(ProgramError, match=r"missing: 'conv2.weight' \(nearest: 'conv_2.weight'\)"):
        conv.bind(renamed, "s.pt")


def test_the_attribute_of_a_trainer_is_taken_off(conv):
    state = state_of(nets.make_conv())
    inside = State({f"trainer.model.{name}": array for name, array in state.tensors.items()})
    assert conv.bind(inside, "s.pt").keys() == conv.bind(state, "s.pt").keys()
    with pytest.raises(ProgramError, match=r"s.pt: 13 tensors missing"):
        conv.bind(State({**inside.tensors, "loss.weight": np.ones(2)}), "s.pt")


def test_unknown_tensors(conv):
    state = state_of(nets.make_conv())
    with pytest.raises(ProgramError, match=r"1 tensor not in the program: 'head2.weight' .nearest: 'head.weight'"):
        conv.bind(State({**state.tensors, "head2.weight": np.ones(3)}), "s.pt")


def test_another_shape(conv):
    state = state_of(nets.make_conv())
    with pytest.raises(ProgramError, match=re.escape("head.weight is [9, 9], but the program expects [3, 11]")):
        conv.bind(State({**state.tensors, "head.weight": np.ones((9, 9))}), "s.pt")


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (np.ones((4, 5), np.float32), r"fails on the probe \(features: float32\[4, 5\]\)"),
        (np.ones((4, 12)), r"it runs on features: float32\[4, 12\]: save the probe with features.astype"),
    ],
)
def test_a_wrong_probe(probe, message):
    with pytest.raises(ProbeError, match=message):
        from_torch.export(nets.make_mlp(), as_probe(probe))


def test_a_model_without_a_gate():
    program = from_torch.export(nets.no_gate(), as_probe(np.ones((2, 12), np.float32)))
    with pytest.raises(RegimeError, match=r"no gate to track; its graph holds .*Gemm.*Tanh"):
        find_gates(program)


def test_a_gate_in_control_flow_is_reported():
    helper = onnx.helper

    def floats(name):
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3])

    branches = {
        name: helper.make_graph([helper.make_node("Relu", ["x"], [name])], name, [], [floats(name)])
        for name in ("then_branch", "else_branch")
    }
    choice = helper.make_node("If", ["c"], ["y"], name="if", **branches)
    graph = helper.make_graph(
        [choice, helper.make_node("Relu", ["y"], ["z"], name="top")],
        "g",
        [floats("x"), helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])],
        [floats("z")],
    )
    model = onnx_ir.from_proto(helper.make_model(graph))
    program = Program.from_model(model, tensors=[], probe_inputs=["x", "c"], framework={})
    gates = find_gates(program)
    assert [gate.node for gate in gates if gate.trackable] == ["top"]
    assert [gate.reason for gate in gates if gate.nested] == 2 * ["inside the If if, which does not always run it once"]


def test_a_model_that_mixes_its_samples_is_refused():
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def forward(self, x):
            return torch.relu(self.fc(x).cumsum(0))

    torch.manual_seed(0)
    model = Mixing()
    probe = torch.randn(6, 3).numpy()
    program = from_torch.export(model, as_probe(probe))
    with pytest.raises(RegimeError, match=r"gate node_relu .no module.: no axis of its shape \[6, 4\] follows the 6"):
        meter_of(program, model, probe)


def test_samples_and_tokens_flattened_into_one_axis():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def forward(self, x):
            return torch.relu(self.fc(x.flatten(0, 1)))

    torch.manual_seed(0)
    model = Flat()
    probe = torch.randn(6, 5, 3).numpy()
    program = from_torch.export(model, as_probe(probe))
    meter = meter_of(program, model, probe)
    assert [row.axis for row in meter.rows] == [-1]
    packed = pack_masks(meter.run(program.bind(state_of(model), "x")))
    expected = (model.fc(torch.from_numpy(probe)) > 0).numpy().reshape(6, 20)
    np.testing.assert_array_equal(np.unpackbits(packed, axis=1)[:, :20], expected)


def test_everything_behind_the_last_gate_is_pruned(conv):
    meter = meter_of(conv, nets.make_conv(), nets.probe(nets.make_conv()))
    assert "head.weight" in conv.weight_inputs
    assert "head.weight" not in meter.session.weights


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"hello", "not an ONNX model"),
        (onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])).SerializeToString(), "not a program"),
    ],
)
def test_files_that_are_no_program(tmp_path, content, message):
    path = tmp_path / "program.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ProgramError, match=message):
        Program.load(path)


def test_a_program_that_refers_to_other_files(conv, tmp_path):
    (tmp_path / "data").write_bytes(bytes(64))
    model = onnx.load_from_string(conv.content)
    tensor = onnx.numpy_helper.from_array(np.zeros(16, np.float32), "extra")
    onnx.external_data_helper.set_external_data(tensor, "data")
    tensor.ClearField("raw_data")
    model.graph.initializer.append(tensor)
    (tmp_path / "program.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ProgramError, match="refers to data in other files"):
        Program.load(tmp_path / "program.onnx")


def test_a_damaged_description(conv, tmp_path):
    model = onnx.load_from_string(conv.content)
    description = json.loads(model.metadata_props[0].value)
    del description["tensors"][0]["shape"]
    model.metadata_props[0].value = json.dumps(description)
    (tmp_path / "program.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ProgramError, match=r"damaged program description .KeyError.'shape'"):
        Program.load(tmp_path / "program.onnx")
