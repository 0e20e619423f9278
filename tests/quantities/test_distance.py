"""The distance of the weights from the first observation, which a trajectory holds on request."""

import copy
import os

import ml_dtypes
import nets
import numpy as np
import pytest
import torch
from commands import assert_one_line, regime
from graphs import HOST, RESIDENT, meter_of, observe, program, quarters
from nets import save_run
from recording import rows

import regime_proto
from regime_proto import RegimeError, RegimeWarning
from regime_proto.adapters.from_torch.live_weights import SIZE, DeviceWeights, array_of, tensors_of
from regime_proto.conversion.following import grown_plan
from regime_proto.conversion.plan import QUANTITY_OVERHEAD, make_plan
from regime_proto.conversion.run import run_plan
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.quantities.deltas import KeptWeights
from regime_proto.quantities.installed import choose
from regime_proto.quantities.measuring import term_columns
from regime_proto.recording.first_state import read_start, start_path, write_start
from regime_proto.schema import validate
from regime_proto.schema.files import segments_folder

pytestmark = pytest.mark.usefixtures("nets_are_exported_once")

STATES = 8
DISTANCES = ConversionSettings(measure="weight_distance_l2")
TERMS = [quantity for quantity in choose(["weights"]) if quantity.term is not None]


def by_definition(states, names):
    """√Σ(w − w₀)² of every tensor of torch states, (state, tensor), all in float64."""
    wide = [{name: state[name].double().numpy() for name in names} for state in states]
    return np.array([[np.sqrt(np.sum((state[name] - wide[0][name]) ** 2)) for name in names] for state in wide])


def distances(path):
    """The distances in a trajectory, after a look whether it is valid."""
    assert not validate(path)
    return rows(path)["weight_distance_l2"]


# Converted from checkpoints


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """The states of `mlp_run`."""
    return save_run(tmp_path_factory.mktemp("states"), nets.make_mlp())


@pytest.fixture(scope="module")
def reference(mlp_run, tmp_path_factory):
    path = regime_proto.convert(mlp_run, tmp_path_factory.mktemp("reference") / "run.h5", distance=True, workers=1)
    return distances(path)


def test_distances_are_those_of_the_definition(states, reference):
    names = [name for name, _ in nets.make_mlp().named_parameters()]
    expected = by_definition(states, names)
    np.testing.assert_allclose(reference, expected, rtol=1e-7)
    assert not reference[0].any()
    assert (expected[1:].sum(axis=1) > 0).all()


def test_workers_make_no_difference(mlp_run, reference, tmp_path):
    path = regime_proto.convert(mlp_run, tmp_path / "run.h5", distance=True, workers=2)
    np.testing.assert_array_equal(distances(path), reference)


def test_none_are_kept_that_nobody_asked_for(mlp_run, tmp_path):
    assert "weight_distance_l2" not in rows(regime_proto.convert(mlp_run, tmp_path / "run.h5"))


def test_they_are_counted_in_what_is_foreseen(mlp_run):
    bare, plan = make_plan(mlp_run), make_plan(mlp_run, DISTANCES)
    assert plan.predicted_memory_bytes(2) == bare.predicted_memory_bytes(2) + bare.state_bytes
    masks = plan.mask_policy("all")
    extra = plan.predicted_file_bytes(masks) - bare.predicted_file_bytes(masks)
    assert extra == QUANTITY_OVERHEAD + 8 * STATES * len(plan.program.trainable)
    assert plan.fingerprints == bare.fingerprints


@pytest.mark.parametrize("device", [HOST, RESIDENT], ids=["host", "resident"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_on_the_host_and_on_a_device(dtype, device):
    # Large enough that the host folds, and small enough that it does not.
    made = program("h = Relu(z)\ny = MatMul(h, v)", inputs={"x": (7, 300)}, weights={"w": (300, 400), "v": (400, 3)})
    random = np.random.default_rng(2)
    states = [
        {"w": random.standard_normal((300, 400)).astype(dtype), "v": random.standard_normal((400, 3)).astype(dtype)}
        for _ in range(3)
    ]
    given = copy.deepcopy(states)
    meter = meter_of(
        made, {"x": quarters((7, 300), 1)}, given[0], device=device, measured=choose(["weight_distance_l2"])
    )
    # The first state is kept as it was, whatever becomes of the memory that it was read from.
    given[0]["w"][...] = 0
    observed = [observation.quantities["weight_distance_l2"] for observation in observe(meter, *states)]
    wide = [{name: array.astype(np.float64) for name, array in state.items()} for state in states]
    expected = [[np.sqrt(np.sum((state[name] - wide[0][name]) ** 2)) for name in ("w", "v")] for state in wide]
    # Differences are formed in float32 where that is the wider type.
    np.testing.assert_allclose(observed, expected, rtol=1e-12 if dtype == np.float64 else 1e-7)
    assert observed[0].tolist() == [0, 0]


def interrupted(run, output, **options):
    """Convert until a damaged checkpoint, then mend that."""
    damaged = run / "step_0005.pt"
    content, times = damaged.read_bytes(), damaged.stat()
    damaged.write_bytes(content[:500])
    with pytest.raises(RegimeError, match="step_0005"):
        regime_proto.convert(run, output, **options)
    damaged.write_bytes(content)
    os.utime(damaged, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_an_interrupted_conversion_goes_on_from_the_same_first_state(run, reference, tmp_path):
    path = tmp_path / "run.h5"
    interrupted(run, path, distance=True)
    seen = []
    regime_proto.convert(run, path, distance=True, progress=lambda done, total: seen.append(done))
    assert seen == [6, 7, 8]
    np.testing.assert_array_equal(distances(path), reference)


@pytest.mark.parametrize("first", [True, False])
def test_an_interrupted_conversion_goes_on_as_it_was_begun(run, tmp_path, first):
    path = tmp_path / "run.h5"
    interrupted(run, path, distance=first)
    held, asked = ("weight_distance_l2", "none") if first else ("none", "weight_distance_l2")
    found = f"the quantities {held}, now {asked}"
    with pytest.raises(
        RegimeError, match=f"started with {found}; use the former to resume, or restart with --overwrite"
    ):
        regime_proto.convert(run, path, distance=not first)


@pytest.mark.parametrize("again", [True, False])
def test_a_run_that_has_grown_keeps_them(run, reference, tmp_path, again):
    path = tmp_path / "run.h5"
    aside = (run / "step_0007.pt").rename(tmp_path / "aside.pt")
    regime_proto.convert(run, path, distance=True)
    aside.rename(run / "step_0007.pt")
    seen = []
    regime_proto.convert(run, path, distance=again, progress=lambda done, total: seen.append(done))
    assert seen == [8]
    np.testing.assert_array_equal(distances(path), reference)


def test_a_run_that_has_grown_gets_them_where_they_are_asked_for(run, reference, tmp_path):
    path = tmp_path / "run.h5"
    aside = (run / "step_0007.pt").rename(tmp_path / "aside.pt")
    regime_proto.convert(run, path)
    aside.rename(run / "step_0007.pt")
    regime_proto.convert(run, path, distance=True)
    np.testing.assert_array_equal(distances(path), reference)


def test_a_file_without_them_is_not_taken_for_one_with_them(mlp_run, reference, tmp_path):
    path = regime_proto.convert(mlp_run, tmp_path / "run.h5")
    content = path.read_bytes()
    refused = regime("convert", mlp_run, "-o", path, "--distance")
    assert_one_line(refused, "run.h5: exists, but holds no weight_distance_l2; .*: pass --overwrite")
    assert path.read_bytes() == content
    assert regime("convert", mlp_run, "-o", path, "--distance", "--overwrite").exit_code == 0
    np.testing.assert_array_equal(distances(path), reference)
    # One that has them serves whoever did not ask.
    used = regime("analyze", mlp_run, "-o", path)
    assert "nothing changed; using" in used.stderr
    assert_one_line(regime("analyze", path, "--distance"), "--measure applies only to a directory of checkpoints")


def test_the_first_checkpoint_may_be_deleted_while_a_run_is_followed(run, reference, tmp_path):
    aside = (run / "step_0007.pt").rename(tmp_path / "aside.pt")
    rounds = []

    def grown(plan, done):
        rounds.append(done.observations)
        if len(rounds) == 2:
            return None
        (run / "step_0000.pt").unlink()
        aside.rename(run / "step_0007.pt")
        return grown_plan(plan, seconds=0.01)

    path = tmp_path / "run.h5"
    run_plan(make_plan(run, DISTANCES), path, DISTANCES, grown=grown)
    assert rounds == [7, 8]
    np.testing.assert_array_equal(distances(path), reference)
    # Later, another process has nothing to measure from.
    with pytest.raises(
        RegimeError, match=r"run\.h5: exists, but was converted from different checkpoints \(some may have been"
    ):
        regime_proto.convert(run, path, distance=True)


def spoil(run, step):
    payload = torch.load(run / f"step_{step:04d}.pt")
    payload["model"]["body.4.bias"][1] = float("nan")
    torch.save(payload, run / f"step_{step:04d}.pt")


def test_no_distance_from_a_first_state_that_is_no_number(run, tmp_path):
    spoil(run, 0)
    with pytest.raises(RegimeError, match=r"step_0000.pt: body.4.bias holds NaN or Inf, .*leave the checkpoint out"):
        regime_proto.convert(run, tmp_path / "run.h5", distance=True)
    path = regime_proto.convert(run, tmp_path / "run.h5", distance=True, steps="1:")
    assert len(distances(path)) == STATES - 1


def test_one_broken_state_spoils_no_other(run, reference, tmp_path):
    spoil(run, 4)
    with pytest.warns(RegimeWarning, match="tensor body.4.bias at step 4"):
        found = distances(regime_proto.convert(run, tmp_path / "run.h5", distance=True))
    names = [name for name, _ in nets.make_mlp().named_parameters()]
    assert [name for name, distance in zip(names, found[4], strict=True) if np.isnan(distance)] == ["body.4.bias"]
    others = np.arange(STATES) != 4
    np.testing.assert_array_equal(found[others], reference[others])


# Recorded in a training


STEPS = 14
PROBE = nets.probe(nets.make_mlp())


def make_small():
    return torch.nn.Sequential(torch.nn.Linear(12, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A recording without an interruption: its distances, and its states."""
    generator = torch.Generator().manual_seed(0)
    states = [{name: torch.randn(t.shape, generator=generator) for name, t in make_small().state_dict().items()}]
    for _ in range(STEPS - 1):
        states.append({name: t + 0.1 * torch.randn(t.shape, generator=generator) for name, t in states[-1].items()})
    return distances(record(states, range(STEPS), tmp_path_factory.mktemp("whole") / "run.h5")), states


def record(states, steps, path, *, start=None, fail=False, dtype=torch.float32, **options):
    """Record given states at given steps; `start` is the state that the model is in when the recorder is made."""
    model = make_small().to(dtype)
    if start is not None:
        model.load_state_dict(states[start])
    recorder = regime_proto.record(model, PROBE, path, distance=True, **options)
    for step in steps:
        model.load_state_dict(states[step])
        recorder.observe(step)
    if fail:
        recorder.abandon()
    else:
        recorder.close()
    return path


def test_a_recording_holds_those_of_the_definition(whole):
    found, states = whole
    np.testing.assert_allclose(found, by_definition(states, list(states[0])), rtol=1e-7)
    assert not found[0].any()


def test_going_on_after_failures_and_a_gap_measures_from_the_same_first_state(whole, tmp_path):
    expected, states = whole
    path = record(states, range(8), tmp_path / "run.h5", fail=True)
    record(states, range(6, 10), path, start=5, resume=True, fail=True)
    with pytest.warns(RegimeWarning, match="resumes at step 12 after step 9"):
        record(states, range(12, STEPS), path, start=11, resume=True)
    np.testing.assert_array_equal(distances(path), expected[[*range(10), *range(12, STEPS)]])


def test_going_on_with_a_finished_recording_of_onnx_runtime_in_half_precision(whole, tmp_path):
    states = [{name: tensor.bfloat16() for name, tensor in state.items()} for state in whole[1]]
    options = {"engine": "onnx", "dtype": torch.bfloat16}
    # There is nothing to go on with yet, and the state that the model is in is not the first observation's.
    path = record(states, range(8), tmp_path / "run.h5", start=6, resume=True, **options)
    record(states, range(7, STEPS), path, start=7, resume=7, **options)
    np.testing.assert_allclose(distances(path), by_definition(states, list(states[0])), rtol=1e-12)


def test_going_on_from_the_first_observation_or_before_it_begins_anew(whole, tmp_path):
    _, states = whole
    path = record(states, range(5, 9), tmp_path / "run.h5")
    for first in (5, 3):
        record(states, range(first, 7), path, start=first, resume=True)
        np.testing.assert_allclose(distances(path), by_definition(states[first:7], list(states[0])), rtol=1e-7)
        with regime_proto.open_trajectory(path) as trajectory:
            start = read_start(start_path(path), run=trajectory.attrs["run_id"], step=first)
        np.testing.assert_array_equal(start[0], states[first]["0.weight"])


def test_what_a_recording_began_with_cannot_be_changed(whole, tmp_path):
    _, states = whole
    path = record(states, range(8), tmp_path / "run.h5")
    start_path(path).unlink()
    before = path.read_bytes()
    with pytest.raises(
        RegimeError, match=r"run\.h5\.start\.npz: missing; expected the first state, .*restore the file"
    ):
        record(states, [], path, start=7, resume=True)
    with pytest.raises(RegimeError, match=r"choice of quantities \(measure=\); resume with the same settings"):
        regime_proto.record(make_small(), PROBE, path, resume=True)
    assert path.read_bytes() == before
    assert not segments_folder(path).exists()


@pytest.fixture
def start(tmp_path):
    path = tmp_path / "run.h5.start.npz"
    arrays = [np.arange(6.0).reshape(2, 3), np.float32(0.5), np.ones(4, ml_dtypes.bfloat16)]
    write_start(path, arrays, run="a", step=3)
    return path, arrays


def test_a_first_state_is_read_as_it_was_written(start):
    path, arrays = start
    for found, array in zip(read_start(path, run="a", step=3), arrays, strict=True):
        np.testing.assert_array_equal(found, array)
        assert found.dtype.itemsize >= 4
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def no_archive(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize("spoil", [cut, no_archive])
def test_a_damaged_first_state_is_told(start, spoil):
    path, _ = start
    spoil(path)
    with pytest.raises(RegimeError, match=r"run\.h5\.start\.npz: damaged \(.+\); restore the file"):
        read_start(path, run="a", step=3)


@pytest.mark.parametrize("of", [{"run": "b", "step": 3}, {"run": "a", "step": 4}])
def test_a_first_state_of_another_run_is_not_measured_from(start, of):
    expected = f"the first state of run a, step 3; expected that of run {of['run']}, step {of['step']}; "
    with pytest.raises(RegimeError, match=expected):
        read_start(start[0], **of)


def test_a_first_state_that_cannot_be_written_leaves_what_is_there(start):
    path, _ = start
    before = path.read_bytes()
    with pytest.raises(ValueError, match="could not convert string"):
        write_start(path, [np.array(["no number"])], run="a", step=4)
    assert path.read_bytes() == before
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_first_state_that_is_no_number_ends_the_recording_and_not_the_training(whole, tmp_path):
    _, states = whole
    broken = {name: tensor.clone() for name, tensor in states[0].items()}
    broken["0.weight"][0, 0] = float("inf")
    with pytest.warns(RegimeWarning) as warned:
        path = record([broken, *states[1:]], range(4), tmp_path / "run.h5")
    assert "recording has stopped, training continues: step 0 holds NaN or Inf, so later states" in str(
        warned[0].message
    )
    assert not path.exists()
    assert not segments_folder(path).exists()


def test_the_path_of_a_gpu_measures_the_same():
    """On the CPU: what runs on a device there, but for CUDA itself."""
    model = nets.make_conv()
    model.fc = torch.nn.Linear(45, 4000)
    names = [name for name, _ in model.named_parameters()]
    for made in (model, copy.deepcopy(model).bfloat16()):
        host, there = KeptWeights(names), DeviceWeights()
        for step in range(4):
            weights = tensors_of(made)
            tensors, arrays = [weights[name] for name in names], {name: array_of(weights[name]) for name in names}
            if step == 1:
                there.begin(tensors)
                host.begin(arrays)
            others = {"previous": host.previous, "first": host.first}
            expected = term_columns(TERMS, arrays, others, names, "here")
            np.testing.assert_allclose(there.terms(TERMS, tensors).numpy(), expected, rtol=1e-6)
            assert np.isnan(expected).any(axis=0).tolist() == [
                {"": False, "previous": step < 1, "first": step < 1}[quantity.against] for quantity in TERMS
            ]
            found = there.change(tensors).numpy()
            np.testing.assert_allclose(np.delete(found, SIZE, axis=1), host.change(arrays), rtol=1e-6)
            with torch.no_grad():
                for parameter in made.parameters():
                    parameter += 0.1 * torch.randn(parameter.shape).to(parameter.dtype)
