"""Trainings that stop and go on: killed, failed, set back, or finished and prolonged."""

import os
import shutil
import signal
import subprocess
import sys

import children
import nets
import numpy as np
import pytest
import torch
from recording import extra, rows

import regime_proto
from regime_proto import RegimeError, RegimeWarning
from regime_proto.comparison.labels import labels_of
from regime_proto.schema import validate
from regime_proto.schema.doubts import describe_invalid
from regime_proto.schema.files import segments_folder
from regime_proto.schema.finish import finish

pytestmark = pytest.mark.usefixtures("nets_are_exported_once")

STEPS = 20
# More than two full segments.
LONG = 140

TRAIN = """
import io, os, resource, signal, sys, warnings
import nets, torch
import regime_proto

path, last, ending = sys.argv[1], int(sys.argv[2]), sys.argv[3]
streams = sys.stdout, sys.stderr
model = nets.make_mlp()
recorder = regime_proto.record(model, nets.probe(model), path, seconds=float(sys.argv[4]), masks="all")
for step, _ in enumerate(nets.train(model, states=last + 1)):
    recorder.observe(step, loss=step)
    if ending == "full" and step == 80:
        # Further files cannot grow, as on a full disk; what is there already can be read, and what is said is kept.
        sys.stdout, sys.stderr = kept = io.StringIO(), io.StringIO()
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
if ending == "flush":
    recorder.flush()
if ending in ("kill", "flush"):
    os.kill(os.getpid(), signal.SIGKILL)
if ending == "error":
    raise ValueError("the training failed")
if ending == "exit":
    sys.exit(3)
if ending == "full":
    print("stopped:", recorder.status().stopped)
    recorder.close()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for stream, text in zip(streams, kept):
        stream.write(text.getvalue())
"""


def in_process(path, last, ending, seconds=1000.0):
    return children.run(TRAIN, path, last, ending, seconds)


def recorded(path, states):
    """Record a training of so many states without an interruption; return the file and the states."""
    model = nets.make_mlp()
    found = []
    with regime_proto.record(model, nets.probe(model), path) as recorder:
        for step, _ in enumerate(nets.train(model, states=states)):
            recorder.observe(step, loss=step)
            found.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    return path, found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training without an interruption, and its states."""
    return recorded(tmp_path_factory.mktemp("whole") / "run.h5", STEPS)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """The same for longer."""
    return recorded(tmp_path_factory.mktemp("long") / "run.h5", LONG)


@pytest.fixture(scope="module")
def long_failed(long, tmp_path_factory):
    """The segments that are left of a long recording whose training failed at the end."""
    _, states = long
    path = tmp_path_factory.mktemp("failed") / "run.h5"
    record_states(states, range(LONG), path, fail=True)
    return segments_folder(path)


def assert_equal(path, expected, *, without=()):
    assert not validate(path)
    found, other = rows(path), rows(expected)
    kept = ~np.isin(other["step"], without)
    for name in ("step", "flips", "mask", "weight_delta_l1", "weight_delta_l2", "valid", "metric_loss"):
        values = found[name][~np.isin(found["step"], without)]
        np.testing.assert_array_equal(values, other[name][kept], err_msg=name)


def record_states(states, steps, path, *, start=None, fail=False, **options):
    """Record given states at given steps; `start` is the state that the model is in when the recorder is made."""
    model = nets.make_mlp()
    if start is not None:
        model.load_state_dict(states[start])
    recorder = regime_proto.record(model, nets.probe(model), path, **options)
    for step in steps:
        model.load_state_dict(states[step])
        recorder.observe(step, loss=step)
    if fail:
        recorder.abandon()
    else:
        recorder.close()


@pytest.mark.parametrize("resume", [True, 9])
@pytest.mark.parametrize("fail", [True, False])
def test_a_run_that_is_set_back_goes_on_in_one_file(whole, tmp_path, fail, resume):
    expected, states = whole
    path = tmp_path / "run.h5"
    record_states(states, range(14), path, fail=fail)
    run_id = extra_of(path)
    record_states(states, range(10, STEPS), path, start=9, resume=resume)
    assert_equal(path, expected)
    assert extra(path)["resumed_from_steps"] == "9"
    with regime_proto.open_trajectory(path) as trajectory:
        assert run_id in (None, trajectory.attrs["run_id"])
    assert not segments_folder(path).exists()


def extra_of(path):
    if not path.exists():
        return None
    with regime_proto.open_trajectory(path) as trajectory:
        return trajectory.attrs["run_id"]


@pytest.mark.parametrize("resume", [True, 9])
def test_the_state_that_it_goes_on_from_may_be_observed_again(whole, tmp_path, resume):
    """As callbacks do, which observe the state at the begin of a training."""
    expected, states = whole
    path = tmp_path / "run.h5"
    record_states(states, range(14), path, fail=True)
    record_states(states, range(9, STEPS), path, start=9, resume=resume)
    assert_equal(path, expected)


def test_a_run_may_be_resumed_again_and_again(whole, tmp_path):
    expected, states = whole
    path = tmp_path / "run.h5"
    record_states(states, range(8), path, fail=True)
    record_states(states, range(5, 12), path, start=4, resume=True, fail=True)
    record_states(states, range(12, 15), path, start=11, resume=True)
    record_states(states, range(3, STEPS), path, start=2, resume=2)
    assert_equal(path, expected)
    assert extra(path)["resumed_from_steps"] == "4 11 2"
    assert not labels_of(extra(path))


@pytest.mark.parametrize("masks", ["all", "none"])
@pytest.mark.parametrize("resume", [True, 15])
def test_what_was_lost_leaves_a_gap_that_is_told(whole, tmp_path, resume, masks):
    """The last checkpoint is newer than what a kill left of the recording."""
    expected, states = whole
    path = tmp_path / "run.h5"
    record_states(states, range(11), path, fail=True, masks=masks)
    with pytest.warns(RegimeWarning, match=r"resumes at step 16 after step 10, and the change in between is unknown"):
        record_states(states, range(16, STEPS), path, start=15, resume=resume, masks=masks)
    found = rows(path)
    assert found["step"].tolist() == [*range(11), *range(16, STEPS)]
    assert found["valid"].tolist() == [1] * 11 + [0] + [1] * (STEPS - 17)
    assert np.isnan(found["weight_delta_l1"][11]).all()
    assert not validate(path)
    with regime_proto.open_trajectory(path) as trajectory:
        said = describe_invalid(trajectory)
    assert said.startswith(
        "1 of 15 observations cannot be used, the first because the recording has a gap before step 16"
    )
    one, other = (regime_proto.analyze(file, batches_per_epoch=1) for file in (path, expected))
    with regime_proto.open_trajectory(expected) as trajectory:
        changes = trajectory["weight_delta_l1"].to_numpy()
    np.testing.assert_array_equal(found["weight_delta_l1"][12:], changes[17:])
    assert one.auc_w != other.auc_w


def test_without_masks_the_step_has_to_be_told(whole, tmp_path):
    expected, states = whole
    path = tmp_path / "run.h5"
    record_states(states, range(11), path, fail=True, masks="none")
    record_states(states, range(8, STEPS), path, start=7, resume=7, masks="none")
    assert rows(path)["valid"].all()
    np.testing.assert_array_equal(rows(path)["weight_delta_l1"], rows(expected)["weight_delta_l1"])
    np.testing.assert_array_equal(rows(path)["flips"], rows(expected)["flips"])


def test_a_model_in_another_state_than_said_is_noticed(whole, tmp_path):
    _, states = whole
    path = tmp_path / "run.h5"
    record_states(states, range(11), path, fail=True)
    with pytest.warns(RegimeWarning, match="the model was not in the state of that step"):
        record_states(states, range(9, STEPS), path, start=0, resume=8)
    assert rows(path)["valid"].tolist() == [1] * 9 + [0] + [1] * (STEPS - 10)


def test_resuming_where_there_is_nothing_begins(whole, tmp_path):
    expected, states = whole
    record_states(states, range(STEPS), tmp_path / "run.h5", start=0, resume=True)
    assert_equal(tmp_path / "run.h5", expected)


def test_going_on_from_before_the_first_observation_begins_anew(whole, tmp_path):
    expected, states = whole
    path = tmp_path / "run.h5"
    record_states(states, range(5, 9), path)
    record_states(states, range(STEPS), path, start=9, resume=True)
    assert_equal(path, expected)


def test_a_recorder_that_resumes_and_sees_nothing_drops_nothing(whole, tmp_path):
    _, states = whole
    path = tmp_path / "run.h5"
    for fail in (False, True):
        record_states(states, range(6), path, fail=fail, overwrite=True)
        record_states(states, [], path, start=5, resume=True)
        assert rows(path)["step"].tolist() == list(range(6))


@pytest.mark.parametrize("fail", [True, False])
@pytest.mark.parametrize("number", [63, 64, 65, 128])
def test_cutting_back_at_the_edges_of_segments(long, long_failed, tmp_path, number, fail):
    straight, states = long
    path = tmp_path / "run.h5"
    if fail:
        shutil.copytree(long_failed, segments_folder(path))
    else:
        shutil.copy(straight, path)
    record_states(states, range(number, LONG), path, start=number - 1, resume=True)
    assert_equal(path, straight)


def test_a_kill_between_the_join_and_the_end_loses_nothing(whole, tmp_path):
    """The output stands, and some of its segments too."""
    expected, states = whole
    path = tmp_path / "run.h5"
    record_states(states, range(14), path)
    kept = path.read_bytes()
    path.unlink()
    record_states(states, range(6), path, fail=True)
    path.write_bytes(kept)
    record_states(states, range(14, STEPS), path, start=13, resume=True)
    assert_equal(path, expected)


OTHERS = {
    "probe": lambda model: {"probe": nets.probe(model, seed=5)},
    "gates": lambda model: {"gates": "node_relu"},
    "units": lambda model: {"sample_units": 4},
    "model": lambda model: {"model": nets.Mlp(width=16)},
}


@pytest.mark.parametrize("fail", [True, False])
@pytest.mark.parametrize("name", OTHERS)
def test_another_run_is_not_gone_on_with(whole, tmp_path, name, fail):
    _, states = whole
    path = tmp_path / "run.h5"
    record_states(states, range(5), path, fail=fail)
    before = sorted(file.name for file in tmp_path.rglob("*.h5"))
    model = nets.make_mlp()
    options = {"model": model, "probe": nets.probe(model), "output": path, "resume": True, **OTHERS[name](model)}
    with pytest.raises(RegimeError, match=r"a different run|unfinished run with other inputs"):
        regime_proto.record(**options)
    assert sorted(file.name for file in tmp_path.rglob("*.h5")) == before
    # What is there can still be gone on with.
    record_states(states, range(5, 8), path, start=4, resume=True)
    assert rows(path)["step"].tolist() == list(range(8))


@pytest.mark.parametrize("fail", [True, False])
def test_other_masks_or_engines_do_not_go_on(whole, tmp_path, fail):
    _, states = whole
    path = tmp_path / "run.h5"
    record_states(states, range(5), path, fail=fail)
    for options in ({"masks": "every=2"}, {"engine": "onnx"}):
        with pytest.raises(RegimeError, match=r"started with|with a different engine, device, mask policy"):
            record_states(states, range(5, 8), path, start=4, resume=True, **options)


def test_a_conversion_is_not_gone_on_with(mlp_run, tmp_path):
    path = regime_proto.convert(mlp_run, tmp_path / "run.h5")
    content = path.read_bytes()
    model = nets.make_mlp()
    with pytest.raises(RegimeError, match=r"run\.h5: holds a different run: .*converted from checkpoints"):
        regime_proto.record(model, nets.probe(model), path, resume=True)
    assert path.read_bytes() == content


@pytest.mark.parametrize(("ending", "kept"), [("kill", 128), ("flush", 140)])
def test_a_kill_loses_at_most_one_segment_and_nothing_that_was_flushed(ending, kept, long, tmp_path):
    path = tmp_path / "run.h5"
    done = in_process(path, 139, ending)
    assert done.returncode == -signal.SIGKILL
    assert finish(path).observations == kept
    assert_first(path, kept, long)


def test_segments_are_bounded_in_time_too(long, tmp_path):
    path = tmp_path / "run.h5"
    done = in_process(path, 30, "kill", seconds=0)
    assert done.returncode == -signal.SIGKILL
    # The newest is open to further metrics, and up to eight are on their way.
    kept = finish(path).observations
    assert kept >= 31 - 9
    assert_first(path, kept, long)


@pytest.mark.parametrize(("ending", "code"), [("error", 1), pytest.param("exit", 3, marks=pytest.mark.slow)])
def test_a_failure_outside_of_the_context_loses_nothing(ending, code, long, tmp_path):
    """In an interpreter of its own, whose end is what counts."""
    path = tmp_path / "run.h5"
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(nets.__file__)}  # noqa: PTH120
    command = [sys.executable, "-c", TRAIN, str(path), "75", ending, "1000"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == code, done.stderr
    assert ("ValueError: the training failed" in done.stderr) == (ending == "error")
    assert "atexit" not in done.stderr
    assert not path.exists()
    assert finish(path).observations == 76
    assert_first(path, 76, long)


def test_a_full_disk_ends_the_recording_and_not_the_training(long, tmp_path):
    path = tmp_path / "run.h5"
    done = in_process(path, 150, "full")
    assert done.returncode == 0, done.stderr
    assert "recording has stopped, training continues: " in done.stderr
    assert "stopped: " in done.stdout
    assert "64 observations are safe in " in done.stdout
    assert finish(path).observations == 64
    assert_first(path, 64, long)


def assert_first(path, count, reference):
    """Hold the first observations of a run in another process against the same here."""
    assert not validate(path)
    found, expected = rows(path), rows(reference[0])
    assert len(found["step"]) == count
    for name in ("step", "flips", "mask", "weight_delta_l1", "metric_loss"):
        np.testing.assert_array_equal(found[name], expected[name][:count], err_msg=name)


def test_torch_loads_what_it_saved(whole):
    """The states that these tests go on from are those of the training."""
    _, states = whole
    assert not torch.equal(states[3]["body.0.weight"], states[4]["body.0.weight"])
