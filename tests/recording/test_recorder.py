"""The recorder: the trajectory that checkpoints at every step give, and a training that it leaves alone."""

import copy
import math

import nets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from activations import ACTIVATIONS, FEATURES, SAMPLES, Before
from recording import assert_same_run, extra, rows
from torch import nn

import regime_proto
from regime_proto import RegimeError, RegimeWarning, Settling
from regime_proto.adapters.from_torch import live_masks
from regime_proto.adapters.from_torch.live_masks import packed_on_device
from regime_proto.adapters.from_torch.live_weights import DeviceWeights, array_of, tensors_of
from regime_proto.analyzer.settings import AnalysisSettings
from regime_proto.comparison.labels import labels_of
from regime_proto.quantities.deltas import KeptWeights
from regime_proto.report.print.drawn import read_run
from regime_proto.schema import validate
from regime_proto.schema.files import segments_folder

pytestmark = pytest.mark.usefixtures("nets_are_exported_once")

ENGINES = {"native": "torch ", "onnx": "onnxruntime "}
UPDATES, STILL = 6, 3
# The recorders observe before and after every update, and some times more while nothing changes.
OBSERVATIONS = 2 * UPDATES + STILL


def trained(make, folder=None):
    """Train, half of the time in autocast; return the weights, and the random states.

    With a `folder`, both engines record into it all that they see, and every state that they observe is saved.
    """
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    recorders = []
    if folder is not None:
        (folder / "checkpoints").mkdir()
        recorders = [
            regime_proto.record(model, nets.probe(model), folder / f"{engine}.h5", engine=engine) for engine in ENGINES
        ]
    for update in range(UPDATES):
        inputs = torch.randn(16, *nets.SHAPES[type(model)])
        labels = torch.randint(0, 3, (16,))
        with torch.autocast("cpu", torch.bfloat16, enabled=update >= UPDATES // 2):
            loss = F.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            observe(recorders, model, 2 * update, folder, loss=loss)
        optimizer.step()
        observe(recorders, model, 2 * update + 1, folder, loss=loss)
    for step in range(2 * UPDATES, OBSERVATIONS):
        observe(recorders, model, step, folder)
    for recorder in recorders:
        recorder.close()
    return {**model.state_dict(), "random": torch.get_rng_state(), "numpy": torch.tensor(np.random.random())}  # noqa: NPY002


def observe(recorders, model, step, folder, **metrics):
    """Let recorders observe a model, which keeps its gradients and modes, and save it."""
    gradients = {name: parameter.grad.clone() for name, parameter in used(model)}
    modes = [module.training for module in model.modules()]
    for recorder in recorders:
        recorder.observe(step, **metrics)
        assert [module.training for module in model.modules()] == modes
        for name, parameter in used(model):
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=0, atol=0)
    if recorders:
        torch.save(model.state_dict(), folder / "checkpoints" / f"step_{step}.pt")


def used(model):
    """Return the named parameters that have gradients."""
    return [(name, parameter) for name, parameter in model.named_parameters() if "unused" not in name]


@pytest.fixture(scope="module", params=[nets.make_mlp, nets.make_conv, nets.make_encoder])
def training(request, tmp_path_factory):
    """What makes a net, the folder of its recordings and checkpoints, and the weights at the end."""
    folder = tmp_path_factory.mktemp("training")
    return request.param, folder, trained(request.param, folder)


@pytest.fixture(scope="module")
def converted(training):
    """The trajectory of the checkpoints of a training, and its analysis."""
    make, folder, _ = training
    path = regime_proto.convert(folder / "checkpoints", folder / "converted.h5", model=make(), probe=nets.probe(make()))
    return path, regime_proto.analyze(path, batches_per_epoch=4, resamples=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_recording_equals_the_conversion_of_checkpoints(training, converted, engine):
    make, folder, _ = training
    live, (converted, right) = folder / f"{engine}.h5", converted
    assert not validate(live)
    paths = [folder / "checkpoints" / f"step_{step}.pt" for step in range(OBSERVATIONS)]
    assert_same_run(live, converted, paths, nets.probe(make()))
    with regime_proto.open_trajectory(live) as one, regime_proto.open_trajectory(converted) as other:
        for name in ("layer", "layer_op", "layer_path", "layer_units", "tensor", "tensor_size", "layer_threshold"):
            np.testing.assert_array_equal(one[name], other[name])
        assert one.attrs["program_sha256"] == other.attrs["program_sha256"]
        assert one.attrs["engine"].startswith(ENGINES[engine])
        assert 0 <= one.attrs["noise_floor"] < 0.01
    left = regime_proto.analyze(live, batches_per_epoch=4, resamples=0)
    assert (left.auc_w, left.auc_p, left.rho) == pytest.approx((right.auc_w, right.auc_p, right.rho), rel=1e-5)


def test_a_training_is_the_same_bit_for_bit_with_and_without_recorders(training):
    make, _, watched = training
    bare = trained(make)
    assert bare.keys() == watched.keys()
    for name, tensor in bare.items():
        assert torch.equal(tensor, watched[name]), name


@pytest.mark.parametrize("engine", ENGINES)
def test_without_a_change_both_changes_are_zero(training, engine):
    _, folder, _ = training
    found = rows(folder / f"{engine}.h5")
    assert np.isnan(found["weight_delta_l1"][0]).all()
    assert found["flips"][1:-STILL].any()
    assert not found["flips"][-STILL:].any()
    for name in ("weight_delta_l1", "weight_delta_l2"):
        assert found[name][-STILL - 1].any()
        assert not found[name][-STILL:].any()


class Side(nn.Module):
    """All activations side by side."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(Before(activation) for activation, *_ in ACTIVATIONS.values())

    def forward(self, x):
        return sum(part(x) for part in self.parts)


def test_every_gate_of_torch_is_measured_natively(tmp_path):
    """The native engine is refused unless its masks are those of ONNX Runtime; of so few bits none may differ."""
    torch.manual_seed(0)
    probe = torch.randn(SAMPLES, FEATURES)
    path = tmp_path / "run.h5"
    with regime_proto.record(Side(), probe, path, engine="native", gates="kind:*") as recorder:
        recorder.observe(0)
    with regime_proto.open_trajectory(path) as trajectory:
        starts, stops = (trajectory[f"layer_byte_{end}"].values for end in ("start", "stop"))
        by_part = {name: [] for name in ACTIVATIONS}
        for module, start, stop in zip(trajectory["layer_path"].values, starts, stops, strict=True):
            name = list(ACTIVATIONS)[int(module.split(".")[1])]
            by_part[name].append(trajectory["mask"].values[0, :, start:stop].any())
    assert all(found and all(found) for found in by_part.values()), by_part


class Noisy(nn.Module):
    """Draws random numbers even in evaluation mode, and has hooks."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 9)
        self.head = nn.Linear(9, 3)
        self.calls = 0
        self.register_forward_hook(self.count)

    def count(self, *_):
        self.calls += 1

    def forward(self, features):
        return self.head(F.relu(self.fc(features) + 1e-7 * torch.rand(features.shape[0], 9)))


def test_random_numbers_are_drawn_apart_and_hooks_are_not_called(tmp_path):
    model = Noisy()
    with regime_proto.record(model, torch.ones(4, 12), tmp_path / "run.h5", engine="native") as recorder:
        calls, random = model.calls, torch.get_rng_state()
        for step in range(3):
            recorder.observe(step)
        assert model.calls == calls
        assert torch.equal(torch.get_rng_state(), random)
    # The same numbers every time, or a state would differ from itself.
    assert not rows(tmp_path / "run.h5")["flips"].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype, tmp_path):
    model = nets.make_mlp().to(dtype)
    probe = nets.probe(model).astype(np.float64 if dtype == torch.float64 else np.float32)
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    with regime_proto.record(model, probe, tmp_path / "run.h5", engine="native") as recorder:
        for step in range(4):
            recorder.observe(step)
            torch.save(model.state_dict(), checkpoints / f"step_{step}.pt")
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.05 * torch.randn(parameter.shape).to(dtype)
    converted = regime_proto.convert(checkpoints, tmp_path / "converted.h5", model=model, probe=probe)
    live, saved = rows(tmp_path / "run.h5"), rows(converted)
    np.testing.assert_allclose(live["weight_delta_l1"], saved["weight_delta_l1"], rtol=1e-6)
    np.testing.assert_allclose(live["weight_delta_l2"], saved["weight_delta_l2"], rtol=1e-6)
    np.testing.assert_array_equal(live["flips"], saved["flips"])
    assert live["flips"].any()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 12)
        self.second = nn.Linear(12, 12)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(12, 3)
        self.frozen.requires_grad_(requires_grad=False)

    def forward(self, features):
        return self.frozen(F.relu(self.second(F.relu(self.first(features)))))


def test_tied_weights_count_once_and_frozen_ones_do_not(tmp_path):
    model = Tied()
    with regime_proto.record(model, torch.ones(2, 12), tmp_path / "run.h5") as recorder:
        recorder.observe(0)
        with torch.no_grad():
            model.first.weight += 1
            model.frozen.weight += 1
        recorder.observe(1)
    with regime_proto.open_trajectory(tmp_path / "run.h5") as trajectory:
        assert trajectory["tensor"].to_numpy().tolist() == ["first.weight", "first.bias", "second.bias"]
        np.testing.assert_allclose(trajectory["weight_delta_l1"][1], [144, 0, 0], rtol=1e-6)


def test_weights_that_are_replaced_are_found(tmp_path):
    model = nets.make_mlp()
    with regime_proto.record(model, nets.probe(model), tmp_path / "run.h5") as recorder:
        recorder.observe(0)
        state = {name: tensor + 1 if "weight" in name else tensor for name, tensor in model.state_dict().items()}
        model.load_state_dict(state, assign=True)
        recorder.observe(1)
        # Neither contiguous nor alone in its memory.
        model.body[0].weight = nn.Parameter(torch.ones(12, 64).t()[::2])
        recorder.observe(2)
    found = rows(tmp_path / "run.h5")["weight_delta_l1"]
    assert found[1, 0] == pytest.approx(32 * 12)
    assert found[2, 0] > 0


# torch.compile asks for it while it is imported.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda model: torch.compile(nn.DataParallel(model))])
def test_wrapped_models(wrap, tmp_path):
    model = nets.make_mlp()
    with regime_proto.record(wrap(model), nets.probe(model), tmp_path / "run.h5") as recorder:
        recorder.observe(0)
    with regime_proto.open_trajectory(tmp_path / "run.h5") as trajectory:
        assert trajectory["tensor"].to_numpy().tolist() == [name for name, _ in model.named_parameters()]


def test_chosen_units_and_padding(tmp_path):
    model = nets.make_encoder()
    probe = {"tokens": nets.probe(model), "regime_mask": np.tile([True, True, True, False, False], (6, 1))}
    measured = ["margin", "preactivation_rms", "output_change_l2"]
    options = {"sample_units": 7, "sample_seed": 3, "measure": measured}
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    with regime_proto.record(model, probe, tmp_path / "run.h5", engine="native", **options) as recorder:
        for step, _ in enumerate(nets.train(model, states=5)):
            recorder.observe(step)
            torch.save(model.state_dict(), checkpoints / f"step_{step}.pt")
    converted = regime_proto.convert(checkpoints, tmp_path / "converted.h5", model=model, probe=probe, **options)
    live, saved = rows(tmp_path / "run.h5"), rows(converted)
    for name in ("mask", "flips", "flip_fraction_error"):
        np.testing.assert_array_equal(live[name], saved[name])
    for name in measured:
        values = saved[f"quantity_{name}"]
        # The output does not change before there is a second state.
        assert np.isfinite(values[1:]).all()
        np.testing.assert_allclose(live[f"quantity_{name}"], values, rtol=1e-3, atol=1e-6)


def test_what_is_not_finite_is_kept_and_marked(tmp_path):
    model = nets.make_mlp()
    calls = []
    recorder = regime_proto.record(model, nets.probe(model), tmp_path / "run.h5", on_observation=calls.append)
    for step in range(6):
        with torch.no_grad():
            model.body[0].weight.fill_(math.nan if step == 2 else 0.1)
        recorder.observe(step)
    with pytest.warns(RegimeWarning, match="1 observation holds NaN or Inf, the first at step 2"):
        recorder.close()
    assert rows(tmp_path / "run.h5")["valid"].tolist() == [1, 1, 0, 1, 1, 1]
    assert [math.isnan(status.pattern_change) for status in calls] == [True, False, True, True, False, False]
    assert not validate(tmp_path / "run.h5")


@pytest.mark.parametrize(
    ("every", "expected"), [(1, list(range(12))), (5, [0, 5, 10]), (lambda step: step in (1, 7), [1, 7])]
)
def test_schedules(every, expected, tmp_path):
    model = nets.make_mlp()
    with regime_proto.record(model, nets.probe(model), tmp_path / "run.h5", every=every) as recorder:
        for step in range(12):
            recorder.observe(step)
    assert rows(tmp_path / "run.h5")["step"].tolist() == expected


def test_metrics_may_come_late_and_be_new(tmp_path):
    model = nets.make_mlp()
    # Every observation is written at once, so the first segments know nothing of later metrics.
    with regime_proto.record(model, nets.probe(model), tmp_path / "run.h5", seconds=0) as recorder:
        for step in range(150):
            recorder.observe(step, epoch=step / 10, loss=torch.tensor(1 / (1 + step)), skipped=None)
            if step % 50 == 49:
                recorder.log(val_accuracy=step)
    assert not validate(tmp_path / "run.h5")
    with regime_proto.open_trajectory(tmp_path / "run.h5") as trajectory:
        np.testing.assert_allclose(trajectory["metric_loss"], 1 / (1 + np.arange(150)), rtol=1e-6)
        np.testing.assert_allclose(trajectory["epoch"], np.arange(150) / 10)
        accuracy = trajectory["metric_val_accuracy"].to_numpy()
        assert "metric_skipped" not in trajectory
    assert accuracy[[49, 99, 149]].tolist() == [49, 99, 149]
    assert np.isnan(np.delete(accuracy, [49, 99, 149])).all()


@pytest.mark.parametrize("first", [0, 1])
def test_a_loop_that_gives_no_epoch_for_the_initial_state_is_smoothed(tmp_path, first):
    """The README's own loop; files that hold NaN there are read in the same way."""
    model, batches = nets.make_mlp(), 10
    with regime_proto.record(model, nets.probe(model), tmp_path / "run.h5") as recorder:
        recorder.observe(first)
        for step, _ in enumerate(nets.train(model, states=2 * batches), start=first + 1):
            recorder.observe(step, epoch=step / batches)
    assert np.isnan(rows(tmp_path / "run.h5")["epoch"][0])
    result = regime_proto.analyze(tmp_path / "run.h5", resamples=0)
    assert result.window == round(0.3 * batches)
    assert not [text for text in result.warnings if "not smoothed" in text]
    [row] = regime_proto.compare([tmp_path / "run.h5"], resamples=0).rows
    assert row.epochs == pytest.approx(1.9 if first else 2.0)
    # Where it starts elsewhere, the epoch of the start is not known.
    assert (read_run(tmp_path / "run.h5", AnalysisSettings(resamples=0)).epochs[0] == 0) == (first == 0)


def test_status_and_callbacks(tmp_path):
    model = nets.make_mlp()
    seen = []
    with regime_proto.record(model, nets.probe(model), tmp_path / "run.h5", on_observation=seen.append) as recorder:
        assert recorder.status() == regime_proto.Status()
        for step, _ in enumerate(nets.train(model, states=5)):
            recorder.observe(step, epoch=step / 2)
            assert recorder.status() == seen[-1]
    assert repr(regime_proto.Status()) == "no observation yet"
    assert repr(seen[-1]).split("\n")[:2] == ["step 4 (epoch 2.00)", "observations  5"]
    assert "<td style=" in seen[-1]._repr_html_()
    found = rows(tmp_path / "run.h5")
    assert [status.step for status in seen] == list(range(5))
    assert [status.observations for status in seen] == [1, 2, 3, 4, 5]
    assert math.isnan(seen[0].weight_change)
    with regime_proto.open_trajectory(tmp_path / "run.h5") as trajectory:
        elements = int(trajectory["tensor_size"].sum())
        units = trajectory["layer_units"].sum("sample").to_numpy()
    expected = found["weight_delta_l1"].sum(axis=1) / elements
    assert [status.weight_change for status in seen[1:]] == pytest.approx(expected[1:].tolist())
    patterns = (found["flips"].sum(axis=2) / units).mean(axis=1)
    assert [status.pattern_change for status in seen[1:]] == pytest.approx(patterns[1:].tolist())


def settle(path, every_state, **options):
    """Record a linear layer whose weights are drawn anew for a while, then left alone."""
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))
    fired = []
    settling = Settling(threshold=0.1, window=5)
    probe = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    states = []
    with regime_proto.record(model, probe, path, settling=settling, on_settled=fired.append, **options) as recorder:
        for step in range(60):
            if every_state(step):
                with torch.no_grad():
                    model[0].weight.normal_()
            recorder.observe(step)
            states.append(recorder.status().settled)
    return fired, states


def test_settled_is_told_once_and_taken_back_when_activity_returns(tmp_path):
    torch.manual_seed(0)
    fired, states = settle(tmp_path / "run.h5", lambda step: step < 20 or 40 <= step < 43)
    [status] = fired
    assert 25 <= status.step <= 30
    assert status.settled
    assert status.settled_at == status.step
    assert states[39]
    assert not states[44]
    assert states[-1]
    assert not labels_of(extra(tmp_path / "run.h5"))
    assert extra(tmp_path / "run.h5") == {
        "settled_at_step": status.step,
        "settling_threshold": 0.1,
        "settling_scale": "peak",
        "settling_window": 5,
    }
    assert not validate(tmp_path / "run.h5")


def test_a_model_that_never_settles(tmp_path):
    fired, states = settle(tmp_path / "run.h5", lambda step: True)
    assert fired == []
    assert not any(states)


def test_automatic_masks_leave_room_for_a_long_run(tmp_path):
    small, large = nets.make_mlp(), nn.Sequential(nn.Linear(2, 60_000), nn.ReLU(), nn.Linear(60_000, 1))
    for name, model, probe in (("small", small, nets.probe(small)), ("large", large, torch.randn(8, 2))):
        with regime_proto.record(model, probe, tmp_path / f"{name}.h5") as recorder:
            for step in range(8):
                recorder.observe(step)
    with regime_proto.open_trajectory(tmp_path / "small.h5") as trajectory:
        assert trajectory.attrs["mask_policy"] == "all"
    with regime_proto.open_trajectory(tmp_path / "large.h5") as trajectory:
        # 60,000 bits of 8 samples in 100,000 observations, a third of that once compressed, are 1 GB … and not 2.
        assert trajectory.attrs["mask_policy"] == "all"


@pytest.mark.parametrize("masks", ["none", "every=3", "all"])
def test_mask_policies(masks, tmp_path):
    model = nets.make_mlp()
    with regime_proto.record(model, nets.probe(model), tmp_path / "run.h5", masks=masks) as recorder:
        for step in range(7):
            recorder.observe(step)
    expected = {"none": [], "every=3": [0, 3, 6], "all": list(range(7))}[masks]
    assert rows(tmp_path / "run.h5")["mask_step"].tolist() == expected


ERRORS = {
    "every": ({"every": 0}, "every=0: expected a whole number of 1 or more, or a function of the step, or a share"),
    "engine": ({"engine": "tpu"}, "engine 'tpu': expected one of auto, native, onnx"),
    "masks": ({"masks": "some"}, "masks 'some': expected all, every=N or none"),
    "embed": ({"embed": "some"}, "embed 'some': expected one of program, all, none"),
    "gates": ({"gates": "op:Gelu"}, "--gates 'op:Gelu' matches no gate"),
    "both": ({"resume": True, "overwrite": True}, "resume and overwrite: mutually exclusive"),
    "loader": ({"loader": []}, 'both loader= and a probe were passed; pass "auto" as the probe'),
    "epochs": ({"batches_per_epoch": -3}, "--batches-per-epoch -3: expected a finite number above 0"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_wrong_options(name, tmp_path):
    options, message = ERRORS[name]
    model = nets.make_mlp()
    with pytest.raises(RegimeError, match=message):
        regime_proto.record(model, nets.probe(model), tmp_path / "run.h5", **options)
    # Nothing is left in the way of the next attempt.
    assert list(tmp_path.iterdir()) == []
    regime_proto.record(model, nets.probe(model), tmp_path / "run.h5").close()


def test_a_wrong_probe_leaves_nothing_behind(tmp_path):
    with pytest.raises(RegimeError, match=r"the model fails on the probe \(features: float32\[3, 5\]\)"):
        regime_proto.record(nets.make_mlp(), torch.ones(3, 5), tmp_path / "run.h5")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_model(tmp_path):
    with pytest.raises(RegimeError, match=r"model of type builtins\.int: no adapter exports it"):
        regime_proto.record(5, torch.ones(3, 5), tmp_path / "run.h5")


STEPS = {
    "again": ([0, 1, 1], "step 1 after step 1: steps must increase"),
    "back": ([5, 3], "step 3 after step 5: steps must increase"),
    "no number": (["1"], "step '1': expected a whole number"),
    "a fraction": ([1.5], "step 1.5: expected a whole number"),
}


@pytest.mark.parametrize("name", STEPS)
def test_wrong_steps(name, tmp_path):
    steps, message = STEPS[name]
    model = nets.make_mlp()
    with regime_proto.record(model, nets.probe(model), tmp_path / "run.h5") as recorder:
        for step in steps[:-1]:
            recorder.observe(step)
        with pytest.raises(RegimeError, match=message):
            recorder.observe(steps[-1])
    with pytest.raises(RegimeError, match="step 9: the recorder is closed"):
        recorder.observe(9)


def test_a_metric_that_is_no_number(tmp_path):
    model = nets.make_mlp()
    with regime_proto.record(model, nets.probe(model), tmp_path / "run.h5") as recorder:
        with pytest.raises(RegimeError, match="metric loss: expected a number, found str"):
            recorder.observe(0, loss="low")
        with pytest.raises(RegimeError, match="metric loss: expected a number, found Tensor"):
            recorder.log(loss=torch.ones(2))


def test_a_model_that_has_lost_a_layer(tmp_path):
    model = nets.make_mlp()
    with regime_proto.record(model, nets.probe(model), tmp_path / "run.h5") as recorder:
        recorder.observe(0)
        model.body[0] = nn.Identity()
        with pytest.raises(RegimeError, match=r"body\.0\.weight was .* is now missing"):
            recorder.observe(1)


def test_what_exists_is_not_replaced_by_mistake(tmp_path):
    model = nets.make_mlp()
    path = tmp_path / "run.h5"
    options = {"model": model, "probe": nets.probe(model), "output": path}
    with regime_proto.record(**options) as recorder:
        recorder.observe(0)
        with pytest.raises(RegimeError, match="another process is writing it"):
            regime_proto.record(**options, overwrite=True)
    with pytest.raises(RegimeError, match=r"run.h5: exists; resume it \(resume=True\), replace it"):
        regime_proto.record(**options)
    with regime_proto.record(**options, overwrite=True) as recorder:
        recorder.observe(7)
    assert rows(path)["step"].tolist() == [7]
    (tmp_path / "text.h5").write_text("mine")
    with pytest.raises(RegimeError, match=r"text.h5: .*it is not replaced"):
        regime_proto.record(**{**options, "output": tmp_path / "text.h5"}, overwrite=True)
    assert (tmp_path / "text.h5").read_text() == "mine"


def test_a_recorder_that_saw_nothing_writes_nothing(tmp_path):
    model = nets.make_mlp()
    regime_proto.record(model, nets.probe(model), tmp_path / "run.h5").close()
    assert list(tmp_path.iterdir()) == []


def fail(recorder):
    with recorder:
        for step in range(5):
            recorder.observe(step)
        raise KeyError("mine")


def test_an_error_in_the_loop_leaves_segments_and_goes_through(tmp_path):
    model = nets.make_mlp()
    path = tmp_path / "run.h5"
    with pytest.raises(KeyError, match="mine"):
        fail(regime_proto.record(model, nets.probe(model), path))
    assert not path.exists()
    assert segments_folder(path).is_dir()
    with pytest.raises(RegimeError, match=r"run.h5.segments: holds an unfinished run; resume it \(resume=True\)"):
        regime_proto.record(model, nets.probe(model), path)
    from regime_proto.schema.finish import finish

    finish(path)
    assert rows(path)["step"].tolist() == list(range(5))


def test_the_path_of_a_gpu_gives_the_same_on_the_cpu():
    """Weights compared and masks packed where they are: all but CUDA itself."""
    model = nets.make_conv()
    model.fc = nn.Linear(45, 4000)
    names = [name for name, _ in model.named_parameters()]
    for made in (model, copy.deepcopy(model).bfloat16()):
        host, there = KeptWeights(names), DeviceWeights()
        for _ in range(4):
            weights = tensors_of(made)
            found = there.change([weights[name] for name in names]).numpy()
            np.testing.assert_allclose(found[:, :2], host.change({n: array_of(weights[n]) for n in names}), rtol=1e-6)
            assert np.isfinite(found[:, 2]).all()
            with torch.no_grad():
                for parameter in made.parameters():
                    parameter += 0.1 * torch.randn(parameter.shape).to(parameter.dtype)
        with torch.no_grad():
            made.fc.weight[3, 4] = math.inf
        assert not np.isfinite(there.change([tensors_of(made)[name] for name in names])[:, 2].numpy()).all()
    bits = torch.rand(5, 43) < 0.5
    np.testing.assert_array_equal(packed_on_device(bits), np.packbits(bits.numpy(), axis=1))


def test_measuring_on_a_device_gives_what_measuring_on_the_host_gives(tmp_path, monkeypatch):
    model = nets.make_conv()
    found = {}
    for name in ("host", "device"):
        if name == "device":
            monkeypatch.setattr(
                live_masks, "_host_bits", lambda rows: live_masks._device_bits(rows, torch.device("cpu"))
            )
        recorder = regime_proto.record(copy.deepcopy(model), nets.probe(model), tmp_path / f"{name}.h5")
        engine = recorder._engine
        measure = engine._on_host if name == "host" else engine._on_device
        torch.manual_seed(0)
        found[name] = []
        for _ in nets.train(engine._model, states=4):
            # Whatever the training made the default device.
            with torch.device("meta"):
                found[name].append(measure(engine._current())())
        recorder.close()
    for host, device in zip(found["host"], found["device"], strict=True):
        np.testing.assert_allclose(device.sums, host.sums, rtol=1e-6)
        np.testing.assert_array_equal(device.packed, host.packed)
        assert host.finite
        assert device.finite
