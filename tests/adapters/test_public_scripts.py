"""What well-known training scripts save is analyzed as it is, or after the command that the answer gives."""

import copy
import itertools
import shutil

import nets
import numpy as np
import public_scripts
import pytest
import torch
from advised import run_the_command
from commands import regime

import regime_proto

STATES = 5


@pytest.fixture(scope="module")
def models():
    """A model after every step of a training."""
    return [copy.deepcopy(model) for model in nets.train(nets.make_mlp(), STATES)]


def changes(models, dtype=torch.float32):
    """Return Σ|Δ| of every trainable tensor from each state to the next, by plain torch."""
    states = [
        {name: tensor.detach().to(dtype).double() for name, tensor in model.named_parameters()} for model in models
    ]
    return [
        {name: float((after[name] - before[name]).abs().sum()) for name in before}
        for before, after in itertools.pairwise(states)
    ]


def assert_analyzed(folder, models, mlp_run, *options, dtype=torch.float32):
    for name in ("program.onnx", "probe.npz"):
        shutil.copy(mlp_run / name, folder / name)
    seen = regime("inspect", folder, *options)
    assert seen.exit_code == 0, seen.output
    assert f"{STATES}, by" in seen.output
    output = folder.with_name("run.h5")
    done = regime("analyze", folder, "-o", output, "--resamples", 0, *options)
    assert done.exit_code == 0, done.output
    with regime_proto.open_trajectory(output) as found:
        expected = changes(models, dtype)
        assert sorted(found["tensor"].values) == sorted(expected[0])
        for row, change in enumerate(expected, start=1):
            for name, column in zip(found["tensor"].values, found["weight_delta_l1"].values[row], strict=True):
                np.testing.assert_allclose(column, change[name], rtol=1e-5, atol=1e-9, err_msg=name)
        return found["step"].values.tolist()


@pytest.mark.parametrize("script", public_scripts.READ)
def test_it_is_analyzed_as_it_is(script, models, mlp_run, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    public_scripts.READ[script](folder, models)
    steps = assert_analyzed(folder, models, mlp_run)
    assert len(steps) == STATES


def test_pickled_averages_are_analyzed_after_the_command(models, mlp_run, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    public_scripts.yolo(folder, models)
    refused = regime("inspect", folder)
    assert refused.exit_code == 1
    assert "holds a Mlp, not a dict of tensors" in refused.stderr
    assert f"; then use {folder}-states with --weights ema, since " in refused.stderr
    out = run_the_command(refused.stderr.strip())
    assert_analyzed(out, models, mlp_run, "--weights", "ema", dtype=torch.float16)
    plain = regime("inspect", out)
    assert plain.exit_code == 1
    assert "the only weights in it are an average; to read that, give --weights ema" in plain.stderr
