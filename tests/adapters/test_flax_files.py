"""Files of flax.serialization are read as flax reads them, without flax; damaged and hostile ones are refused."""

import os
import subprocess
import sys
import warnings

import ml_dtypes
import numpy as np
import pytest
from commands import regime
from libraries import needed
from reading import read

from regime_proto.adapters.from_jax import from_flax
from regime_proto.checkpoints.payload import Incomplete, NotACheckpoint
from regime_proto.plugins.open_directory import open_directory
from regime_proto.schema.errors import RegimeError, RegimeWarning

pytestmark = pytest.mark.libraries
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    serialization = needed("flax.serialization")
    train_state = needed("flax.training.train_state")
    optax = needed("optax")
    jnp = needed("jax.numpy")
msgpack = needed("msgpack")

DTYPES = ("bool", "int8", "uint16", "int64", "float16", "bfloat16", "float32", "float64", "complex64", "float8_e4m3fn")


def params(step=0):
    generator = np.random.default_rng(step)
    return {
        "Dense_0": {"kernel": jnp.asarray(generator.normal(size=(12, 40)), jnp.float32), "bias": jnp.ones(40)},
        "Dense_1": {"kernel": jnp.asarray(generator.normal(size=(40, 3)), jnp.bfloat16), "bias": np.zeros(3, "f2")},
    }


def flat(tree):
    return {f"{layer}.{name}": np.asarray(array) for layer, part in tree.items() for name, array in part.items()}


def assert_arrays(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(found[name], array)
        assert found[name].flags.aligned


def save(path, tree):
    path.write_bytes(serialization.to_bytes(tree))
    return path


def training(step):
    """Return a state of training as flax keeps it, with Adam's."""
    state = train_state.TrainState.create(apply_fn=None, params=params(step), tx=optax.adam(1e-3))
    return state.replace(step=step)


def test_a_run_in_order(tmp_path):
    for step in (0, 3, 10):
        save(tmp_path / f"state_{step}.msgpack", training(step))
    source = open_directory(tmp_path)
    assert (source.adapter, source.step_kind) == ("flax", "step")
    assert [checkpoint.step for checkpoint in source.checkpoints] == [0, 3, 10]
    for checkpoint in source.checkpoints:
        assert_arrays(source.read(checkpoint).tensors, flat(params(checkpoint.step)))
        result = regime("inspect", tmp_path)
    assert result.exit_code == 0, result.output
    assert "as flax.serialization writes" in " ".join(result.output.split())


def test_what_stands_beside_the_model(tmp_path):
    tree = {
        "params": params(), "ema_params": params(1), "epoch": np.float32(2), "loss": jnp.float32(0.5), "z": 1j,
        "none": None, "name": "text", "raw": b"bytes", "done": False, "big": 2**63, "low": -40000, "list": [1, -200],
        "half": jnp.bfloat16(0.5),
    }  # fmt: skip
    path = save(tmp_path / "a.msgpack", tree)
    label = from_flax.peek(path)
    assert (label.step, label.epoch) == (None, 2)
    assert label.metrics == {"loss": 0.5, "big": 2.0**63, "low": -40000, "half": 0.5}
    assert_arrays(read(from_flax, path).tensors, flat(params()))
    assert_arrays(read(from_flax, path, "ema_params").tensors, flat(params(1)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (2, 3, 4)])
def test_arrays_of_every_type(tmp_path, dtype, shape):
    made = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(made)
    path = save(tmp_path / "a.msgpack", {"params": {"x": array, "w": np.ones(2)}})
    assert_arrays(read(from_flax, path).tensors, {"x": array, "w": np.ones(2)})


def test_large_arrays_are_saved_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 100)
    path = save(tmp_path / "a.msgpack", training(3))
    assert b"__msgpack_chunked_array__" in path.read_bytes()
    assert_arrays(read(from_flax, path).tensors, flat(params(3)))
    assert from_flax.peek(path).step == 3


def test_flax_is_not_needed(tmp_path):
    path = save(tmp_path / "a.msgpack", training(3))
    code = f"""
import sys
from pathlib import Path
for name in ("jax", "jaxlib", "flax", "orbax", "torch"):
    sys.modules[name] = None
from regime_proto.adapters.from_jax import from_flax
assert from_flax.recognise(Path({str(path)!r}))
print(sum(float(array.astype("f8").sum()) for array in from_flax.read(Path({str(path)!r})).groups[""].values()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == sum(array.astype("f8").sum() for array in flat(params(3)).values())


def test_arrays_are_copies(tmp_path):
    """What is written into the file afterwards does not reach them."""
    path = save(tmp_path / "a.msgpack", training(3))
    found = read(from_flax, path).tensors
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    assert_arrays(found, flat(params(3)))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.9999])
def test_files_that_are_cut_off(tmp_path, share):
    for step in (1, 2):
        save(tmp_path / f"state_{step}.msgpack", training(step))
    last = tmp_path / "state_2.msgpack"
    os.truncate(last, int(share * last.stat().st_size))
    assert from_flax.recognise(last) is not None
    for function in (from_flax.peek, from_flax.read):
        with pytest.raises(
            Incomplete, match=r"state_2\.msgpack: damaged or incomplete \(.*\); save it again or remove"
        ):
            function(last)
    with pytest.warns(RegimeWarning, match="left out"):
        assert len(open_directory(tmp_path).checkpoints) == 1


def spoil(tmp_path, places):
    path = save(tmp_path / "a.msgpack", {"step": 3, "params": {"w": np.ones(3)}, "opt_state": {"mu": np.ones(3)}})
    content = bytearray(path.read_bytes())
    refused = 0
    for at in range(len(content)):
        before = content[at]
        for other in places:
            content[at] = other
            path.write_bytes(content)
            try:
                read(from_flax, path)
            except NotACheckpoint:
                refused += 1
            except RegimeError as error:
                refused += 1
                message = str(error)
                assert_one_line(message, path)
        content[at] = before
    assert refused > len(content) / 4


def assert_one_line(message, path):
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300


def test_bytes_that_are_changed(tmp_path):
    spoil(tmp_path, [0x00, 0x81, 0xDF, 0xFF])


@pytest.mark.slow
def test_all_bytes_that_are_changed(tmp_path):
    spoil(tmp_path, range(256))


def packed(shape, dtype, content, code=1):
    return msgpack.ExtType(code, msgpack.packb((shape, dtype, content)))


CHUNKS = {"0": packed([2], "float32", bytes(8)), "1": packed([1], "float32", bytes(4))}


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (packed([2**40], "float32", bytes(8)), "8 bytes for an array float32"),
        (packed([1], "float32", bytes(8)), "8 bytes for an array float32"),
        (packed([-1, -2], "float32", bytes(8)), "an array of shape"),
        (packed([2.0], "float32", bytes(8)), "an array of shape"),
        (packed([0, 2**70 % 2**63], "float32", b""), None),
        (packed([1], "object", bytes(8)), "dtype 'object'"),
        (packed([1], "O", bytes(8)), "dtype 'O'"),
        (packed([1], "ndarray", bytes(8)), "dtype 'ndarray'"),
        (packed([1], "datetime64", bytes(8)), "dtype 'datetime64'"),
        (packed([1], ["float32"], bytes(4)), "dtype"),
        (packed(3, "float32", bytes(12)), "damaged"),
        (packed([1], "float32", 5), "an array of shape"),
        (msgpack.ExtType(1, b""), "damaged"),
        (msgpack.ExtType(1, packed([1], "float32", bytes(4)).data + b"\0"), "extra data"),
        (msgpack.ExtType(77, b"abc"), None),
        ({"__msgpack_chunked_array__": True}, "damaged"),
        ({"__msgpack_chunked_array__": True, "shape": {"0": 3}, "chunks": {}}, "do not add up to it"),
        ({"__msgpack_chunked_array__": True, "shape": {"0": 4}, "chunks": CHUNKS}, "do not add up to it"),
        ({"__msgpack_chunked_array__": True, "shape": {"0": 3}, "chunks": {"0": 1}}, "damaged"),
        ({"__msgpack_chunked_array__": True, "shape": {"1": 3}, "chunks": CHUNKS}, "damaged"),
        ({"__msgpack_chunked_array__": True, "shape": {"0": 3}, "chunks": CHUNKS}, None),
    ],
)
def test_arrays_that_claim_what_is_not_there(tmp_path, leaf, message):
    path = tmp_path / "a.msgpack"
    path.write_bytes(msgpack.packb({"params": {"w": packed([2], "float32", bytes(8)), "x": leaf}}))
    if message is None:
        assert "w" in read(from_flax, path).tensors
        return
    with pytest.raises(RegimeError, match=message) as caught:
        read(from_flax, path)
    assert_one_line(str(caught.value), path)


def nested(depth):
    return b"\x81\xa1a" * depth + b"\x00"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (nested(100_000), "damaged"),
        (b"\x81\xa1a" + b"\x91" * 100_000 + b"\x00", "damaged"),
        (b"\xdf\xff\xff\xff\xff\xa1a\x00", "damaged"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "damaged"),
        (b"\x81\xa1a\xc9\xff\xff\xff\xff\x01", "damaged"),
        (b"\x81\xa1a\xc1", "damaged"),
        (b"\x81\xa1\xff\x00", "can't decode"),
        (b"\x81\xa1a\x00more", "extra data"),
    ],
)
def test_files_that_mean_harm(tmp_path, content, message):
    path = tmp_path / "a.msgpack"
    path.write_bytes(content)
    assert from_flax.recognise(path) is not None
    with pytest.raises(RegimeError, match=message) as caught:
        from_flax.peek(path)
    assert_one_line(str(caught.value), path)


@pytest.mark.parametrize("content", [b"\x80", b"\x93\x01\x02\x03", b"\x81\x01\x02", b"\x00\x00\x00", b"{}", b"\xde"])
def test_other_files_are_not_recognised(tmp_path, content):
    path = tmp_path / "a.msgpack"
    path.write_bytes(content)
    assert from_flax.recognise(path) is None
    assert from_flax.recognise(tmp_path) is None


def test_what_holds_no_model(tmp_path):
    path = save(tmp_path / "a.msgpack", {"opt_state": {"mu": np.ones(3)}, "step": 3})
    with pytest.raises(NotACheckpoint, match="no arrays of a model"):
        from_flax.peek(path)
