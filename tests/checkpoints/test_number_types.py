"""Numbers of every type are taken as torch takes them, or refused in one line."""

import shutil

import nets
import numpy as np
import pytest
import torch
from commands import assert_one_line, regime
from reading import assert_same_trajectory, read
from safetensors.torch import save_file

from regime_proto.adapters.from_torch import adapter as from_torch
from regime_proto.schema.dtypes import is_numpys, is_real, widest

EIGHT_BITS = (
    torch.float8_e5m2, torch.float8_e4m3fn, torch.float8_e5m2fnuz, torch.float8_e4m3fnuz, torch.float8_e8m0fnu,
)  # fmt: skip
SAVERS = {
    "torch": lambda state, path: torch.save(state, path.with_suffix(".pt")),
    "safetensors": lambda state, path: save_file(state, path.with_suffix(".safetensors")),
    "npz": lambda state, path: np.savez(path.with_suffix(".npz"), **{k: v.numpy() for k, v in state.items()}),
}


@pytest.mark.parametrize("dtype", [*EIGHT_BITS, torch.bfloat16, torch.float16], ids=str)
def test_every_number_is_widened_as_torch_does(tmp_path, dtype):
    bits = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    numbers = (bits if dtype in EIGHT_BITS else torch.arange(0, 65536, 7, dtype=torch.int32).to(torch.uint16)).view(
        dtype
    )
    torch.save({"w": numbers}, tmp_path / "a.pt")
    found = read(from_torch, tmp_path / "a.pt").tensors["w"]
    np.testing.assert_array_equal(widest(found), numbers.float().numpy())
    assert is_real(found.dtype)
    assert is_numpys(found.dtype) == (dtype is torch.float16)


def run_of(folder, mlp_run, saver, change):
    folder.mkdir()
    for name in ("program.onnx", "probe.npz"):
        shutil.copy(mlp_run / name, folder / name)
    for step, model in enumerate(nets.train(nets.make_mlp(), 4)):
        state = {name: change(t) if t.is_floating_point() else t for name, t in model.state_dict().items()}
        SAVERS[saver]({name: tensor.clone() for name, tensor in state.items()}, folder / f"step_{step}")
    return folder


@pytest.mark.parametrize(
    ("saver", "dtype"),
    [
        ("torch", "float8_e5m2"),
        ("safetensors", "float8_e5m2"),
        pytest.param("torch", "float8_e4m3fn", marks=pytest.mark.slow),
    ],
)
def test_a_run_in_eight_bits(mlp_run, tmp_path, saver, dtype):
    low = getattr(torch, dtype)
    found = run_of(tmp_path / "low", mlp_run, saver, lambda tensor: tensor.to(low))
    expected = run_of(tmp_path / "wide", mlp_run, "torch", lambda tensor: tensor.to(low).float())
    assert_same_trajectory(found, expected, tmp_path, model=None, probe=None)


@pytest.mark.parametrize("saver", SAVERS)
def test_complex_weights_are_refused(mlp_run, tmp_path, saver):
    folder = run_of(tmp_path / "run", mlp_run, saver, lambda tensor: tensor.to(torch.complex64))
    for command in (("analyze", folder), ("convert", folder, "-o", tmp_path / "run.h5")):
        assert_one_line(regime(*command), r"step_0\.\w+: body.0.weight is complex64; expected real numbers; save the")
