"""Names of devices, and what is said where one cannot be used; what needs a card is in `test_gpu.py`."""

import subprocess
import sys

import nets
import onnxruntime
import pytest
import torch
from commands import assert_one_line, regime
from nets import save_run
from reading import assert_same

from regime_proto.conversion.plan import write_program
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.runtime.device import Device, find_device
from regime_proto.runtime.device_names import card_of, is_device
from regime_proto.schema.errors import RegimeError

WRONG = [
    "cuda:x",
    "cuda:-1",
    "cuda:",
    "cuda:1.0",
    "cuda:N",
    "cuda: 1",
    "CUDA",
    "gpu",
    "cpu:0",
    "auto:1",
    "cuda:1\n",
    "",
]
without_cuda = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="onnxruntime has the CUDA provider"
)


@pytest.mark.parametrize(
    ("name", "card"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:15", 15), ("auto", None), ("cpu", None)]
)
def test_names_of_devices(name, card):
    assert is_device(name)
    assert card_of(name) == card


@pytest.mark.parametrize("name", [*WRONG, None, 1, ("cuda", 1), torch.device("cuda:1")], ids=repr)
def test_other_names_are_refused(name):
    assert not is_device(name)
    for take in (find_device, lambda name: ConversionSettings.of(device=name)):
        with pytest.raises(RegimeError, match=r"expected auto, cpu, cuda, or cuda:N, for example cuda:1"):
            take(name)


@pytest.mark.parametrize(("number", "name"), [(0, "cuda"), (1, "cuda:1")])
def test_a_card_is_called_as_a_user_calls_it(number, name):
    device = Device("cuda", resident=True, number=number)
    assert str(device) == name
    assert card_of(str(device)) == number
    assert device.provider == "CUDAExecutionProvider"


@without_cuda
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_card_is_an_error_where_there_is_none(name):
    with pytest.raises(RegimeError, match=rf"device {name}: this onnxruntime has no CUDA provider; run `pip uninstall"):
        find_device(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two checkpoints of a small net, with its program and probe."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    model = nets.make_mlp()
    nets.save_run(folder, model, states=2)
    write_program(folder, model=model, probe=nets.probe(model))
    return folder


@without_cuda
@pytest.mark.parametrize("command", ["convert", "analyze"])
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_commands_take_a_card(folder, tmp_path, command, name):
    done = regime(command, folder, "--device", name, "-o", tmp_path / "run.h5")
    assert_one_line(done, rf"device {name}: this onnxruntime has no CUDA provider; run `pip uninstall")


@pytest.mark.parametrize("command", ["convert", "analyze"])
@pytest.mark.parametrize("name", ["cuda:x", "cuda:-1", "cudo"])
def test_commands_refuse_other_names(command, name, monkeypatch):
    expected = f"Invalid value for '--device': {name!r} is not one of 'auto', 'cpu', 'cuda', or cuda:N, for example "
    done = regime(command, "run", "--device", name)
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert expected in done.stderr
    variable = f"REGIME_{command.upper()}_DEVICE"
    monkeypatch.setenv(variable, name)
    done = regime(command, "run")
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert expected in done.stderr
    assert f"(set by {variable})" in done.stderr


ADVICE = "check nvidia-smi, or use --device cpu"
# The end of what ONNX Runtime 1.31.1 says, and what becomes of it.
SAID = {
    "no such card": (
        "FAIL : Parse Failed to parse: Invalid device ID: 7, must be between 0 (inclusive) and 2 (exclusive).\n",
        "no such card; this machine has cuda:0 to cuda:1",
    ),
    "no other card": (
        "Invalid device ID: 7, must be between 0 (inclusive) and 1 (exclusive).",
        "no such card; this machine has cuda:0",
    ),
    "no driver": (
        "void] CUDA failure 100: no CUDA-capable device is detected ; GPU=0 ; hostname=vm ; expr=cudaGetDeviceCount();",
        f"ONNX Runtime cannot do it: CUDA failure 100: no CUDA-capable device is detected; {ADVICE}",
    ),
    "no cuDNN": (
        "running Conv node. Name:'conv' Status Message: cuDNN is unavailable or disabled for CUDA Execution Provider",
        "cuDNN 9 was not found; install it (regime-proto[gpu] includes it), or use --device cpu",
    ),
    "no memory": (
        "bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 200000000",
        "ONNX Runtime cannot do it: the card is out of memory; keep fewer checkpoints in flight (--workers 1), ",
    ),
}


@pytest.mark.parametrize("why", SAID)
def test_errors_of_a_card_are_one_line(why):
    said, expected = SAID[why]
    found = Device("cuda", resident=True, number=7).failure("cannot do it", RuntimeError(said))
    assert found.startswith(f"device cuda:7: {expected}")
    assert len(found.splitlines()) == 1


def test_few_states_lie_on_a_card_at_once():
    assert Device("cpu", resident=False).at_once(64) == 64
    assert Device("cuda", resident=True).at_once(64) == 4
    assert Device("cuda", resident=True).at_once(2) == 2


SHARED = """
import regime_proto
from regime_proto.runtime.device import share_arena
folder, alone, shared = sys.argv[1:]
regime_proto.convert(folder, alone)
share_arena()
share_arena()
regime_proto.convert(folder, shared)
"""


def test_sessions_that_share_an_arena_measure_the_same(tmp_path):
    model = nets.make_conv()
    save_run(tmp_path / "run", model)
    write_program(tmp_path / "run", model=model, probe=nets.probe(model))
    outputs = tmp_path / "alone.h5", tmp_path / "shared.h5"
    code = f"import sys\n{SHARED}"
    subprocess.run([sys.executable, "-c", code, tmp_path / "run", *outputs], check=True)
    assert_same(*outputs)
