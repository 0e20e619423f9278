"""The CUDA provider against the CPU: `pytest -m gpu` on a machine that has one."""

import nets
import numpy as np
import pytest
import torch
from nets import save_run

import regime_proto
from regime_proto.conversion.plan import write_program
from regime_proto.runtime.device import find_device


def has_cuda():
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not has_cuda(), reason="onnxruntime has no CUDA provider")]


@pytest.fixture(scope="module", params=[nets.make_mlp, nets.make_conv, nets.make_encoder])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    save_run(folder, request.param())
    write_program(folder, model=request.param(), probe=nets.probe(request.param()))
    return folder


def convert(folder, output, **options):
    with regime_proto.open_trajectory(regime_proto.convert(folder, output, **options)) as trajectory:
        return trajectory.load()


def test_the_provider_is_the_one_that_was_asked_for():
    device = find_device("cuda")
    assert device.resident
    assert find_device("auto") == device


def test_the_gpu_agrees_with_the_cpu(folder, tmp_path):
    gpu = convert(folder, tmp_path / "gpu.h5", device="cuda")
    cpu = convert(folder, tmp_path / "cpu.h5", device="cpu")
    assert gpu.attrs["device"] == "CUDAExecutionProvider"
    assert {"noise_floor_ulp", "noise_floor_device"} <= set(gpu.attrs)
    np.testing.assert_allclose(gpu["weight_delta_l1"], cpu["weight_delta_l1"], rtol=1e-6)
    np.testing.assert_allclose(gpu["weight_delta_l2"], cpu["weight_delta_l2"], rtol=1e-6)
    differing = np.bitwise_count(gpu["mask"].values ^ cpu["mask"].values).sum()
    # Units within rounding of zero; none of these networks has more than a handful.
    assert differing <= 1e-3 * 8 * gpu["mask"].size


@pytest.mark.parametrize("workers", [1, 3])
def test_the_gpu_repeats_itself_bit_for_bit(folder, tmp_path, workers):
    first = convert(folder, tmp_path / "first.h5", device="cuda", workers=2)
    again = convert(folder, tmp_path / "again.h5", device="cuda", workers=workers)
    for name in ("mask", "flips", "weight_delta_l1", "weight_delta_l2"):
        np.testing.assert_array_equal(first[name], again[name])


def test_equal_states_have_no_change_on_the_gpu(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    model = nets.make_conv()
    for step in range(3):
        torch.save({"model": model.state_dict(), "step": step}, folder / f"step_{step}.pt")
    same = convert(folder, tmp_path / "run.h5", model=model, probe=nets.probe(model), device="cuda")
    assert not same["flips"].values.any()
    assert not same["weight_delta_l1"].values[1:].any()
