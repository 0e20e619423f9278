"""Checkpoints that mean harm, or have come to harm: one line in little time and memory, and no code is run."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import children
import msgpack
import numpy as np
import onnx
import pytest
from commands import assert_one_line, regime
from hostile_made import PICKLES, archive, state
from safetensors.numpy import save_file

import regime_proto
from regime_proto.adapters.from_torch import adapter as from_torch
from regime_proto.adapters.from_torch import pickle_scan, zip_file
from regime_proto.checkpoints import archives, limits, opening
from regime_proto.conversion import measured_files
from regime_proto.plugins.open_directory import open_directory
from regime_proto.schema.errors import RegimeError

LIMITS = [value for value in vars(limits).values() if isinstance(value, limits.Limit)]


def read_corpus(folder, every, *only):
    code = "import sys, hostile_checkpoints; hostile_checkpoints.main(*sys.argv[1:])"
    done = children.run(code, folder, every, 0, *only, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["harm"] == {}
    assert found["longest"][0] < 10, found["longest"]
    assert found["largest"][0] < 2**30, found["largest"]
    return found


# Seconds are needed to write these, to import what reads them, or to refuse them.
SLOW_KINDS = ("orbax", "sklearn", "exported", "huggingface", "onnx")
SLOW_CASES = (
    "^(?!protobuf|onnx|pickled-in-program|json-in-program|expanded|entries-.pt2|same-entry-.pt2|bomb"
    "|pickled.*(values|dicts)|.*accelerate-config)"
)


@pytest.mark.torch
def test_a_sample_of_hostile_checkpoints_does_no_harm(tmp_path):
    assert read_corpus(tmp_path, 25, SLOW_CASES, *SLOW_KINDS)["cases"] >= 25


@pytest.mark.slow
@pytest.mark.libraries
def test_hostile_checkpoints_do_no_harm(tmp_path):
    assert read_corpus(tmp_path, 1)["cases"] >= 550


def plain_run(folder, steps=(1, 2)):
    folder.mkdir(exist_ok=True)
    for step in steps:
        save_file({"w": np.full((2, 3), step, np.float32)}, folder / f"step_{step}.safetensors")
    return folder


@pytest.mark.parametrize("command", ["inspect", "check"])
@pytest.mark.parametrize("target", ["pipe", "/dev/zero"])
@pytest.mark.torch
def test_what_is_no_file_is_said_in_one_line_and_not_waited_for(tmp_path, command, target):
    run = tmp_path / "run"
    run.mkdir()
    for step in (1, 2):
        from_torch_saved(run / f"ckpt_{step}.pt", step)
    if target == "pipe":
        os.mkfifo(run / "ckpt_3.pt")
    else:
        (run / "ckpt_3.pt").symlink_to(target)
    done = children.run_regime(command, run)
    assert "Traceback" not in done.stderr
    if command == "check":
        assert done.returncode == 1
        kind = "a named pipe" if target == "pipe" else "a device"
        assert f"{kind}, not a file" in " ".join(done.stdout.split())


def from_torch_saved(path, step):
    import torch

    torch.save({"model": {"w": torch.full((2, 3), float(step))}, "step": step}, path)


def test_a_link_to_a_file_is_read(tmp_path):
    run = plain_run(tmp_path / "run")
    shutil.move(run / "step_2.safetensors", tmp_path / "elsewhere")
    (run / "step_2.safetensors").symlink_to(tmp_path / "elsewhere")
    source = open_directory(run)
    assert source.read(source.checkpoints[1]).tensors["w"][0, 0] == 2


@pytest.mark.parametrize(
    ("make", "kind"),
    [(os.mkfifo, "a named pipe"), (os.mkdir, "a folder"), (lambda path: path.symlink_to("/dev/zero"), "a device")],
)
def test_only_regular_files_are_opened(tmp_path, make, kind):
    make(tmp_path / "x")
    for function in (opening.open_file, opening.read_whole, opening.read_json, opening.require_file):
        with pytest.raises(opening.NotAFile, match=rf"x: {kind}, expected a regular file"):
            function(tmp_path / "x")


HARMLESS = {"sound", "deep-list", "deep-dict", "number-long", "surrogate", "nul", "escape", "stack-empty", "negative"}
# What torch itself refuses before anything is made.
REFUSED_BY_TORCH = {"system", "eval", "getattr", "long", "text-beyond", "memo-far", "deep-value", "array"}
# What stands for numpy's functions makes nothing larger than the file.
STOOD_IN = {"dtype", "dtype-newer", "dtype-set"}
NO_CHECK = STOOD_IN | {name for name in PICKLES if name in HARMLESS | REFUSED_BY_TORCH or name.startswith("code")}


@pytest.mark.parametrize("name", sorted(set(PICKLES) - NO_CHECK))
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_a_pickle_asks_for_is_bounded_before_torch_sees_it(tmp_path, name, method):
    archive(tmp_path / "a.pt", state(PICKLES[name]), method=method)
    with pytest.raises(RegimeError, match=r"a\.pt: .*(refused|damaged)"):
        pickle_scan.check(tmp_path / "a.pt")
    with pytest.raises(RegimeError, match=r"a\.pt: "):
        from_torch.read(tmp_path / "a.pt")


@pytest.mark.torch
def test_other_numbers_in_a_known_pickle_are_looked_at(tmp_path):
    """What was found to be sound in one file is not taken for granted in the next."""
    import torch

    for number in (3, 4):
        torch.save({"w": torch.arange(6.0), "n": number}, tmp_path / f"{number}.pt")
        assert zip_file.load(tmp_path / f"{number}.pt")["n"] == number
    torch.save({"w": torch.zeros(1).expand(10**9), "n": 5}, tmp_path / "5.pt")
    with pytest.raises(limits.TooLarge, match=r"REGIME_LIMIT_INFLATION=\d+"):
        from_torch.read(tmp_path / "5.pt")


@pytest.mark.torch
def test_a_small_expanded_tensor_is_read(tmp_path):
    import torch

    torch.save({"w": torch.arange(3.0).expand(1000, 3)}, tmp_path / "a.pt")
    assert from_torch.read(tmp_path / "a.pt").groups[""]["w"].shape == (1000, 3)


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.name)
def test_a_limit_is_raised_as_its_message_says(monkeypatch, limit):
    with pytest.raises(limits.TooLarge, match=rf"{limit.variable}={limit.default + 1}$"):
        limit.hold("x", limit.default + 1, "things")
    monkeypatch.setenv(limit.variable, str(limit.default + 1))
    limit.hold("x", limit.default + 1, "things")
    monkeypatch.setenv(limit.variable, "many")
    with pytest.raises(RegimeError, match=rf"{limit.variable}=many: expected a positive number"):
        limit.hold("x", 1, "things")


def test_arrays_are_read_as_numpy_reads_them(tmp_path):
    arrays = {
        "a": np.arange(6.0).reshape(2, 3), "f": np.asfortranarray(np.arange(6).reshape(2, 3)), "n": np.float32(3),
        "e": np.empty((0, 4)), "b": np.array([True]), "big": np.arange(3, dtype=">i2"),
    }  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        found = archives.read_arrays(tmp_path / "a.npz")
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(found[name], array)
    np.save(tmp_path / "a.npy", arrays["f"])
    np.testing.assert_array_equal(archives.read_npy(tmp_path / "a.npy"), arrays["f"])


def test_nodes_of_a_model_are_counted_before_they_are_made(tmp_path):
    from regime_proto.adapters.from_onnx.parts import hold_parts

    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    sub = onnx.helper.make_graph([node] * 60_000, "sub", [], [])
    outer = onnx.helper.make_node("If", ["c"], ["y"], then_branch=sub, else_branch=sub)
    model = onnx.helper.make_model(onnx.helper.make_graph([outer], "g", [], []))
    with pytest.raises(limits.TooLarge, match="REGIME_LIMIT_NODES"):
        hold_parts(model.SerializeToString(), "x")
    sub = onnx.helper.make_graph([node] * 100, "sub", [], [])
    outer = onnx.helper.make_node("If", ["c"], ["y"], then_branch=sub, else_branch=sub)
    hold_parts(onnx.helper.make_model(onnx.helper.make_graph([outer], "g", [], [])).SerializeToString(), "x")


def test_values_of_msgpack_are_counted_through_arrays(monkeypatch):
    from regime_proto.adapters.from_jax import msgpack_values

    monkeypatch.setattr(msgpack_values, "_SMALL", 0)
    tree = {"a": [1, -1, 1.5, "x" * 300, b"y" * 70_000, None, 2**40], "b": msgpack.ExtType(1, msgpack.packb([1] * 20))}
    # A map with two keys, a list of seven, the extension, and the list of twenty in it: 33 values.
    monkeypatch.setenv("REGIME_LIMIT_DESCRIPTION_VALUES", "34")
    msgpack_values.hold_values(msgpack.packb(tree), "x", (1,))
    monkeypatch.setenv("REGIME_LIMIT_DESCRIPTION_VALUES", "32")
    with pytest.raises(limits.TooLarge, match="values or more"):
        msgpack_values.hold_values(msgpack.packb(tree), "x", (1,))


def test_a_step_beyond_64_bits_is_refused_in_one_line(tmp_path):
    run = plain_run(tmp_path / "run", (1, 10**20))
    with pytest.raises(RegimeError, match=r"step 1e\+20 .*expected a number below 2\*\*63.*--step-pattern"):
        open_directory(run)
    assert_one_line(regime("inspect", run), "expected a number below")


@pytest.mark.torch
def test_a_name_that_is_no_text_is_refused_in_one_line(tmp_path):
    for name in ("surrogate", "nul"):
        archive(tmp_path / "a.pt", b"\x80\x02" + PICKLES[name] + b".")
        from regime_proto.checkpoints.payload import state_of

        with pytest.raises(RegimeError, match=r"a\.pt: the name of tensor .* is not valid UTF-8 text"):
            state_of(from_torch.read(tmp_path / "a.pt"), "a.pt")


def change_in_place(path):
    """Other content of the same size and time."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[-4:] = np.float32(7).tobytes()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def converted(run, tmp_path):
    """A run that was measured."""
    return run, regime_proto.convert(run, tmp_path / "run.h5")


def test_a_change_of_equal_size_and_time_is_noticed(converted):
    run, output = converted
    path = sorted(run.glob("step_*"))[2]
    change_in_place(path)
    with pytest.raises(RegimeError, match=rf"{path.name}: changed since it was measured.*--overwrite"):
        regime_proto.convert(run, output)
    regime_proto.convert(run, output, overwrite=True)
    assert regime_proto.convert(run, output) == output


@pytest.mark.parametrize("how", ["permissions", "link", "rename", "copy"])
def test_what_leaves_the_content_alone_keeps_a_trajectory_usable(converted, tmp_path, how):
    run, output = converted
    before = output.stat().st_mtime_ns
    for path in run.glob("step_*"):
        if how == "permissions":
            path.chmod(0o400)
        elif how == "link":
            os.link(path, tmp_path / path.name)
        elif how == "rename":
            path.rename(tmp_path / "other").rename(path)
    if how == "copy":
        run = Path(shutil.copytree(run, tmp_path / "copy"))
    assert regime_proto.convert(run, output) == output
    assert output.stat().st_mtime_ns == before


def test_a_trajectory_of_which_nothing_is_remembered_is_current(converted, monkeypatch, tmp_path):
    run, output = converted
    before = output.stat().st_mtime_ns
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert measured_files._recalled("x") is None
    assert regime_proto.convert(run, output) == output
    assert output.stat().st_mtime_ns == before
