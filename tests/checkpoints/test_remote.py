"""Directories of other machines, through fsspec."""

import json
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import regime_proto
from regime_proto.checkpoints.locations import as_place, on_disk, size, stamps
from regime_proto.cli.main import main
from regime_proto.conversion.plan import make_plan
from regime_proto.plugins.open_directory import open_directory
from regime_proto.schema.errors import RegimeError


@pytest.fixture
def memory():
    """The file system in memory, empty again afterwards."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def put(system, folder, target):
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            system.pipe_file(f"{target}/{path.relative_to(folder)}", path.read_bytes())


@pytest.fixture
def remote(memory, mlp_run):
    put(memory, mlp_run, "/lab/run")
    return "memory://lab/run"


def test_a_directory_elsewhere_gives_the_same(remote, mlp_run, tmp_path):
    found = regime_proto.convert(remote, tmp_path / "remote.h5")
    expected = regime_proto.convert(mlp_run, tmp_path / "local.h5")
    with regime_proto.open_trajectory(found) as one, regime_proto.open_trajectory(expected) as other:
        for name in ("step", "epoch", "weight_delta_l1", "flips", "mask", "metric_loss"):
            np.testing.assert_array_equal(one[name], other[name])


def test_it_is_converted_again_only_where_something_changed(remote, memory):
    before = make_plan(as_place(remote)).fingerprints
    assert make_plan(as_place(remote)).fingerprints == before
    content = memory.cat_file("/lab/run/step_0003.pt")
    memory.pipe_file("/lab/run/step_0003.pt", content + b"x")
    after = make_plan(as_place(remote)).fingerprints
    assert after[:3] == before[:3]
    assert not set(after[3:]) & set(before)


def test_folders_of_shards_elsewhere(memory, tmp_path):
    for step in (1, 20, 3):
        folder = tmp_path / f"step{step}"
        folder.mkdir()
        for shard, name in enumerate(("a", "b"), start=1):
            save_file({name: np.full(3, step, np.float32)}, folder / f"model-0000{shard}-of-00002.safetensors")
        weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    put(memory, tmp_path, "/lab/folders")
    source = open_directory(as_place("memory://lab/folders"))
    assert source.adapter == "folder"
    assert [checkpoint.step for checkpoint in source.checkpoints] == [1, 3, 20]
    for checkpoint in source.checkpoints:
        tensors = source.read(checkpoint).tensors
        assert {name: array.tolist() for name, array in tensors.items()} == {
            name: [checkpoint.step] * 3 for name in "ab"
        }
    assert size(source.checkpoints[0].path) == size(tmp_path / "step1")
    assert [stamp[0] for stamp in stamps(source.checkpoints[0].path)] == [
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
    ]  # fmt: skip


def test_errors_name_the_place_not_its_copy(remote, memory, tmp_path):
    content = memory.cat_file("/lab/run/step_0003.pt")
    memory.pipe_file("/lab/run/step_0003.pt", content[:200])
    with pytest.raises(RegimeError, match=r"memory://lab/run/step_0003.pt: damaged or incomplete") as caught:
        regime_proto.convert(remote, tmp_path / "run.h5")
    assert "regime-" not in str(caught.value)
    with pytest.raises(RegimeError, match=r"memory://lab/nothing: no such"):
        open_directory(as_place("memory://lab/nothing"))
    with pytest.raises(RegimeError, match=r"gone.pt: cannot be fetched"), on_disk(as_place("memory://lab/gone.pt")):
        pass


def test_copies_are_removed(remote, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = open_directory(as_place(remote))
    state = source.read(source.checkpoints[-1])
    assert not list(tmp_path.iterdir())
    # The arrays view the file that is gone.
    assert np.isfinite(state.tensors["body.0.weight"]).all()


def test_the_local_file_system_by_url(mlp_run):
    place = as_place(mlp_run.as_uri())
    assert isinstance(place, Path)
    assert place == mlp_run
    assert len(open_directory(place).checkpoints) == 8


def test_on_the_command_line(remote, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["analyze", remote, "--json", "--resamples", "20"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run.regime.h5").is_file()
    inspected = CliRunner().invoke(main, ["inspect", remote])
    assert "memory://lab/run" in inspected.stdout
    assert "step_0007.pt" in inspected.stdout
    absent = CliRunner().invoke(main, ["analyze", "memory://lab/absent"])
    assert absent.exit_code == 1
    assert "memory://lab/absent: not a directory of checkpoints" in absent.stderr


@pytest.mark.parametrize(("address", "message"), [("nosuch://x/y", "nosuch"), ("s3://bucket/run", "s3fs")])
def test_a_file_system_that_is_not_installed(address, message):
    result = CliRunner().invoke(main, ["analyze", address])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


def test_without_fsspec_it_says_what_to_install():
    code = (
        "import sys\nsys.modules['upath'] = None\nfrom regime_proto.cli.main import main\nmain(['analyze', 's3://b/r'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert 's3://b/r: reading a remote directory needs more packages: pip install "regime-proto[remote]"' in done.stderr
