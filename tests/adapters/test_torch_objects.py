"""Objects in torch's files: whatever a payload holds beside the weights is read as inert stubs and plain data."""

import argparse
import collections
import datetime
import enum
import functools
import io
import os
import pickle
import pickletools
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from reading import read

from regime_proto.adapters.from_torch import adapter as from_torch
from regime_proto.adapters.from_torch import safe_pickle, stubs
from regime_proto.schema.errors import RegimeError

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Hook:
    """A class with classes, members of enums and methods in it."""

    class Buffer:
        class Mode(enum.Enum):
            FIRST = 1

        def __init__(self):
            self.history = np.arange(3)

        def mean(self):
            return self.history.mean()

    class Priority(enum.Flag):
        LOW = 1
        HIGH = 2

    @classmethod
    def from_config(cls):
        return cls()

    @staticmethod
    def scale(value):
        return value


class Config(dict):
    pass


class Ordered(collections.OrderedDict):
    pass


class Listed(list):
    pass


Point = collections.namedtuple("Point", "x y")
VALUES = {
    "nested class": Hook.Buffer,
    "instance of a nested class": Hook.Buffer(),
    "member of a nested enum": Hook.Buffer.Mode.FIRST,
    "flags": Hook.Priority.LOW | Hook.Priority.HIGH,
    "bound method": Hook.Buffer().mean,
    "class method": Hook.from_config,
    "static method": Hook.scale,
    "deque": collections.deque([1, [2]], maxlen=3),
    "defaultdict": collections.defaultdict(list, {1: [2]}),
    "defaultdict of partials": collections.defaultdict(functools.partial(int, 3), {1: 2}),
    "Counter": collections.Counter("abca"),
    "OrderedDict": Ordered(a=1),
    "dict of a class of its own": Config(a=1, b=Config(c=2)),
    "set": {1, "a"},
    "frozenset": frozenset([1, (2, 3)]),
    "datetime": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "timedelta": datetime.timedelta(1),
    "path": Path("a/b"),
    "namespace": argparse.Namespace(lr=0.1, betas=(0.9, 0.99)),
    "array": np.arange(3),
    "array of text": np.array(["a", "b"]),
    "array of objects": np.array([1, None], dtype=object),
    "array of dates": np.array(["2026-01-01"], "datetime64[D]"),
    "numpy scalar": np.float32(3),
    "numpy text": np.str_("a"),
    "numpy dtype": np.dtype(">f4"),
    "RandomState": np.random.RandomState(0),
    "state of RandomState": np.random.RandomState(0).get_state(),
    "Generator": np.random.default_rng(0),
    "torch.Size": torch.Size([1, 2]),
    "torch.device": torch.device("cpu"),
    "torch.dtype": torch.float32,
    "partial": functools.partial(print, 1, end=""),
    "namedtuple": Point(1, 2),
    "bytes": b"",
    "bytearray": bytearray(b"a"),
    "complex": 1j,
    "range": range(3),
    "slice": slice(1),
    "ellipsis": ...,
    "type": int,
    "function": len,
}


def assert_weights(state):
    assert set(state.tensors) == set(WEIGHTS)
    for name, tensor in WEIGHTS.items():
        np.testing.assert_array_equal(state.tensors[name], tensor.numpy())


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", VALUES)
def test_what_stands_beside_the_weights_is_no_hindrance(tmp_path, kind, legacy):
    payload = {"model": WEIGHTS, "step": 3, "x": VALUES[kind], "y": [{"z": VALUES[kind]}]}
    torch.save(payload, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    assert_weights(read(from_torch, tmp_path / "a.pt"))
    assert from_torch.peek(tmp_path / "a.pt").step == 3


@pytest.mark.parametrize(
    "make",
    [
        Config,
        Ordered,
        lambda payload: collections.defaultdict(dict, payload),
        lambda payload: {"trainer": Config(model=payload["model"]), "step": payload["step"], "args": Point(1, 2)},
    ],
)
def test_weights_in_a_dict_of_a_class_of_its_own(tmp_path, make):
    torch.save(make({"model": Config(WEIGHTS), "step": 3}), tmp_path / "a.pt")
    assert_weights(read(from_torch, tmp_path / "a.pt"))
    assert from_torch.peek(tmp_path / "a.pt").step == 3


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_weights_that_are_arrays(tmp_path, dtype):
    arrays = {"w": np.arange(6).reshape(2, 3).astype(dtype), "f": np.asfortranarray(np.ones((2, 3), dtype))}
    torch.save({"model": {**arrays, "none": np.zeros((0, 3), dtype)}, "args": argparse.Namespace()}, tmp_path / "a.pt")
    found = read(from_torch, tmp_path / "a.pt").tensors
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype.newbyteorder("=")
    # Beside tensors they are something else.
    torch.save({"whatever": WEIGHTS, "statistics": arrays, "n": np.int64(3)}, tmp_path / "b.pt")
    assert_weights(read(from_torch, tmp_path / "b.pt"))


# --- What means harm ------------------------------------------------------------------------------------------------


def named(name):
    module, _, attribute = name.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def text(string):
    return b"X" + len(string.encode()).to_bytes(4, "little") + string.encode()


def call(name, *arguments):
    return named(name) + b"(" + b"".join(arguments) + b"tR"


def written(path, value):
    """Write a file whose payload holds, beside the weights, what the opcodes in `value` make."""
    buffer = io.BytesIO()
    torch.save({"model": WEIGHTS, "x": 12345}, buffer)
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(path, "w") as out:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith("data.pkl"):
                assert content.count(b"M90") == 1
                content = content.replace(b"M90", value)
                assert list(pickletools.genops(content))
            out.writestr(name, content)
    return path


STUB = call("mine.Config")
REAL = {
    "dict": b"}",
    "list": b"]",
    "text": text("a"),
    "number": b"K\x01",
    "tuple": b")",
    "torch.Size": named("torch.Size"),
    "torch.Tensor": named("torch.Tensor"),
    "OrderedDict": call("collections.OrderedDict"),
    "function of torch": named("torch._utils._rebuild_tensor_v2"),
    "what stands for getattr": named("builtins.getattr"),
    "what stands for a deque": named("collections.deque"),
    "array": call("numpy._core.multiarray._reconstruct", named("numpy.ndarray"), b"K\x00\x85", text("b")),
    "dtype": call("numpy.dtype", text("f4")),
}
NAMES = ("__class__", "__init__", "__globals__", "__reduce__", "keys", "__subclasses__")


@pytest.mark.parametrize("kind", REAL)
@pytest.mark.parametrize("name", NAMES)
def test_an_attribute_of_a_real_object_is_refused(tmp_path, kind, name):
    path = written(tmp_path / "a.pt", call("builtins.getattr", REAL[kind], text(name)))
    with pytest.raises(RegimeError, match=rf"a.pt: damaged, or holds objects .*an attribute '{name}' of a ") as error:
        read(from_torch, path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_an_attribute_of_a_stub_is_a_stub(tmp_path, name):
    for owner in (STUB, named("mine.Config")):
        chain = call("builtins.getattr", call("builtins.getattr", owner, text(name)), text("__globals__"))
        # Called, made and built as nested classes are.
        for value in (chain, chain + b")R", chain + b")\x81}" + text("lr") + b"K\x01sb"):
            assert_weights(read(from_torch, written(tmp_path / "a.pt", value)))


@pytest.mark.parametrize(
    "value",
    [
        call("builtins.getattr", STUB, b"K\x01"),
        call("builtins.getattr", STUB),
        call("builtins.getattr", STUB, STUB),
        call("builtins.getattr", named("torch.Size"), text("__new__"), STUB),
        call("collections.deque", b"]", b"K\x01") + b"}b",
        call("builtins.frozenset", STUB),
        call("builtins.frozenset", b"](]eK\x01\x85e"),
        call("numpy.dtype", text("f4")) + b")\x81",
        named("builtins.getattr") + STUB + text("a") + b"\x86\x81",
        named("collections.deque") + b"}b",
        named("mine.Config") + b"}" + text("__new__") + named("mine.Other") + b"sb",
        STUB + b"(K\x01e",
    ],
)
def test_what_no_pickler_writes_is_one_line(tmp_path, value):
    path = written(tmp_path / "a.pt", value)
    with pytest.raises(RegimeError, match=r"a.pt: damaged") as error:
        read(from_torch, path)
    assert "\n" not in str(error.value)


TRICKS = {
    # Stubs are called, built, and given as the function that torch calls.
    "state of a stub": STUB + b"N}" + text("__class__") + named("torch.Size") + b"s\x86b",
    "items of a stub": STUB + text("__setstate__") + named("mine.Other") + b"s",
    "type of a tensor": call("torch._tensor._rebuild_from_type_v2", named("mine.Config"), named("mine.Config"), b")}"),
    "longest deque": call("collections.deque", b"]", b"\x8a\x08" + b"\xff" * 7 + b"\x7f") + b"K\x01a",
    "factory": call("collections.defaultdict", named("mine.Config")) + b"K\x01K\x02s",
    "array of many": call("numpy._core.multiarray._reconstruct", named("numpy.ndarray"), b"K\x00\x85", text("b"))
    + b"(K\x01(\x8a\x06\xff\xff\xff\xff\xff\x7ft" + call("numpy.dtype", text("f4")) + b"\x89" + text("") + b"tb",
    "dtype of many": call("numpy.dtype", text("V999999999")),
    "dtype of objects": call("numpy.dtype", text("O8"), b"\x89", b"\x88")
    + b"(K\x03" + text("|") + b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x3ftb",
    "numpy's other functions": call("numpy.load", text("pwned.npy"), b"\x88"),
    "copyreg": call("copyreg._reconstructor", named("mine.Config"), named("builtins.object"), b"N") + b"}b",
    "operator": call("operator.methodcaller", text("system"), text("touch pwned")),
    "functools": call("functools.partial", named("mine.Config")) + b"(" + named("mine.run") + b")}Ntb",
    "storage": call("torch.storage._load_from_bytes", text("pwned")),
}  # fmt: skip


@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_on_what_stands_for_globals_does_nothing(tmp_path, monkeypatch, trick):
    monkeypatch.chdir(tmp_path)
    before = {name: repr(getattr(stubs, name)) for name in dir(stubs)}
    path = written(tmp_path / "a.pt", TRICKS[trick])
    assert_weights(read(from_torch, path))
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.pt"}
    assert {name: repr(getattr(stubs, name)) for name in dir(stubs)} == before
    assert np.dtype("f4").newbyteorder("=") == np.float32
    assert not any(isinstance(entry, tuple) for entry in torch.serialization.get_safe_globals())


@pytest.mark.parametrize(
    "value",
    [
        call("collections.defaultdict", named("os.system")) + text("touch pwned") + b"K\x02s",
        call("collections.defaultdict", named("posix.system")),
        call("functools.partial", named("builtins.exec")),
        call("builtins.getattr", named("os.path"), text("sys")),
        call("builtins.getattr", named("builtins.__import__"), text("__self__")),
        call("torch._tensor._rebuild_from_type_v2", named("subprocess.Popen"), named("mine.Config"), b")}"),
        named("builtins.setattr"),
    ],
)
def test_what_no_checkpoint_needs_is_refused_wherever_it_stands(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RegimeError, match=r"a.pt: refused: the pickle calls .*; do not trust this file$"):
        read(from_torch, written(tmp_path / "a.pt", value))
    assert not (tmp_path / "pwned").exists()


def test_no_code_of_a_class_runs_that_could_be_imported(tmp_path):
    """Every class of `VALUES` lies in this module: pickle would find it and run what makes and builds it."""
    ran = []
    for name in ("__new__", "__init__", "__setstate__", "__reduce_ex__"):
        setattr(Config, name, lambda *_, name=name: ran.append(name))
    try:
        assert_weights(read(from_torch, written(tmp_path / "a.pt", call(f"{__name__}.Config") + b"}b")))
    finally:
        for name in ("__new__", "__init__", "__setstate__", "__reduce_ex__"):
            delattr(Config, name)
    assert ran == []


def test_a_stub_is_nothing_else(tmp_path):
    kind = stubs.stand_in("mine.Config")
    other = stubs.stand_in("mine.Config")
    # As torch's reader asks.
    assert kind in [dict]
    assert kind not in [other, list, set, torch.Tensor, collections.OrderedDict]
    assert hash(kind) != hash(dict)
    made = kind(1, a=2)
    assert not isinstance(made, dict | collections.abc.Mapping | list)
    assert not hasattr(made, "__dict__")
    with pytest.raises(stubs.Refused, match="an attribute 'x' of a dict"):
        stubs.stand_in("builtins.getattr")({}, "x")


def test_a_list_of_a_class_of_its_own_is_answered_with_what_to_do(tmp_path):
    """torch's reader appends to lists only."""
    torch.save({"model": WEIGHTS, "x": Listed([1, 2])}, tmp_path / "a.pt")
    with pytest.raises(
        RegimeError, match=r"holds objects that need code to be loaded .*Listed.*: python -c .*-states$"
    ):
        read(from_torch, tmp_path / "a.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_of_another_protocol_is_answered_with_what_to_do(tmp_path, legacy):
    payload = {"model": WEIGHTS, "x": argparse.Namespace()}
    torch.save(payload, tmp_path / "a.pt", pickle_protocol=4, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        RegimeError, match=r"holds objects that need code to be loaded .*: python -c .*-states$"
    ) as error:
        read(from_torch, tmp_path / "a.pt")
    assert "trust this file" not in str(error.value)


def test_torch_is_asked_to_load_safely_whatever_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")

    class Hostile:
        def __reduce__(self):
            return os.mkdir, ("pwned",)

    torch.save({"model": WEIGHTS, "x": Hostile()}, tmp_path / "a.pt")
    with pytest.raises(RegimeError, match="refused"):
        safe_pickle.load(tmp_path / "a.pt")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        torch.load(tmp_path / "a.pt", weights_only=True)
    assert not (tmp_path / "pwned").exists()
