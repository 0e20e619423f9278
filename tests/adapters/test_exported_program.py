"""Programs of torch.export (.pt2) as the model: the same as the module itself, and never code that runs."""

import io
import json
import zipfile

import nets
import numpy as np
import pytest
import torch
from nets import save_run
from torch import nn

import regime_proto
from regime_proto.adapters.from_torch import adapter as from_torch
from regime_proto.plugins.factory import load_model
from regime_proto.program.probe import as_probe
from regime_proto.schema.errors import RegimeError


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.second = nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.register_buffer("table", torch.ones(5), persistent=False)

    def forward(self, x, scale):
        return torch.relu(self.second(torch.relu(self.first(x))) + self.table) * scale


def exported(model, path, *inputs, **options):
    torch.export.save(torch.export.export(model.eval(), inputs, **options), path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pt2")
    save_run(folder / "checkpoints", nets.make_conv(), states=4)
    probe = nets.probe(nets.make_conv())
    exported(nets.make_conv(), folder / "net.pt2", torch.from_numpy(probe))
    return folder, probe


def test_it_gives_what_the_module_gives(run):
    folder, probe = run
    paths = [
        regime_proto.convert(folder / "checkpoints", folder / f"{index}.h5", model=model, probe=probe)
        for index, model in enumerate((nets.make_conv(), str(folder / "net.pt2")))
    ]
    with regime_proto.open_trajectory(paths[0]) as one, regime_proto.open_trajectory(paths[1]) as other:
        assert one["tensor"].values.tolist() == other["tensor"].values.tolist()
        for name in ("weight_delta_l1", "flips", "mask"):
            np.testing.assert_array_equal(one[name], other[name])


def test_tied_tensors_and_several_inputs(tmp_path):
    path = exported(Tied(), tmp_path / "net.pt2", torch.ones(4, 5), torch.ones(4, 1))
    probe = as_probe([np.ones((4, 5), np.float32), np.ones((4, 1), np.float32)])
    program = from_torch.export(load_model(str(path), apart_from=[tmp_path]), probe)
    assert {tensor.name: tensor.aliases for tensor in program.tensors} == {
        "first.weight": ("second.weight",), "first.bias": (), "second.bias": (),
    }  # fmt: skip
    assert set(program.weight_inputs) == {"first.weight", "first.bias", "second.bias"}


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (np.ones((3, 1, 8, 8), np.float32), r"float32\[3, 1, 8, 8\], .*net.pt2 was exported for float32\[6, 1, 8, 8\]"),
        (np.ones((6, 1, 8, 8)), r"image is float64"),
    ],
)
def test_a_probe_of_another_shape(run, probe, message):
    with pytest.raises(RegimeError, match=message):
        from_torch.export(run[0] / "net.pt2", as_probe(probe))


def test_it_must_be_exported_for_evaluation(tmp_path):
    x = torch.ones(4, 12)
    torch.export.save(torch.export.export(nets.make_mlp().train(), (x,)), tmp_path / "net.pt2")
    with pytest.raises(RegimeError, match=r"net.pt2: exported in training mode .*model.eval\(\)"):
        from_torch.export(tmp_path / "net.pt2", as_probe(x.numpy()))


def test_sizes_that_vary_are_refused(tmp_path):
    batch = torch.export.Dim("batch", min=2)
    path = exported(nets.make_mlp(), tmp_path / "net.pt2", torch.ones(4, 12), dynamic_shapes=({0: batch},))
    with pytest.raises(RegimeError, match="exported with dynamic sizes"):
        from_torch.export(path, as_probe(np.ones((4, 12), np.float32)))


def rewritten(path, edit):
    """Change the files in an archive: `edit` maps the end of a name to what makes new content of the old."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, old in content.items():
            new = next((change(old) for end, change in edit.items() if name.endswith(end)), old)
            archive.writestr(name, new)


class Hostile:
    def __reduce__(self):
        return exec, ("open('pwned', 'w')",)


def pickled(_):
    buffer = io.BytesIO()
    torch.save(Hostile(), buffer)
    return buffer.getvalue()


def with_entry(change):
    def edit(content):
        parsed = json.loads(content)
        change(parsed)
        return json.dumps(parsed).encode()

    return edit


def pickle_a_weight(config):
    next(iter(config["config"].values()))["use_pickle"] = True


def name_an_object(config):
    config["config"]["x"] = {"path_name": "opaque_obj_0", "use_pickle": False, "is_param": False, "tensor_meta": None}


def call_elsewhere(model):
    model["graph_module"]["graph"]["nodes"][0]["target"] = "torch.hub.load"


def evaluate(model):
    model["guards_code"] = ["open('pwned', 'w')"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"sample_inputs/model.pt": pickled}, "its sample inputs are not only tensors, which could run code"),
        ({"weights_config.json": with_entry(pickle_a_weight), "weight_0": pickled}, "is stored as a pickle"),
        ({"constants_config.json": with_entry(name_an_object)}, "'x' is stored as a pickle"),
        ({"models/model.json": with_entry(call_elsewhere)}, "its graph calls 'torch.hub.load'"),
        ({"models/model.json": with_entry(evaluate)}, "carries guards in Python"),
        ({"models/model.json": lambda content: content[:100]}, "damaged, or not a program of torch.export"),
    ],
)
def test_what_could_run_code_is_refused(tmp_path, monkeypatch, edit, message):
    monkeypatch.chdir(tmp_path)
    path = exported(nets.make_mlp(), tmp_path / "net.pt2", torch.ones(4, 12))
    rewritten(path, edit)
    with pytest.raises(RegimeError, match=message):
        from_torch.export(path, as_probe(np.ones((4, 12), np.float32)))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"no zip file"])
def test_damaged_files(tmp_path, content):
    (tmp_path / "net.pt2").write_bytes(content)
    with pytest.raises(RegimeError, match=r"net.pt2: damaged, or not a program of torch.export"):
        from_torch.export(tmp_path / "net.pt2", as_probe(np.ones((4, 12), np.float32)))


def test_an_absent_file(tmp_path):
    with pytest.raises(RegimeError, match=r"net.pt2: no such file"):
        from_torch.export(tmp_path / "net.pt2", as_probe(np.ones((4, 12), np.float32)))
