"""What is said of a probe that a model does not take: followed literally, it makes the probe one that it takes."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import regime_proto
from regime_proto.adapters.from_torch import adapter as from_torch
from regime_proto.conversion.plan import load_program, write_program
from regime_proto.engine.measure import Meter
from regime_proto.program.gates import find_gates
from regime_proto.program.probe import ProbeError, as_probe
from regime_proto.program.probe_advice import declared, tried
from regime_proto.runtime.device import find_device
from regime_proto.schema.errors import RegimeError

FLOATS = np.linspace(-1, 1, 20, dtype=np.float32)
ADVICE = re.compile(r"save the probe with ((\w+)(?:\[None\]|\.\w+\('?\w+'?\))+)")


def followed(message, array):
    """Do to an array what a message says, in numpy."""
    expression, name = ADVICE.search(message).groups()
    return eval(expression, {"np": np, name: array})


@pytest.mark.parametrize(
    ("array", "dtype", "shape"),
    [
        (FLOATS, "float32", ("batch", 20)),
        (FLOATS, "float32", (1, 20)),
        (FLOATS[:8].reshape(2, 4), "float32", (-1, 2, 4)),
        (np.arange(20).reshape(1, 20), "float32", (1, 20)),
        (np.arange(20), "float32", (None, 20)),
        (np.ones((3, 4), np.float32), "int64", ("batch", 4)),
        (np.ones((3, 4), np.int64), "int32", ("batch", 4)),
        (np.ones((3, 4)), "float32", (3, 4)),
    ],
)
def test_advice_on_a_declared_input_is_what_the_input_takes(array, dtype, shape):
    found = followed(declared("x", array, dtype, shape), array)
    assert found.dtype == dtype
    assert [length for length in shape if isinstance(length, int) and length > 0] == [
        found for found, length in zip(found.shape, shape, strict=True) if isinstance(length, int) and length > 0
    ]


def test_no_advice_where_no_change_of_the_array_helps():
    assert declared("x", np.ones((4, 7), np.float32), "float32", (8, 20)) == ""
    assert "needs whole numbers" in declared("ids", FLOATS, "int64", (20,))
    assert "the first axis, of 8 samples, is missing" in declared("x", FLOATS, "float32", (8, 20))


def needs(dtype, ndim):
    def run(arrays):
        for array in arrays.values():
            if array.dtype != dtype or array.ndim != ndim:
                raise ValueError(array.dtype)

    return run


@pytest.mark.parametrize("given", [np.arange(6), np.ones((2, 3)), np.ones((2, 3), np.float16), np.ones(6, bool)])
@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize("deeper", [0, 1])
@pytest.mark.parametrize("names", [("x",), ("x", "y")])
def test_the_change_with_which_a_model_runs_is_found(given, dtype, deeper, names):
    run = needs(dtype, given.ndim + deeper)
    if given.dtype == dtype and not deeper:
        return
    advice = tried(dict.fromkeys(names, given), run)
    run({"x": followed(advice, given)})
    assert all(f"{name}: {dtype}" in advice for name in names)


def test_only_the_array_that_is_wrong_is_changed():
    def run(arrays):
        needs("int64", 2)({"ids": arrays["ids"]})
        needs("float32", 2)({"x": arrays["x"]})

    advice = tried({"x": np.ones((2, 3), np.float32), "ids": np.ones((2, 3))}, run)
    assert advice == "; it runs on x: float32[2, 3], ids: int64[2, 3]: save the probe with ids.astype('int64')"
    assert tried({"x": FLOATS}, needs("complex64", 9)) == ""
    assert "needs whole numbers (int64)" in tried({"x": FLOATS}, needs("int64", 1))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, ids):
        return self.head(torch.relu(self.embed(ids)))


def dense():
    return nn.Sequential(nn.Linear(20, 5), nn.ReLU(), nn.Linear(5, 2))


@pytest.mark.parametrize(
    ("make", "given", "words"),
    [
        (dense, np.arange(40).reshape(2, 20), r"\(input: int64\[2, 20\]\).*runs on input: float32\[2, 20\]"),
        (Tokens, np.ones((2, 4), np.float32), r"\(ids: float32\[2, 4\]\).*runs on ids: int64\[2, 4\]"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(1), nn.Linear(72, 2)),
            np.ones((3, 8, 8), np.float32),
            r"runs on input: float32\[1, 3, 8, 8\]",
        ),
    ],
)
def test_a_probe_that_torch_refuses(make, given, words):
    model = make()
    with pytest.raises(ProbeError, match=words) as error:
        from_torch.export(model, as_probe(given))
    model(torch.from_numpy(followed(str(error.value), given)))


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    write_program(folder, model=dense(), probe=np.ones((8, 20), np.float32))
    return folder


def test_one_sample_without_its_axis():
    model = dense()
    program, bound = load_program(Path(), model=model, probe=FLOATS)
    weights = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}
    gates = find_gates(program)
    with pytest.raises(RegimeError, match=r"input is \[20\].*sample axis is missing.*input\[samples, 20\]") as error:
        Meter.calibrate(program, gates, bound, find_device("cpu"), weights)
    assert followed(str(error.value), FLOATS).shape == (1, 20)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (FLOATS, r"input is float32\[20\], but the program expects float32\[8, 20\]; the first axis, of 8 samples"),
        (np.ones((8, 20), np.int64), r"input is int64.* save the probe with input.astype\('float32'\)"),
    ],
)
def test_a_program_of_a_file_says_what_it_takes(program, given, words):
    for step in range(2):
        torch.save(dense().state_dict(), program / f"step_{step}.pt")
    with pytest.raises(ProbeError, match=words):
        regime_proto.convert(program, program / "out.h5", probe=given)
