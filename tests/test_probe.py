"""The probe: reading it, binding it, refusing what cannot be one."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from regime_proto.probe import Probe, ProbeError, as_probe, load_probe, probe_sha256

X = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_named_and_unnamed_files(tmp_path):
    np.save(tmp_path / "a.npy", X)
    np.savez(tmp_path / "unnamed.npz", X, X + 1)
    np.savez(tmp_path / "named.npz", y=X + 1, x=X)
    save_file({"x": X, "y": X + 1}, tmp_path / "a.safetensors")
    assert np.array_equal(load_probe(tmp_path / "a.npy").bind(["x", "y"])["x"], X)
    for name in ("unnamed.npz", "named.npz", "a.safetensors"):
        bound = load_probe(tmp_path / name).bind(["x", "y"])
        assert np.array_equal(bound["x"], X)
        assert np.array_equal(bound["y"], X + 1)


def test_what_python_passes():
    for given in (X, torch.from_numpy(X), [X], {"x": torch.from_numpy(X)}):
        probe = as_probe(given)
        assert probe.samples == 4
        assert np.array_equal(probe.bind(["x"])["x"], X)
    with pytest.raises(ProbeError, match=r"cannot be viewed as an array"):
        as_probe(torch.ones(2, requires_grad=True))


def test_the_hash_depends_on_everything():
    hashes = {
        probe_sha256({name: array})
        for name, array in [("x", X), ("y", X), ("x", X + 1), ("x", X.T), ("x", X.astype("f8"))]
    }
    assert len(hashes) == 5
    assert probe_sha256({"a": X, "b": X}) == probe_sha256({"b": X, "a": X})


@pytest.mark.parametrize(
    ("arrays", "names", "message"),
    [
        ((), None, "holds no array"),
        ((np.float32(1),), None, "array 0 is a single number"),
        ((np.array(["a"]),), ("x",), "x holds <U1; expected numbers"),
        ((np.array([1, np.nan]),), None, "array 0 holds NaN or Inf"),
        ((np.array([np.inf]),), None, "array 0 holds NaN or Inf"),
        ((X, X[:2]), ("x", "y"), "found x: 4, y: 2"),
        ((X[:0],), ("x",), "found x: 0"),
    ],
)
def test_no_probe(arrays, names, message):
    with pytest.raises(ProbeError, match=message):
        Probe(tuple(np.asarray(a) for a in arrays), names, "val.npz")


def test_binding_errors():
    with pytest.raises(ProbeError, match=r"'imagee' is no input.*image, mask .nearest: 'image'"):
        Probe((X,), ("imagee",), "val.npz").bind(["image", "mask"])
    with pytest.raises(ProbeError, match=r"2 arrays for 1 inputs"):
        Probe((X, X), None, "val.npz").bind(["image"])


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.safetensors", "a.txt", "missing.npz"])
def test_damaged_files(tmp_path, name):
    if name != "missing.npz":
        (tmp_path / name).write_bytes(b"hello")
    with pytest.raises(ProbeError, match=name):
        load_probe(tmp_path / name)


def test_pickled_arrays_are_not_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(ProbeError, match=r"cannot be read as a probe"):
        load_probe(tmp_path / "a.npy")
