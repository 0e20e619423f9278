"""The recorder where two processes train a model together: one writes, and neither trains otherwise."""

import re

import distributed_training as training
import numpy as np
import pytest
from distributed_training import run_in_two
from recording import assert_same_run, extra, rows

import regime_proto

pytestmark = pytest.mark.usefixtures("nets_are_exported_once")


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """The folder of all trainings, and what was said in them."""
    folder = tmp_path_factory.mktemp("trainings")
    return folder, run_in_two(folder)


@pytest.fixture
def trained(request, trainings):
    """The folder of one training, and what its two processes said."""
    folder, said = trainings
    return folder / request.param, said[request.param]


def of(training):
    """Give a test the outcome of a training."""
    return pytest.mark.parametrize("trained", [training.__name__], indirect=True)


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


@of(training.data_parallel)
def test_copies_of_a_model_are_recorded_by_one_process(trained):
    folder, (first, second) = trained
    for name in ("wrapper", "module"):
        assert_recorded(folder / name, training.make())
        assert first[name]
        assert second[name]
        assert first[f"{name}, observations"] == training.STEPS
        assert second[f"{name}, observations"] == 0
    for said in (first, second):
        assert said["sharded later"].startswith("the model was sharded after the recorder was created")


@of(training.fully_sharded)
def test_a_sharded_model_is_recorded_as_a_whole(trained):
    folder, both = trained
    for said in both:
        for look in training.LOOKS:
            assert said[look]
            assert said[f"{look}, all-reduces"] == training.STEPS
    plain = {training.make_checkpointed: training.make}
    for look, (make, _) in training.LOOKS.items():
        assert_recorded(folder / look, plain.get(make, make)(), measure=("weights", "active_fraction"))
        # No process has the first state whole.
        assert not list((folder / look).glob("*.start.npz"))


@of(training.invalid)
def test_what_is_not_finite_in_one_process_makes_an_observation_invalid(trained):
    folder, _ = trained
    np.testing.assert_array_equal(rows(folder / "of_0.h5")["valid"], [0, 1, 1, 0, 1])


@of(training.meshes)
def test_no_copy_of_a_weight_is_counted_twice(trained):
    folder, _ = trained
    for name, make in training.MESHES.items():
        assert_recorded(folder / name, make(), measure=("weights", "active_fraction"))


@of(training.paced)
def test_processes_that_share_weights_observe_the_same_steps(trained):
    folder, (first, second) = trained
    assert first["steps"] == second["steps"] == rows(folder / "of_0.h5")["step"].tolist()
    assert np.diff(first["steps"])[-1] == 8
    assert extra(folder / "of_0.h5")["every_strides"] == "0:4 4:8"


@of(training.failing)
def test_where_nothing_can_be_recorded_no_process_waits(trained):
    """Other ways of sharding are refused in all; the error of the process that records ends the others with it."""
    folder, (first, second) = trained
    for said in (first, second):
        assert said["flat"].startswith("FullyShardedDataParallel: cannot be recorded during training")
    assert first["error"].startswith("ProbeError: probe: the model fails on the probe")
    assert second["error"].startswith("RuntimeError: ")
    # Closed or reset, by how much of the last message was still under way.
    assert re.search("Connection (closed|reset) by peer", second["error"])
    assert not (folder / "run.h5").exists()
