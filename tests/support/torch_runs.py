"""Runs of PyTorch that many tests read."""

import shutil
from pathlib import Path

import nets
import numpy as np
import pytest
import torch
from nets import save_run

from regime_proto.conversion.plan import write_program

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mlp_run(tmp_path_factory):
    """A self-describing directory of torch checkpoints. Read only."""
    folder = tmp_path_factory.mktemp("mlp") / "checkpoints"
    save_run(folder, nets.make_mlp())
    write_program(folder, model=nets.make_mlp(), probe=nets.probe(nets.make_mlp()))
    return folder


@pytest.fixture
def run(mlp_run, tmp_path):
    """A copy of `mlp_run` to spoil."""
    return Path(shutil.copytree(mlp_run, tmp_path / "checkpoints"))


@pytest.fixture
def probe_file(tmp_path):
    path = tmp_path / "val.npy"
    np.save(path, nets.probe(nets.make_mlp()))
    return path
