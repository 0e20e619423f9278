"""Converting: repeatable, resumable, and careful with what is there already."""

import itertools
import os
import shutil
from pathlib import Path

import h5py
import nets
import numpy as np
import pytest
import torch
from nets import save_run
from reading import assert_same, contents

import regime_proto
from regime_proto.conversion.plan import make_plan
from regime_proto.conversion.run import run_plan
from regime_proto.schema import assemble, hdf5, writer
from regime_proto.schema.files import segments_folder


@pytest.fixture(scope="module")
def reference(mlp_run, tmp_path_factory):
    return regime_proto.convert(mlp_run, tmp_path_factory.mktemp("reference") / "run.h5")


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_conversions_are_identical_whatever_the_workers(mlp_run, reference, tmp_path, workers):
    assert_same(regime_proto.convert(mlp_run, tmp_path / "run.h5", workers=workers), reference)


def test_small_segments_give_the_same_file(mlp_run, reference, tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "MAX_CHUNK_STEPS", 3)
    joined = []

    def join(segments):
        joined.extend(segments.paths().values())
        assemble.join(segments)

    monkeypatch.setattr(writer, "join", join)
    path = regime_proto.convert(mlp_run, tmp_path / "run.h5")
    assert len(joined) == 3
    assert_same(path, reference)


def test_large_segments_are_joined_by_a_child_into_the_same_file(mlp_run, reference, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(assemble, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(assemble, "_run_child", lambda *given, run=assemble._run_child: started.append(run(*given)))
    assert_same(regime_proto.convert(mlp_run, tmp_path / "run.h5"), reference)
    assert len(started) == 1


def test_the_model_may_be_given_instead_of_a_program(mlp_run, reference, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(mlp_run, folder)
    (folder / "program.onnx").unlink()
    (folder / "probe.npz").unlink()
    model = nets.make_mlp()
    assert_same(regime_proto.convert(folder, tmp_path / "run.h5", model=model, probe=nets.probe(model)), reference)


def test_progress_is_reported(mlp_run, tmp_path):
    calls = []
    regime_proto.convert(mlp_run, tmp_path / "run.h5", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 8) for done in range(1, 9)]


def test_metrics_and_epochs_are_kept(reference):
    with regime_proto.open_trajectory(reference) as trajectory:
        np.testing.assert_allclose(trajectory["metric_loss"], 1 / np.arange(1, 9))
        np.testing.assert_allclose(trajectory["epoch"], np.arange(8) / 4)


def test_equal_states_give_exactly_zero(run, tmp_path):
    state = torch.load(run / "step_0003.pt")
    for step in (4, 5):
        torch.save({**state, "step": step}, run / f"step_{step:04d}.pt")
    with regime_proto.open_trajectory(regime_proto.convert(run, tmp_path / "run.h5")) as trajectory:
        for row in (4, 5):
            assert not trajectory["weight_delta_l1"].values[row].any()
            assert not trajectory["weight_delta_l2"].values[row].any()
            assert not trajectory["flips"].values[row].any()
        assert trajectory["weight_delta_l1"].values[6].any()


def test_every_and_steps_thin_the_sequence(mlp_run, tmp_path):
    path = regime_proto.convert(mlp_run, tmp_path / "run.h5", steps="1:", every=3)
    with regime_proto.open_trajectory(path) as trajectory:
        assert trajectory["step"].values.tolist() == [1, 4, 7]
    assert regime_proto.analyze(path).stride == 3


def test_what_is_there_already_is_used(mlp_run, tmp_path):
    path = regime_proto.convert(mlp_run, tmp_path / "run.h5")
    before = path.stat().st_mtime_ns
    segments_folder(path).mkdir()
    done = run_plan(make_plan(mlp_run), path)
    assert not done.written
    assert path.stat().st_mtime_ns == before
    assert not segments_folder(path).exists()


def test_a_run_that_has_grown_is_converted_again(run, reference, tmp_path):
    held_back = run / "step_0007.pt"
    aside = held_back.rename(tmp_path / "aside.pt")
    regime_proto.convert(run, tmp_path / "run.h5")
    aside.rename(held_back)
    assert_same_but_times = regime_proto.convert(run, tmp_path / "run.h5")
    left, right = contents(assert_same_but_times)[0], contents(reference)[0]
    for name, values in left.items():
        np.testing.assert_array_equal(values, right[name])


def test_an_output_of_another_run_is_not_touched(run, mlp_run, tmp_path):
    path = regime_proto.convert(mlp_run, tmp_path / "run.h5")
    before = path.read_bytes()
    os.utime(run / "step_0000.pt", (1, 1))
    with pytest.raises(regime_proto.RegimeError, match=r"run.h5: exists, but was converted from different checkpoints"):
        regime_proto.convert(run, path)
    assert path.read_bytes() == before
    regime_proto.convert(run, path, overwrite=True)
    assert path.read_bytes() != before


def test_an_output_that_is_no_trajectory_is_not_touched(mlp_run, tmp_path):
    path = tmp_path / "run.h5"
    path.write_text("my thesis")
    with pytest.raises(
        regime_proto.RegimeError, match=r"another kind of file.*it is not replaced: choose another output"
    ):
        regime_proto.convert(mlp_run, path)
    assert path.read_text() == "my thesis"


def test_a_damaged_file_in_the_middle_keeps_the_steps_before_it(run, reference, tmp_path):
    path, damaged = tmp_path / "run.h5", run / "step_0005.pt"
    content, times = damaged.read_bytes(), damaged.stat()
    damaged.write_bytes(content[:500])
    with pytest.raises(regime_proto.RegimeError, match=r"step_0005.pt: damaged"):
        regime_proto.convert(run, path)
    assert not path.exists()
    [segment] = segments_folder(path).glob("*.h5")
    with h5py.File(segment) as file:
        assert file["step"][...].tolist() == [0, 1, 2, 3, 4]
    damaged.write_bytes(content)
    os.utime(damaged, ns=(times.st_atime_ns, times.st_mtime_ns))
    seen = []
    regime_proto.convert(run, path, progress=lambda done, total: seen.append(done))
    assert seen == [6, 7, 8]
    assert_same(path, reference)
    assert not segments_folder(path).exists()


def test_segments_of_another_run_are_not_touched(run, mlp_run, tmp_path):
    path = tmp_path / "run.h5"
    (run / "step_0005.pt").write_bytes(b"")
    with pytest.raises(regime_proto.RegimeError, match=r"step_0005"):
        regime_proto.convert(run, path)
    os.utime(run / "step_0000.pt", (1, 1))
    with pytest.raises(regime_proto.RegimeError, match=r"unfinished run with other inputs"):
        regime_proto.convert(run, path)
    assert list(segments_folder(path).glob("*.h5"))
    regime_proto.convert(mlp_run, path, overwrite=True)
    assert not segments_folder(path).exists()


def test_another_engine_does_not_go_on(run, tmp_path, monkeypatch):
    path = tmp_path / "run.h5"
    (run / "step_0005.pt").write_bytes(b"")
    monkeypatch.setattr("regime_proto.conversion.run.runtime_version", lambda: "onnxruntime 0.1")
    with pytest.raises(regime_proto.RegimeError, match="step_0005"):
        regime_proto.convert(run, path)
    monkeypatch.undo()
    with pytest.raises(regime_proto.RegimeError, match=r"started with engine onnxruntime 0.1, now onnxruntime 1\."):
        regime_proto.convert(run, path)


def test_nan_weights_are_kept_and_marked(run, tmp_path):
    payload = torch.load(run / "step_0004.pt")
    payload["model"]["body.4.bias"][1] = float("nan")
    torch.save(payload, run / "step_0004.pt")
    with pytest.warns(regime_proto.RegimeWarning, match=r"1 of 8 observations.*tensor body.4.bias at step 4"):
        path = regime_proto.convert(run, tmp_path / "run.h5")
    with regime_proto.open_trajectory(path) as trajectory:
        assert trajectory["valid"].values.tolist() == [1, 1, 1, 1, 0, 1, 1, 1]
    assert regime_proto.analyze(path).curves["step"].values.tolist() == [1, 2, 3, 6, 7]


@pytest.mark.parametrize("step", [0, 7])
def test_inf_at_the_ends(run, tmp_path, step):
    payload = torch.load(run / f"step_{step:04d}.pt")
    payload["model"]["body.0.weight"][0, 0] = float("inf")
    torch.save(payload, run / f"step_{step:04d}.pt")
    with pytest.warns(regime_proto.RegimeWarning, match=rf"tensor body.0.weight at step {step}"):
        path = regime_proto.convert(run, tmp_path / "run.h5")
    with regime_proto.open_trajectory(path) as trajectory:
        assert trajectory["valid"].values.tolist() == [int(row != step) for row in range(8)]


def test_overflowing_activations_are_marked(run, tmp_path):
    payload = torch.load(run / "step_0003.pt")
    payload["model"]["body.0.weight"] *= 1e38
    payload["model"]["body.1.running_var"] *= 0
    torch.save(payload, run / "step_0003.pt")
    with pytest.warns(regime_proto.RegimeWarning, match=r"first in the activations at step 3"):
        path = regime_proto.convert(run, tmp_path / "run.h5")
    with regime_proto.open_trajectory(path) as trajectory:
        assert trajectory["valid"].values.tolist() == [1, 1, 1, 0, 1, 1, 1, 1]


def test_the_input_is_not_changed(mlp_run, tmp_path):
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in mlp_run.iterdir()}
    regime_proto.convert(mlp_run, tmp_path / "run.h5")
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in mlp_run.iterdir()} == before


def test_safetensors_give_the_same_numbers(mlp_run, reference, tmp_path):
    from safetensors.torch import save_file

    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("program.onnx", "probe.npz"):
        shutil.copy(mlp_run / name, folder)
    for path in mlp_run.glob("*.pt"):
        payload = torch.load(path)
        metadata = {name: str(payload[name]) for name in ("step", "epoch", "loss")}
        save_file(payload["model"], folder / f"{path.stem}.safetensors", metadata=metadata)
    found = contents(regime_proto.convert(folder, tmp_path / "run.h5"))[0]
    for name, values in contents(reference)[0].items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_states_of_another_order_of_axes_in_memory(run, reference, tmp_path):
    """A transposed tensor is saved with its strides; its values are what counts."""
    for path in run.glob("*.pt"):
        payload, times = torch.load(path), path.stat()
        weight = payload["model"]["body.0.weight"]
        payload["model"]["body.0.weight"] = weight.t().contiguous().t()
        torch.save(payload, path)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    found = contents(regime_proto.convert(run, tmp_path / "run.h5"))[0]
    for name, values in contents(reference)[0].items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_half_precision_checkpoints_are_widened(mlp_run, tmp_path):
    states = save_run(tmp_path / "full", nets.make_mlp())
    (tmp_path / "half").mkdir()
    for kind, name in itertools.product(("half", "full"), ("program.onnx", "probe.npz")):
        shutil.copy(mlp_run / name, tmp_path / kind)
    for step, state in enumerate(states):
        torch.save(
            {name: t.bfloat16() if t.is_floating_point() else t for name, t in state.items()},
            tmp_path / f"half/step_{step}.pt",
        )
        torch.save(
            {name: t.bfloat16().float() if t.is_floating_point() else t for name, t in state.items()},
            tmp_path / f"full/step_{step:04d}.pt",
        )
    pair = [
        contents(
            regime_proto.convert(
                tmp_path / kind,
                tmp_path / f"{kind}.h5",
            )
        )[0]
        for kind in ("half", "full")
    ]
    for name in ("mask", "flips", "weight_delta_l1", "weight_delta_l2"):
        np.testing.assert_array_equal(pair[0][name], pair[1][name])


def names_padded(run):
    for path in run.glob("step_*.pt"):
        path.rename(path.with_name(f"v{9 - int(path.stem[-1])}_{path.name}"))


def other_net():
    """One that has the same tensors, gates and sizes."""
    net = nets.make_mlp()
    net.body[1].eps = 0.1
    return net


DIFFERENT = {
    "order": (
        {"step_pattern": r"v(\d)_"},
        r"its steps are 0, 1, 2 … 7, 8 in all .*the requested steps are 2, 3, 4 .*step-pattern",
    ),
    "steps": ({"steps": "2:"}, r"the requested steps are 2, 3, 4 … 7, 6 in all"),
    "gates": ({"gates": "node_relu"}, r"the gates differ \(only in the file: node_relu_1; only requested: none\)"),
    "units": ({"sample_units": 4}, r"different units are stored \(--sample-units\)"),
    "weights": ({"weights": "model"}, r"was converted without --weights model"),
    "probe": ({"probe": nets.probe(nets.make_mlp(), seed=5)}, "the probe differs; analyze"),
    "program": ({"model": other_net()}, "the program differs; analyze"),
}


@pytest.fixture(scope="module")
def converted(mlp_run, tmp_path_factory):
    """A run and its trajectory, by whether the names of its checkpoints hold two numbers. Read only."""
    found = {}
    for padded in (False, True):
        run = Path(shutil.copytree(mlp_run, tmp_path_factory.mktemp("converted") / "checkpoints"))
        if padded:
            names_padded(run)
        found[padded] = run, regime_proto.convert(run, run.parent / "run.h5")
    return found


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_refused_output_says_what_differs(converted, name):
    options, message = DIFFERENT[name]
    run, path = converted[name == "order"]
    if name == "program":
        options = {**options, "probe": nets.probe(nets.make_mlp())}
    before = path.read_bytes()
    with pytest.raises(regime_proto.RegimeError, match=message) as caught:
        regime_proto.convert(run, path, **options)
    assert str(caught.value).startswith(f"{path}: exists, but was converted from different checkpoints")
    assert path.read_bytes() == before
    # What it says is all that differs.
    others = {"the program", "the probe", "the gates", "different units", "its steps", "--weights"}
    assert sum(part in str(caught.value) for part in others) == 1


def test_files_that_were_touched_are_what_is_left(run, tmp_path):
    path = regime_proto.convert(run, tmp_path / "run.h5")
    os.utime(run / "step_0000.pt", (1, 1))
    with pytest.raises(
        regime_proto.RegimeError, match=r"units and steps are the same, so a file was replaced or its time changed;"
    ):
        regime_proto.convert(run, path)
