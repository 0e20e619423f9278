"""The CUDA provider against the CPU: `pytest -m gpu` on a machine that has one; all cards that there are take part."""

import copy
import io
from contextlib import redirect_stdout

import nets
import numpy as np
import onnxruntime
import pytest
import torch
from cuda_kernels import fallen_back
from graphs import FEATURES, HOST, SAMPLES, TYPES, UNITS, meter_of, observe, program, quarters
from nets import save_run
from spellings import EVERY

import regime_proto
from regime_proto.conversion.plan import write_program
from regime_proto.engine.session import mask_graph
from regime_proto.program.gates import find_gates
from regime_proto.runtime.device import find_device
from regime_proto.schema.errors import RegimeError, RegimeWarning


def has_cuda():
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not has_cuda(), reason="onnxruntime has no CUDA provider")]
needs_torch_on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has no CUDA")
MAKERS = [nets.make_mlp, nets.make_conv, nets.make_encoder]


def cards():
    """Return the names of the cards that there are."""
    found = ["cuda"]
    for number in range(1, 64):
        try:
            found.append(str(find_device(f"cuda:{number}")))
        except RegimeError:
            break
    return found


@pytest.fixture(scope="module", params=MAKERS)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    save_run(folder, request.param())
    write_program(folder, model=request.param(), probe=nets.probe(request.param()))
    return folder


def convert(folder, output, **options):
    with regime_proto.open_trajectory(regime_proto.convert(folder, output, **options)) as trajectory:
        return trajectory.load()


def assert_alike(found, expected):
    """Hold what one device found against what another did."""
    for name in ("weight_delta_l1", "weight_delta_l2"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)
    differing = np.bitwise_count(found["mask"].values ^ expected["mask"].values).sum()
    # Units within rounding of zero; none of these networks has more than a handful.
    assert differing <= 1e-3 * 8 * found["mask"].size


def test_the_provider_is_the_one_that_was_asked_for():
    device = find_device("cuda")
    assert device.resident
    assert find_device("auto") == find_device("cuda:0") == device


def test_nothing_is_printed():
    with redirect_stdout(io.StringIO()) as printed:
        find_device("cuda")
        with pytest.raises(RegimeError):
            find_device("cuda:63")
    assert printed.getvalue() == ""


def test_a_card_that_is_not_there():
    last = cards()[-1]
    last = "cuda:0" if last == "cuda" else f"cuda:0 to {last}"
    with pytest.raises(RegimeError, match=rf"device cuda:63: no such card; this machine has {last}$"):
        find_device("cuda:63")


def test_the_gpu_agrees_with_the_cpu(folder, tmp_path):
    cpu = convert(folder, tmp_path / "cpu.h5", device="cpu")
    for card in cards():
        gpu = convert(folder, tmp_path / f"{card.replace(':', '')}.h5", device=card)
        assert gpu.attrs["device"] == "CUDAExecutionProvider"
        assert {"noise_floor_ulp", "noise_floor_device"} <= set(gpu.attrs)
        assert_alike(gpu, cpu)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("make", MAKERS)
def test_checkpoints_of_other_precisions(tmp_path, make, dtype):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step, state in enumerate(perturbed(make())):
        stored = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
        torch.save({"model": stored, "step": step}, folder / f"step_{step}.pt")
    write_program(folder, model=make(), probe=nets.probe(make()))
    assert_alike(*(convert(folder, tmp_path / f"{device}.h5", device=device) for device in ("cuda", "cpu")))


@pytest.mark.parametrize("workers", [1, 3])
def test_the_gpu_repeats_itself_bit_for_bit(folder, tmp_path, workers):
    first = convert(folder, tmp_path / "first.h5", device="cuda", workers=2)
    again = convert(folder, tmp_path / "again.h5", device="cuda", workers=workers)
    for name in ("mask", "flips", "weight_delta_l1", "weight_delta_l2"):
        np.testing.assert_array_equal(first[name], again[name])


@pytest.mark.parametrize("card", ["last", "first"])
def test_a_run_goes_on_on_another_card(tmp_path, card):
    folder, output = tmp_path / "checkpoints", tmp_path / "run.h5"
    save_run(folder, nets.make_mlp())
    write_program(folder, model=nets.make_mlp(), probe=nets.probe(nets.make_mlp()))
    late = sorted(folder.glob("*.pt"))[4:]
    for path in late:
        path.rename(tmp_path / path.name)
    convert(folder, output, device=cards()[0])
    for path in late:
        (tmp_path / path.name).rename(path)
    grown = convert(folder, output, device=cards()[-1 if card == "last" else 0])
    assert_alike(grown, convert(folder, tmp_path / "cpu.h5", device="cpu"))


def test_equal_states_have_no_change_on_the_gpu(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    model = nets.make_conv()
    for step in range(3):
        torch.save({"model": model.state_dict(), "step": step}, folder / f"step_{step}.pt")
    same = convert(folder, tmp_path / "run.h5", model=model, probe=nets.probe(model), device="cuda")
    assert not same["flips"].values.any()
    assert not same["weight_delta_l1"].values[1:].any()


@pytest.mark.filterwarnings(
    "ignore:device cuda. ONNX Runtime has no GPU kernel:regime_proto.schema.errors.RegimeWarning"
)
@pytest.mark.parametrize("dtype", ["float", "float16", "double"])
@pytest.mark.parametrize("name", EVERY)
def test_every_gate_bit_for_bit(name, dtype):
    """All products and sums are exact, so that no unit is within rounding of a threshold."""
    made = program(EVERY[name][0], dtype=dtype)
    x = quarters((SAMPLES, FEATURES), 1, TYPES[dtype], 6)
    states = [{"w": quarters((FEATURES, UNITS), seed, TYPES[dtype], 6)} for seed in (2, 3, 4)]
    op = f"op:{find_gates(made)[0].op}"
    found, expected = (
        observe(meter_of(made, {"x": x}, states[0], op, device=device), *states)
        for device in (find_device("cuda"), HOST)
    )
    for one, other in zip(found, expected, strict=True):
        assert one.valid == other.valid
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_array_equal(one.flips, other.flips)
        np.testing.assert_allclose(one.weight_delta_l1, other.weight_delta_l1, rtol=1e-6)


def test_what_a_card_has_no_kernel_for_is_told():
    made = program("y = Celu(z)\nbehind = Neg(y)\nlast = Relu(behind)", output="last")
    assert list(fallen_back(mask_graph(made, find_gates(made), dtypes={})).values()) == ["Celu(12) float"]
    w = quarters((FEATURES, UNITS), 1)
    with pytest.warns(RegimeWarning, match=r"device cuda: .* 1 \(Celu: node_Celu\); --device cpu may be faster"):
        meter_of(made, {"x": quarters((SAMPLES, FEATURES), 2)}, {"w": w}, device=find_device("cuda"))


@needs_torch_on_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", MAKERS)
def test_the_recorder_finds_what_convert_finds(tmp_path, make, dtype):
    """On the last card, while the first is the current one, which a copy must not be waited for on."""
    card = torch.device("cuda", torch.cuda.device_count() - 1)
    model = make().to(dtype)
    recorded = copy.deepcopy(model).to(card)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    with regime_proto.record(recorded, nets.probe(model), tmp_path / "live.h5") as recorder:
        for step, state in enumerate(perturbed(recorded)):
            recorder.observe(step)
            torch.save(
                {"model": {name: value.cpu() for name, value in state.items()}, "step": step}, folder / f"{step}.pt"
            )
    converted = convert(folder, tmp_path / "run.h5", model=make(), probe=nets.probe(model), device="cuda")
    with regime_proto.open_trajectory(tmp_path / "live.h5") as trajectory:
        live = trajectory.load()
    assert live.attrs["device"] == "cuda"
    assert_alike(live, converted)


@needs_torch_on_cuda
def test_the_engine_that_every_framework_takes(tmp_path):
    model = nets.make_conv().to("cuda")
    with regime_proto.record(model, nets.probe(nets.make_conv()), tmp_path / "live.h5", engine="onnx") as recorder:
        for step, _ in enumerate(perturbed(model)):
            recorder.observe(step)
    with regime_proto.open_trajectory(tmp_path / "live.h5") as trajectory:
        assert trajectory.load().attrs["device"] == "CUDAExecutionProvider"


def perturbed(model, states=4):
    """Yield the state of a model after every change of it, that before the first too."""
    for _ in range(states):
        yield model.state_dict()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn(parameter.shape).to(parameter)
