"""The probe: reading it, binding it, refusing what cannot be one."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from regime_proto.program.probe import Probe, ProbeError, as_probe, load_probe, probe_sha256
from regime_proto.program.sample_axes import FIXED, axes_of, reordered
from regime_proto.schema.errors import RegimeWarning

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
        ((), None, "holds no arrays"),
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
    with pytest.raises(ProbeError, match=r"'imagee' is not an input.*image, mask .nearest: 'image'"):
        Probe((X,), ("imagee",), "val.npz").bind(["image", "mask"])
    with pytest.raises(ProbeError, match=r"2 arrays for 1 input"):
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


def sized(**shapes):
    return {
        name: np.array(shape) if isinstance(shape, int) else np.zeros(shape, np.float32)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize(
    ("arrays", "samples", "elsewhere"),
    [
        (sized(x=(6, 3), y=(6, 6)), 6, {}),
        (sized(x=(6, 512), rate=()), 6, {"rate": FIXED}),
        (sized(x=(6, 512), rate=(1,), mask=(1, 1, 4, 4)), 6, {"rate": FIXED, "mask": FIXED}),
        (sized(state=(2, 6, 128), x=(6, 512)), 6, {"state": 1}),
        (sized(state=(1, 6, 128), x=(6, 512)), 6, {"state": 1}),
        (sized(x=(7, 6, 2), regime_axis_x=1), 6, {"x": 1}),
        (sized(x=(6, 3), bank=(5, 3), regime_axis_bank=-1), 6, {"bank": FIXED}),
        (sized(x=(6, 2), state=(2, 6, 8), regime_axis_x=0), 6, {"state": 1}),
        (sized(x=(1, 3), y=(1, 3)), 1, {}),
    ],
)
def test_where_the_samples_lie(arrays, samples, elsewhere):
    probe = as_probe(arrays)
    inputs = list(probe.inputs)
    assert probe.samples == samples
    assert set(probe.bind(inputs)) == set(inputs)
    complete = probe.complete(inputs)
    said = {name.removeprefix("regime_axis_"): int(axis) for name, axis in complete.items() if name not in inputs}
    assert said == elsewhere
    # What is kept says it, and is read again as the same.
    assert as_probe(complete).complete(inputs).keys() == complete.keys()
    order = np.roll(np.arange(samples), 1)
    moved = reordered(complete, axes_of(complete, inputs)[1], order)
    for name in inputs:
        axis = elsewhere.get(name, 0)
        expected = complete[name] if axis == FIXED else np.take(complete[name], order, axis)
        np.testing.assert_array_equal(moved[name], expected)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            sized(x=(6, 3), y=(5, 3)),
            r"found x: 6, y: 5; if .* an array such as regime_axis_y=1 to the probe, or regime_axis_y=-1",
        ),
        (sized(x=(6, 2), state=(2, 6, 128)), r"found x: 6, state: 2 \(2 or 6 samples\); if the sample"),
        ({**sized(x=(6, 2), y=(5, 2)), "regime_axis_x": 0, "regime_axis_y": 0}, "found x: 6, y: 5"),
        (
            {**sized(x=(6, 2)), "regime_axis_x": 2},
            r"regime_axis_x is 2; expected one axis of x\[6, 2\], 0 for the first",
        ),
        ({**sized(x=(6, 2)), "regime_axis_x": -2}, "regime_axis_x is -2; expected one axis"),
        ({**sized(x=(6, 2)), "regime_axis_x": [0, 1]}, r"regime_axis_x is \[0, 1\]; expected one axis"),
        (
            {**sized(x=(6, 2)), "regime_axis_z": 1},
            "regime_axis_z: the probe has no array 'z'; name this array after one",
        ),
        (
            {**sized(x=(6, 2)), "regime_axis_x": -1},
            "x is the same for all samples, and no other input has a sample axis",
        ),
        ({"regime_axis_x": np.array(1)}, "holds only reserved arrays"),
        ({**sized(x=(6, 2)), "regime_mask": np.ones((5, 2), bool)}, "regime_mask has 5 samples, the inputs have 6"),
    ],
)
def test_where_it_cannot_be_told(arrays, message):
    with pytest.raises(ProbeError, match=message):
        as_probe(arrays)


def test_infinity_is_no_damage_in_a_mask_that_all_samples_share():
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    assert as_probe({"x": X, "mask": mask, "regime_axis_mask": -1}).samples == 4
    with pytest.raises(ProbeError, match="mask holds NaN or Inf"):
        as_probe({"x": X, "mask": mask})


def test_one_array_is_taken_for_the_only_input():
    probe = as_probe({"input.1": X})
    assert list(probe.bind(["x"])) == ["x"]
    with pytest.warns(RegimeWarning, match=r"probe: array 'input.1' is used for 'x', the only input of the model"):
        assert list(probe.complete(["x"])) == ["x"]
    with pytest.raises(ProbeError, match=r"array 'input.1' is not an input of the model; its inputs are x, y"):
        probe.complete(["x", "y"])
