"""What the user chooses: gates, samples of units, padding, and what the file and the report say of it."""

import json
import re
from dataclasses import replace

import nets
import numpy as np
import pytest
import torch
from commands import assert_one_line, regime
from nets import save_run
from torch import nn

import regime_proto
from regime_proto.analyzer.result import Threshold
from regime_proto.analyzer.verdict import verdict
from regime_proto.conversion.plan import make_plan, write_program
from regime_proto.conversion.run import run_plan
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.runtime import memory
from regime_proto.schema.errors import RegimeError, RegimeWarning

pytestmark = pytest.mark.usefixtures("nets_are_exported_once")


class Mixed(nn.Module):
    """A ReLU, a GELU, a Hardtanh, and a guard against division by zero."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 16)
        self.gelu = nn.GELU()
        self.second = nn.Linear(16, 40)
        self.capped = nn.Hardtanh()
        self.head = nn.Linear(40, 3)

    def forward(self, features):
        hidden = self.gelu(self.first(features).relu())
        hidden = self.capped(self.second(hidden))
        return self.head(hidden) / hidden.square().sum(1, keepdim=True).clamp(min=1e-6)


class Tokens(nn.Module):
    """Features per token, then one vector per sample."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Linear(6, 16)
        self.pooled = nn.Linear(16, 9)

    def forward(self, tokens):
        hidden = torch.relu(self.tokens(tokens))
        return torch.relu(self.pooled(hidden.mean(1)))


nets.SHAPES |= {Mixed: (12,), Tokens: (5, 6)}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A directory of checkpoints of `Mixed`. Read only."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("mixed") / "checkpoints"
    save_run(folder, Mixed())
    write_program(folder, model=Mixed(), probe=nets.probe(Mixed()))
    return folder


@pytest.fixture(scope="module")
def whole(mixed, tmp_path_factory):
    """The trajectory of `mixed`. Read only."""
    return regime_proto.convert(mixed, tmp_path_factory.mktemp("whole") / "run.h5")


@pytest.fixture(scope="module")
def sampled(mixed, tmp_path_factory):
    """The trajectory of eight units of each layer of `mixed`. Read only."""
    return regime_proto.convert(mixed, tmp_path_factory.mktemp("sampled") / "run.h5", sample_units=8)


def loaded(path):
    with regime_proto.open_trajectory(path) as trajectory:
        return trajectory.load()


def test_relu_and_piecewise_gates_are_the_default(whole):
    found = loaded(whole)
    assert list(found["layer_op"].values) == ["Relu", "Clip"]
    assert list(found["layer_kind"].values) == ["relu", "piecewise"]
    assert list(found["layer_planes"].values) == [1, 2]
    np.testing.assert_array_equal(found["layer_threshold"].values, [[0, np.nan], [-1, 1]])


@pytest.mark.parametrize(
    ("gates", "expected"),
    [
        (["kind:*"], ["Relu", "Gelu", "Clip"]),
        (["kind:*", "node_clamp"], ["Relu", "Gelu", "Clip", "Clip"]),
        (["kind:smooth"], ["Gelu"]),
        (["op:clip"], ["Clip"]),
        (["!capped"], ["Relu"]),
        (["gelu", "capped"], ["Gelu", "Clip"]),
    ],
)
def test_gates_are_chosen_by_glob(mixed, gates, expected):
    plan = make_plan(mixed, ConversionSettings(gates=gates))
    assert [gate.op for gate in plan.gates] == expected


def test_a_choice_has_a_trajectory_of_its_own(mixed, tmp_path):
    for options in (["--gates", "kind:*"], ["--sample-units", "8", "--sample-seed", "3"], []):
        result = regime("analyze", mixed, *options, "--quiet")
        assert result.exit_code == 0, result.output
    names = {path.name for path in mixed.parent.glob("*.h5")}
    assert names == {
        "checkpoints.gates-kind-all.regime.h5",
        "checkpoints.units8.seed3.regime.h5",
        "checkpoints.regime.h5",
    }
    chosen = regime("convert", mixed, "--gates", "op:Gelu", "-o", tmp_path / "run.h5")
    assert chosen.exit_code == 0
    assert_one_line(
        regime("convert", mixed, "-o", tmp_path / "run.h5"),
        "converted from different checkpoints .*a different program",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gates", "op:Sinus"], r"--gates 'op:Sinus' matches no gate; expected kind:piecewise, .*op:Clip, op:Gelu"),
        (["--gates", "!*"], "none of the 4 gates in the graph is left to track"),
    ],
)
def test_choices_that_leave_nothing(mixed, tmp_path, options, message):
    assert_one_line(regime("convert", mixed, "-o", tmp_path / "run.h5", *options), message)


def test_inspect_lists_every_gate_with_the_reason(mixed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = regime("inspect", mixed).stdout
    assert "2 tracked, 56 units per sample, 6 samples" in shown
    assert "2 not tracked" in shown
    for text in (
        "not tracked: smooth: tracked on request (--gates kind:smooth)",
        "not tracked: one bound, 1e-06: more often a guard than an activation",
        "-1, 1",
    ):
        assert text in shown
    program = regime("inspect", mixed / "program.onnx", "--gates", "kind:smooth").stdout
    assert "not tracked: not chosen by --gates" in program


def test_a_sample_of_units(mixed, whole, tmp_path):
    whole = loaded(whole)
    found = loaded(regime_proto.convert(mixed, tmp_path / "run.h5", sample_units=20, sample_seed=5))
    again = loaded(regime_proto.convert(mixed, tmp_path / "again.h5", sample_units=20, sample_seed=5))
    other = loaded(regime_proto.convert(mixed, tmp_path / "other.h5", sample_units=20, sample_seed=6))
    np.testing.assert_array_equal(found["mask"], again["mask"])
    assert (found["unit_index"].values != other["unit_index"].values).any()
    assert (found.attrs["sample_units"], found.attrs["sample_units_seed"]) == (20, 5)
    # The first layer has 16 units only, and keeps them all.
    np.testing.assert_array_equal(found["layer_units"].values[:, 0], [16, 20])
    np.testing.assert_array_equal(found["unit_index"].values[0], [*range(16), -1, -1, -1, -1])
    np.testing.assert_array_equal(found["flips"][:, 0], whole["flips"][:, 0])
    assert not found["flip_fraction_error"].values[:, 0].any()


def test_the_standard_error_of_a_sample(sampled, whole):
    found = loaded(sampled)
    errors = found["flip_fraction_error"].values
    assert (errors[1:, 0] > 0).any()
    assert not errors[0].any()
    result = regime_proto.analyze(sampled, resamples=0)
    assert result.pattern_error == pytest.approx(np.sqrt((errors**2).sum(1)).max() / 2)
    assert "only some units were measured" in regime("analyze", sampled).stdout
    assert regime_proto.analyze(whole, resamples=0).pattern_error is None


def test_a_sampled_conversion_goes_on_where_it_stopped(mixed, sampled, tmp_path, monkeypatch):
    expected = loaded(sampled)
    from regime_proto.schema.writer import TrajectoryWriter

    def interrupted(self, observation, *, fingerprint):
        if self.count == 5:
            raise KeyboardInterrupt
        return append(self, observation, fingerprint=fingerprint)

    append = TrajectoryWriter.append
    with monkeypatch.context() as patched:
        patched.setattr(TrajectoryWriter, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            regime_proto.convert(mixed, tmp_path / "cut.h5", sample_units=8)
    found = loaded(regime_proto.convert(mixed, tmp_path / "cut.h5", sample_units=8))
    for name in ("mask", "flips", "unit_index", "flip_fraction_error"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_padding_does_not_count(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "checkpoints"
    save_run(folder, Tokens())
    tokens = nets.probe(Tokens())
    counted = np.arange(5) < np.array([5, 3, 1, 4, 2, 5])[:, None]
    np.savez(tmp_path / "val.npz", tokens=tokens, regime_mask=counted)
    write_program(folder, model=Tokens(), probe=tmp_path / "val.npz")
    found = loaded(regime_proto.convert(folder, tmp_path / "run.h5"))
    np.testing.assert_array_equal(found["layer_units"], [16 * counted.sum(1), np.full(6, 9)])
    whole = loaded(regime_proto.convert(folder, tmp_path / "whole.h5", model=Tokens(), probe=tokens))
    start, stop = (int(found[f"layer_byte_{end}"][0]) for end in ("start", "stop"))
    bits = np.unpackbits(whole["mask"].values[:, :, start:stop], axis=2).reshape(-1, 6, 5, 16)
    expected = (bits[1:] != bits[:-1])[:, counted].reshape(len(bits) - 1, -1).sum(1)
    np.testing.assert_array_equal(found["flips"].values[1:, 0].sum(1), expected)
    assert expected.sum() < whole["flips"].values[1:, 0].sum()
    np.testing.assert_array_equal(found["flips"][:, 1], whole["flips"][:, 1])


def test_a_padding_mask_that_fits_no_gate(mixed, tmp_path):
    given = {"features": nets.probe(Mixed()), "regime_mask": np.ones((6, 7), bool)}
    with pytest.warns(RegimeWarning, match="regime_mask has 7 tokens, but no gate has an axis of that length"):
        regime_proto.convert(mixed, tmp_path / "run.h5", probe=given)


@pytest.mark.parametrize(
    ("counted", "message"),
    [
        (np.ones((6, 5)), r"regime_mask is float64\[6, 5\], expected bool\[samples, tokens\]"),
        (np.ones(6, bool), r"regime_mask is bool\[6\], expected"),
        (np.zeros((6, 5), bool), "False everywhere"),
    ],
)
def test_a_wrong_padding_mask(counted, message, tmp_path):
    with pytest.raises(RegimeError, match=message):
        write_program(tmp_path, model=Tokens(), probe={"tokens": nets.probe(Tokens()), "regime_mask": counted})


def test_the_noise_floor_stands_in_file_and_report(mixed, tmp_path):
    found = loaded(regime_proto.convert(mixed, tmp_path / "run.h5", device="cpu", noise="full"))
    floors = [found.attrs[f"noise_floor_{name}"] for name in ("ulp", "threads")]
    assert found.attrs["noise_floor"] == max(floors)
    assert 0 <= max(floors) < 0.05
    result = regime("analyze", tmp_path / "run.h5", "--json", "--quiet")
    assert json.loads(result.stdout)["noise_floor"] == max(floors)
    assert "Δa from rounding alone" in regime("analyze", tmp_path / "run.h5").stdout


@pytest.mark.parametrize("noise", ["quick", "none"])
def test_what_of_the_noise_floor_is_measured(mixed, tmp_path, noise):
    """By a pass of the last state, which is read once like all others."""
    plan, read = make_plan(mixed), []
    counting = replace(plan.source, read=lambda checkpoint: read.append(checkpoint) or plan.source.read(checkpoint))
    run_plan(replace(plan, source=counting), tmp_path / "run.h5", ConversionSettings(noise=noise))
    assert sorted(checkpoint.step for checkpoint in read) == [checkpoint.step for checkpoint in plan.source.checkpoints]
    found = loaded(tmp_path / "run.h5")
    expected = {"noise_floor", "noise_floor_ulp"} if noise == "quick" else set()
    assert {name for name in found.attrs if name.startswith("noise_floor")} == expected


def test_an_interrupted_conversion_measures_the_noise_floor_when_it_goes_on(mixed, tmp_path):
    def interrupt(done, total):
        if done == total:
            raise KeyboardInterrupt

    whole = loaded(regime_proto.convert(mixed, tmp_path / "whole.h5"))
    for progress in (lambda done, _: done == 2 and interrupt(1, 1), interrupt):
        with pytest.raises(KeyboardInterrupt):
            regime_proto.convert(mixed, tmp_path / "run.h5", progress=progress)
    found = loaded(regime_proto.convert(mixed, tmp_path / "run.h5"))
    assert found.attrs["noise_floor_ulp"] == whole.attrs["noise_floor_ulp"]


def test_a_wrong_word_for_the_noise_floor(mixed, tmp_path):
    with pytest.raises(RegimeError, match=r"noise 'quik': expected one of quick, full, none \(nearest: 'quick'\)"):
        regime_proto.convert(mixed, tmp_path / "run.h5", noise="quik")


class Mixing(nn.Module):
    """Each sample gets something of the one before it."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(5, 7)

    def forward(self, x):
        return torch.relu(self.body(x) + torch.cumsum(x, 0).mean(1, keepdim=True))


@pytest.mark.parametrize("dry", [False, True])
def test_a_model_that_mixes_samples_is_refused_before_anything_is_written(tmp_path, dry):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step in range(3):
        torch.save({"model": Mixing().state_dict(), "step": step}, folder / f"step_{step}.pt")
    probe = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    write_program(folder, model=Mixing(), probe=probe)
    before = sorted(tmp_path.rglob("*"))
    done = regime("convert", folder, "-o", tmp_path / "run.h5", *["--dry-run"] * dry)
    assert done.exit_code == 1
    assert re.search(
        r"no axis of its shape \[6, 7\] follows the 6 probe samples; if the model mixes samples", done.stderr
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_units_at_zero_flip_by_rounding(tmp_path):
    """A unit that subtracts what it adds is decided by the last place of its weights."""
    model = nn.Sequential(nn.Linear(8, 64, bias=False), nn.ReLU())
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step in range(3):
        with torch.no_grad():
            model[0].weight[:, 4:] = -model[0].weight[:, :4]
        torch.save({"model": model.state_dict(), "step": step}, folder / f"step_{step}.pt")
    half = np.random.default_rng(0).random((6, 4)).astype(np.float32)
    found = loaded(regime_proto.convert(folder, tmp_path / "run.h5", model=model, probe=np.hstack([half, half])))
    assert found.attrs["noise_floor_ulp"] > 0.1
    result = regime_proto.analyze(tmp_path / "run.h5", resamples=0)
    assert any("within a factor of ten of the noise floor" in warning for warning in result.warnings)


def test_large_models_take_fewer_workers(mixed, monkeypatch):
    plan = make_plan(mixed)
    assert plan.workers >= 1
    monkeypatch.setattr("regime_proto.conversion.plan.cores", lambda: 16)
    monkeypatch.setattr("regime_proto.conversion.plan.available_bytes", lambda: 10**12)
    assert plan.workers == 16
    monkeypatch.setattr("regime_proto.conversion.plan.available_bytes", lambda: 12 * plan.state_bytes)
    assert 1 <= plan.workers < 6
    monkeypatch.setattr("regime_proto.conversion.plan.available_bytes", lambda: 0)
    assert plan.workers == 1


def test_free_memory_is_a_plausible_number():
    assert 10**7 < memory.available_bytes() < 10**15


@pytest.fixture(scope="module")
def result():
    """The analysis of a trajectory that is made up."""
    return regime_proto.analyze(regime_proto.synthetic.trajectory(steps=20), batches_per_epoch=1)


@pytest.mark.parametrize(
    ("rho_range", "step_w", "step_p", "doubt"),
    [
        ((1.2, 1.5), 5, None, True),
        ((1.2, 1.5), 5, 9, True),
        ((1.2, 1.5), 5, 3, False),
        ((1.2, 1.5), None, None, False),
        ((0.5, 0.8), None, 3, True),
        ((0.5, 0.8), 3, None, False),
    ],
)
def test_the_verdict_counts_never_as_late(rho_range, step_w, step_p, doubt, result):
    shown = verdict(replace(result, rho_range=rho_range, thresholds=(Threshold(0.5, step_w, step_p, None),)))
    assert ("at least one threshold below says the opposite" in shown) == doubt
    assert shown.startswith("Patterns" if rho_range[0] > 1 else "Weights")


def test_a_sample_of_units_stands_in_the_verdict(result):
    shown = verdict(replace(result, rho_range=(1.2, 1.5), pattern_error=0.01))
    assert shown.endswith("The choice of measured units adds to the range.")


def test_an_output_that_cannot_be_written_is_found_before_a_checkpoint_is_run(mixed, tmp_path, monkeypatch):
    def measuring_of(*_, **__):
        raise AssertionError("a checkpoint was run")

    monkeypatch.setattr("regime_proto.conversion.run.measuring_of", measuring_of)
    (tmp_path / "file").touch()
    with pytest.raises(RegimeError, match="cannot be written"):
        regime_proto.convert(mixed, tmp_path / "file" / "run.h5")
    with pytest.raises(AssertionError, match="was run"):
        regime_proto.convert(mixed, tmp_path / "run.h5")
