"""What every adapter keeps to, on files that the library itself wrote."""

import hashlib
import os
import subprocess
import sys
import warnings

import nets
import numpy as np
import pytest
import sources
from regime_proto.schema import validate

import regime_proto
from regime_proto.directory import Reading, open_directory
from regime_proto.registry import readers

MAKERS = {
    "torch": sources.torch_files,
    "torch, objects": sources.torch_files_with_objects,
    "safetensors": sources.safetensors_files,
    "folder": sources.sharded_folders,
    "npz": sources.npz_files,
    "onnx": sources.onnx_files,
}
# What has to be there to read files of an adapter, and what a user is told to install.
NEEDS = {"torch, objects": ("torch", 'pip install "regime-proto[torch]"')}


def adapter_of(name):
    return name.partition(",")[0]


@pytest.fixture(scope="module", params=MAKERS)
def source(request, tmp_path_factory):
    """The name of a source, and a run that it wrote."""
    folder = tmp_path_factory.mktemp("source") / "run"
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MAKERS[request.param](folder)
    return request.param, folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "run"
    folder.mkdir()
    sources.torch_files(folder)
    return regime_proto.convert(folder, folder.parent / "run.h5", **model_and_probe())


def model_and_probe():
    return {"model": nets.make_mlp(), "probe": nets.probe(nets.make_mlp())}


def content_of(folder):
    """Return hash and time of every file."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_it_is_recognised_by_content_and_says_by_what(source):
    name, folder = source
    found = open_directory(folder)
    assert found.adapter == adapter_of(name)
    assert len(found.recognised) > 10
    assert open_directory(folder, Reading(adapter=adapter_of(name))).checkpoints == found.checkpoints


def test_the_order_is_kept(source):
    found = open_directory(source[1])
    assert tuple(checkpoint.step for checkpoint in found.checkpoints) == sources.STEPS
    assert found.step_kind == "step"
    assert not found.skipped


def test_states_are_owned_or_copied(source):
    """Arrays of one state stay what they were when others are read, and nobody can write into another's."""
    found = open_directory(source[1])
    first = found.read(found.checkpoints[0]).tensors
    before = {name: array.copy() for name, array in first.items()}
    again = found.read(found.checkpoints[0]).tensors
    for checkpoint in found.checkpoints[1:]:
        found.read(checkpoint)
    for name, array in first.items():
        np.testing.assert_array_equal(array, before[name])
        assert not array.flags.writeable or not np.shares_memory(array, again[name])


def test_a_conversion_gives_the_numbers_of_plain_files(source, reference, tmp_path):
    name, folder = source
    before = content_of(folder)
    # Models carry their own graph, whose initializers are named otherwise.
    given = {"probe": model_and_probe()["probe"]} if adapter_of(name) == "onnx" else model_and_probe()
    path = regime_proto.convert(folder, tmp_path / "run.h5", **given)
    assert content_of(folder) == before, "the input was touched"
    assert validate(path) == []
    with regime_proto.open_trajectory(path) as found, regime_proto.open_trajectory(reference) as expected:
        assert found["step"].values.tolist() == list(sources.STEPS)
        np.testing.assert_allclose(found["metric_loss"], [sources.LOSS[step] for step in sources.STEPS])
        for variable in ("weight_delta_l1", "weight_delta_l2", "flips", "mask"):
            np.testing.assert_array_equal(found[variable], expected[variable], err_msg=variable)
        assert found.attrs["source_adapter"] == adapter_of(name)
        for attribute in (
            "framework",
            "engine",
            "created",
            "run_id",
            "software",
            "source_fingerprint",
            "program_sha256",
        ):
            assert found.attrs[attribute], attribute


def test_a_missing_framework_gives_the_install_line(source):
    """Without the framework the files are read all the same, or one line says what to install."""
    name, folder = source
    framework, line = NEEDS.get(name, ("torch", None))
    code = f"""
import sys
sys.modules[{framework!r}] = None
from pathlib import Path
from regime_proto.directory import open_directory
from regime_proto.schema.errors import RegimeError
try:
    source = open_directory(Path({str(folder)!r}))
    print(len(source.read(source.checkpoints[0]).tensors))
except RegimeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    if line is None:
        assert int(done.stdout) >= 10
    else:
        assert line in done.stdout
        assert len(done.stdout.splitlines()) == 1


def test_every_reader_is_held_to_this():
    held = {adapter_of(name) for name in MAKERS}
    assert held == set(readers())
