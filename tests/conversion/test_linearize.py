"""The affine maps of a run's checkpoints, from Python and by the command."""

import shutil
from pathlib import Path

import nets
import numpy as np
import pytest
import torch
from commands import assert_one_line, regime
from nets import save_run
from torch import nn

import regime_proto
from regime_proto.conversion.plan import write_program
from regime_proto.engine.linearizing import Linearizer
from regime_proto.schema.errors import RegimeError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    model = nets.make_mlp()
    save_run(folder / "checkpoints", model, states=4)
    np.savez(folder / "probe.npz", nets.probe(model))
    regime_proto.convert(
        folder / "checkpoints", folder / "run.h5", model=nets.make_mlp(), probe=nets.probe(model), embed="all"
    )
    done = regime("program", folder / "run.h5", "-o", folder / "checkpoints")
    assert done.exit_code == 0, done.output
    return folder


def jacobian(run, step, sample):
    model = nets.make_mlp()
    model.load_state_dict(torch.load(run / f"checkpoints/step_{step:04d}.pt")["model"])
    exact = model.double().eval()
    x = torch.from_numpy(nets.probe(model)[sample : sample + 1]).double()
    return torch.autograd.functional.jacobian(exact, x)[0, :, 0].numpy()


def test_the_file_holds_the_maps(run, tmp_path):
    said = regime("linearize", run / "checkpoints", "--step", 2, "--samples", "4,1", "-o", tmp_path / "maps.npz")
    assert said.exit_code == 0, said.output
    assert "step 2: the probe's 6 samples lie in " in said.stdout
    with np.load(tmp_path / "maps.npz") as maps:
        assert maps["sample"].tolist() == [4, 1]
        assert int(maps["step"]) == 2
        for number, sample in enumerate((4, 1)):
            np.testing.assert_allclose(maps["matrix"][number], jacobian(run, 2, sample), rtol=1e-4, atol=1e-5)
        again = np.einsum("moi,mi->mo", maps["matrix"], maps["inputs"]) + maps["offset"]
        np.testing.assert_allclose(again, maps["outputs"], atol=1e-5)
        assert (maps["residual"] < 1e-5).all()
        assert (maps["radius"] > 0).all()
        assert 1 <= int(maps["regions"]) <= int(maps["probe_samples"]) == 6


def test_from_python_the_last_state_by_default(run, tmp_path):
    done = []
    found = regime_proto.linearize(run / "checkpoints", progress=lambda now, total: done.append((now, total)))
    assert found.step == 3
    assert "maps      6, of 12 inputs to 3 outputs" in repr(found).split("\n")
    assert [one.sample for one in found.maps] == list(range(6))
    assert done == [(number, 6) for number in range(1, 7)]
    found.save(tmp_path / "maps.npz")
    with np.load(tmp_path / "maps.npz") as maps:
        assert maps["matrix"].shape == (6, 3, 12)
        for name in maps.files:
            np.testing.assert_array_equal(maps[name], getattr(found, name))
    assert found.radius.tolist() == [one.radius for one in found.maps]


def test_a_sample_is_taken_once(run, tmp_path):
    done = regime("linearize", run / "checkpoints", "--samples", "4,1,4", "-o", tmp_path / "maps.npz")
    assert done.exit_code == 0, done.output
    with np.load(tmp_path / "maps.npz") as maps:
        assert maps["sample"].tolist() == [4, 1]
    for samples in ("0,3", [0.5]):
        with pytest.raises(RegimeError, match=r"samples .*: expected whole numbers, such as \[0, 3\]"):
            regime_proto.linearize(run / "checkpoints", samples=samples)


def test_weights_that_are_no_numbers(run, tmp_path):
    shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
    path = tmp_path / "checkpoints/step_0003.pt"
    payload = torch.load(path)
    payload["model"]["body.0.bias"][0] = torch.nan
    torch.save(payload, path)
    done = regime("linearize", tmp_path / "checkpoints", "-o", tmp_path / "maps.npz")
    assert_one_line(done, "step_0003.pt: body.0.bias holds NaN or Inf, so there is no affine map; choose another")
    assert regime("linearize", tmp_path / "checkpoints", "--step", 2, "-o", tmp_path / "maps.npz").exit_code == 0


def test_a_network_without_any_gate_that_is_piecewise_affine(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.Linear(4, 2)).eval()
    torch.save(model.state_dict(), tmp_path / "step_0.pt")
    probe = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    with pytest.raises(
        RegimeError, match=r"\(Gelu\) is smooth, not piecewise affine, so .*, and no gate before it could"
    ):
        regime_proto.linearize(tmp_path, model=model, probe=probe)


def test_a_trajectory_brings_program_and_probe(run, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in (run / "checkpoints").glob("*.pt"):
        (bare / path.name).symlink_to(path)
    found = regime_proto.linearize(run / "run.h5", 1, samples=[0], checkpoints=bare)
    np.testing.assert_allclose(found.maps[0].matrix, jacobian(run, 1, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run.h5"], "a trajectory holds no weights; pass the directory of its checkpoints with --checkpoints DIR"),
        (["checkpoints", "--checkpoints", "checkpoints"], "is already a directory of checkpoints"),
        (["checkpoint"], "no such directory of checkpoints or trajectory; did you mean"),
        (["checkpoints", "--step", "7"], "--step 7: no checkpoint of that step in checkpoints; the nearest step is 3"),
        (["checkpoints", "--samples", "6"], "--samples 6: not in the probe; expected samples from 0 to 5"),
        (["checkpoints", "--samples", "a"], "--samples 'a': expected numbers separated by commas"),
        (["checkpoints", "--outputs-of", "body.9"], "--outputs-of 'body.9': no gate with that node or module"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(run)
    done = regime("linearize", *arguments, "-o", tmp_path / "maps.npz")
    assert done.exit_code == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "maps.npz").exists()


@pytest.mark.parametrize("output", ["probe.npz", "checkpoints/step_0002.npz", "checkpoints/probe.npz", "weights.npz"])
def test_an_input_and_arrays_of_others_are_never_replaced(run, tmp_path, monkeypatch, output):
    shutil.copytree(run, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    np.savez("checkpoints/step_0002.npz", w=np.zeros(3))
    np.savez("weights.npz", matrix=np.zeros(3))
    before = Path(output).read_bytes()
    arguments = ["linearize", "checkpoints", "--probe", "probe.npz", "-o", output, "--overwrite"]
    done = regime(*arguments)
    assert_one_line(done, "an input of this command" if output != "weights.npz" else "found an .npz of other arrays")
    assert Path(output).read_bytes() == before
    # Maps among the checkpoints may have been put there by somebody else.
    regime_proto.linearize(run / "checkpoints", samples=[0]).save("checkpoints/maps.npz")
    assert_one_line(regime(*arguments[:-2], "checkpoints/maps.npz", "--overwrite"), "is inside checkpoints, an input")


def test_the_output_is_looked_at_before_the_work(run, tmp_path, monkeypatch):
    found = regime_proto.linearize(run / "checkpoints", samples=[0])
    found.save(tmp_path / "maps.npz")
    found.save(tmp_path / "maps.npz")
    np.savez(tmp_path / "weights.npz", w=np.zeros(3))
    with pytest.raises(RegimeError, match=r"expected affine maps in \.npz, found an .npz of other arrays; it is not"):
        found.save(tmp_path / "weights.npz")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(Linearizer, "maps", None)
    for output, message in {
        "maps.npz": "exists; replace it with --overwrite",
        "maps.h5": "expected a file name that ends with .npz",
        "file/maps.npz": "cannot be written",
    }.items():
        assert_one_line(regime("linearize", run / "checkpoints", "-o", tmp_path / output), message)


def test_a_trajectory_without_a_probe(run, tmp_path):
    regime_proto.convert(
        run / "checkpoints", tmp_path / "bare.h5", model=nets.make_mlp(), probe=nets.probe(nets.make_mlp())
    )
    done = regime("linearize", tmp_path / "bare.h5", "--checkpoints", run / "checkpoints", "-o", tmp_path / "maps.npz")
    assert "carries no probe; pass the probe that it was converted with: --probe FILE" in done.stderr


class Gated(nn.Module):
    """Adds to every sample what a gate makes of their mean."""

    def __init__(self):
        super().__init__()
        self.first, self.mixing, self.head = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        hidden = torch.relu(self.first(x))
        return self.head(hidden + torch.relu(self.mixing(hidden.mean(0))))


def test_a_value_without_samples_is_said_in_a_line(tmp_path):
    torch.manual_seed(0)
    model = Gated()
    (tmp_path / "run").mkdir()
    torch.save(model.state_dict(), tmp_path / "run" / "step_0.pt")
    write_program(tmp_path / "run", model=model, probe=torch.randn(5, 12).numpy())
    done = regime("linearize", tmp_path / "run", "-o", tmp_path / "maps.npz")
    assert done.exit_code == 1
    assert "a value of shape [8] has no axis of 5 samples, so a single sample has no map" in done.stderr
    assert "--outputs-of LAYER" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "maps.npz").exists()
    # What it says to do works.
    done = regime("linearize", tmp_path / "run", "--outputs-of", "node_relu", "-o", tmp_path / "maps.npz")
    assert done.exit_code == 0, done.output
