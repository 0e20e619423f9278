"""The recorder where two processes train a model together: one writes, and neither trains otherwise."""

import distributed_training as training
import numpy as np
from distributed_training import run_in_two
from recording import assert_same_run, rows

import regime_proto


def assert_recorded(folder, model, *, measure=()):
    """Hold what the first process recorded against the whole states that it saved."""
    checkpoints = folder / "checkpoints"
    options = {"model": model, "probe": training.probe(), "measure": measure}
    converted = regime_proto.convert(checkpoints, folder / "converted.h5", **options)
    paths = [checkpoints / f"step_{step}.pt" for step in range(training.STEPS)]
    assert_same_run(folder / "of_0.h5", converted, paths, training.probe())
    found = rows(folder / "of_0.h5")
    assert (found["weight_delta_l1"][1:].sum(axis=1) > 0).all()
    assert found["flips"][1:].any()
    assert not list(folder.glob("of_1*"))


def test_copies_of_a_model_are_recorded_by_one_process(tmp_path):
    first, second = run_in_two(training.data_parallel, tmp_path)
    for name in ("wrapper", "module"):
        assert_recorded(tmp_path / name, training.make())
        assert first[name]
        assert second[name]
        assert first[f"{name}, observations"] == training.STEPS
        assert second[f"{name}, observations"] == 0
    for said in (first, second):
        assert said["sharded later"].startswith("the model was sharded after the recorder was made")


def test_a_sharded_model_is_recorded_as_a_whole(tmp_path):
    for said in run_in_two(training.fully_sharded, tmp_path):
        for look in training.LOOKS:
            assert said[look]
            assert said[f"{look}, all-reduces"] == training.STEPS
    plain = {training.make_checkpointed: training.make}
    for look, (make, _) in training.LOOKS.items():
        assert_recorded(tmp_path / look, plain.get(make, make)(), measure="all")
        # No process has the first state whole.
        assert not list((tmp_path / look).glob("*.start.npz"))


def test_what_is_not_finite_in_one_process_makes_an_observation_invalid(tmp_path):
    run_in_two(training.invalid, tmp_path)
    np.testing.assert_array_equal(rows(tmp_path / "of_0.h5")["valid"], [0, 1, 1, 0, 1])


def test_no_copy_of_a_weight_is_counted_twice(tmp_path):
    run_in_two(training.meshes, tmp_path)
    for name, make in training.MESHES.items():
        assert_recorded(tmp_path / name, make(), measure="all")


def test_where_nothing_can_be_recorded_no_process_waits(tmp_path):
    """Other ways of sharding are refused in all; the error of the process that records ends the others with it."""
    first, second = run_in_two(training.failing, tmp_path)
    for said in (first, second):
        assert said["flat"].startswith("FullyShardedDataParallel: is not followed in training")
    assert first["error"].startswith("ProbeError: probe: the model fails on the probe")
    assert second["error"].startswith("RuntimeError: ")
    assert "closed by peer" in second["error"]
    assert not (tmp_path / "run.h5").exists()
