"""Kills and full disks: what was committed is never lost, and going on gives the same file."""

import resource
import signal
import subprocess
import sys

import nets
import numpy as np
import pytest
import torch
from regime_proto.schema.segments import segments_folder
from safetensors.torch import save_file
from test_conversion import assert_same

import regime_proto
from regime_proto.plan import write_program

STATES = 140

CONVERT = """
import os, signal, sys
import regime_proto.conversion
from pathlib import Path
from regime_proto.plan import make_plan
from regime_proto.schema import writer

source, output, at, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
writer.TrajectoryWriter.__init__.__kwdefaults__["seconds"] = seconds
def progress(done, total):
    if done == at:
        os.kill(os.getpid(), signal.SIGKILL)
regime_proto.conversion.run_plan(make_plan(Path(source)), Path(output), progress=progress)
"""


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long") / "checkpoints"
    folder.mkdir()
    random = torch.Generator().manual_seed(0)
    model = nets.make_mlp()
    state = model.state_dict()
    for step in range(STATES):
        for name, tensor in state.items():
            if tensor.is_floating_point() and "running" not in name:
                tensor += 0.02 * torch.randn(tensor.shape, generator=random)
        save_file({name: tensor.clone() for name, tensor in state.items()}, folder / f"step_{step}.safetensors")
    write_program(folder, model=model, probe=nets.probe(model))
    return folder


@pytest.fixture(scope="module")
def reference(long_run, tmp_path_factory):
    return regime_proto.convert(long_run, tmp_path_factory.mktemp("reference") / "run.h5")


def convert(source, output, *, kill_at=-1, seconds=30.0, limit=None):
    def lower_limit():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-c", CONVERT, str(source), str(output), str(kill_at), str(seconds)],
        preexec_fn=lower_limit, capture_output=True, text=True,
    )  # fmt: skip


def committed(output):
    """Steps that are in the segments."""
    steps = []
    for path in sorted(segments_folder(output).glob("[0-9]*.h5")):
        with regime_proto.open_trajectory(path) as segment:
            steps += segment["step"].values.tolist()
    return steps


@pytest.mark.parametrize("kill_at", [1, 63, 64, 65, 130, STATES])
@pytest.mark.parametrize("seconds", [30.0, 0.0])
def test_a_killed_conversion_goes_on(long_run, reference, tmp_path, kill_at, seconds):
    output = tmp_path / "run.h5"
    assert convert(long_run, output, kill_at=kill_at, seconds=seconds).returncode == -signal.SIGKILL
    kept = committed(output)
    # With no delay allowed every observation is committed at once, else every full segment.
    assert len(kept) == (kill_at if seconds == 0 else kill_at - kill_at % 64)
    assert kept == list(range(len(kept)))
    seen = []
    regime_proto.convert(long_run, output, progress=lambda done, total: seen.append(done))
    assert seen == list(range(len(kept) + 1, STATES + 1))
    assert_same(output, reference)
    assert not segments_folder(output).exists()


def test_killed_again_and_again(long_run, reference, tmp_path):
    output = tmp_path / "run.h5"
    for kill_at in (70, 71, 139):
        assert convert(long_run, output, kill_at=kill_at, seconds=0.0).returncode == -signal.SIGKILL
        assert len(committed(output)) == kill_at
    regime_proto.convert(long_run, output)
    assert_same(output, reference)


def test_a_full_disk_keeps_what_was_committed(long_run, reference, tmp_path):
    output = tmp_path / "run.h5"
    convert(long_run, output, kill_at=64)
    [segment] = segments_folder(output).glob("*.h5")
    before = segment.read_bytes()
    failed = convert(long_run, output, limit=10_000)
    assert failed.returncode == 1
    assert "the disk is full" in failed.stderr
    assert "64 observations are safe" in failed.stderr
    assert segment.read_bytes() == before
    assert {path.name for path in segments_folder(output).iterdir()} == {segment.name, "lock", "program"}
    regime_proto.convert(long_run, output)
    assert_same(output, reference)


def test_a_disk_that_fills_up_while_joining_keeps_all(long_run, reference, tmp_path):
    output = tmp_path / "run.h5"
    convert(long_run, output, kill_at=STATES)
    largest = max(path.stat().st_size for path in segments_folder(output).iterdir())
    failed = convert(long_run, output, limit=largest + 1)
    assert failed.returncode == 1
    assert f"all {STATES} observations are safe" in failed.stderr
    assert [path.name for path in tmp_path.iterdir()] == [segments_folder(output).name]
    regime_proto.convert(long_run, output)
    assert_same(output, reference)


def test_leftovers_of_a_killed_writer_are_removed(long_run, tmp_path):
    output = tmp_path / "run[1].h5"
    leftover = tmp_path / ".run[1].h5.123.tmp"
    leftover.write_text("half")
    other = tmp_path / ".run1.h5.123.tmp"
    other.write_text("another's")
    regime_proto.convert(long_run, output, steps="0:3")
    assert not leftover.exists()
    assert other.exists()


def test_stored_masks_compress(reference):
    """The chunk layout lets gzip see that patterns change little from step to step."""
    import h5py

    with h5py.File(reference) as file:
        assert file["mask"].id.get_storage_size() < 0.8 * np.prod(file["mask"].shape)
