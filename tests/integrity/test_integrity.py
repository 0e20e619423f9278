"""Whether a sequence of checkpoints is what it claims to be: rules, faults planted in real runs, and clean runs."""

import itertools
import json
import math
import os
import shutil
import socket
import weakref
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import nets
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch.optim import lr_scheduler as schedules
from trainings import adamw, every, in_memory, sgd, train, warm_restarts, warm_up

import regime_proto
from regime_proto.checkpoints.source import Checkpoint, Source, State
from regime_proto.cli.main import main
from regime_proto.conversion.plan import write_program
from regime_proto.integrity import rules, scan
from regime_proto.integrity.findings import spell_names, spell_steps
from regime_proto.integrity.jumps import counted_tensors, jumps
from regime_proto.integrity.scan import Form, Summary, combined
from regime_proto.plugins.open_directory import open_directory
from regime_proto.schema.errors import RegimeError

LOG_SPACED = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 10_001, 1000))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads cost small networks more than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def regime(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="regime")


def found(report):
    """Return findings as rule and steps."""
    return [(finding.rule, finding.steps) for finding in report.findings]


# --- A real run, in three forms ---------------------------------------------------------------------------------------

STEPS = tuple(range(0, 240, 10))
SHARDS = 3


@pytest.fixture(scope="module")
def trained():
    """The states of one run, and of another one with another seed."""
    torch.manual_seed(0)
    run = train(nets.Encoder(), STEPS, optimizer=adamw(1e-3, 0.01))
    torch.manual_seed(7)
    return run, train(nets.Encoder(), STEPS, seed=7, optimizer=adamw(1e-3, 0.01))


def path_of(folder, step):
    return next(path for path in folder.iterdir() if path.stem.endswith(f"_{step:04d}"))


def save_torch(folder, step, state):
    torch.save({"model": state, "step": step}, folder / f"step_{step:04d}.pt")


def save_single(folder, step, state):
    save_file(state, folder / f"step_{step:04d}.safetensors", metadata={"step": str(step)})


def shard_name(number):
    return f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"


def save_sharded(folder, step, state):
    target = folder / f"step_{step:04d}"
    target.mkdir(exist_ok=True)
    names = sorted(state)
    parts = [names[len(names) * part // SHARDS : len(names) * (part + 1) // SHARDS] for part in range(SHARDS)]
    for number, part in enumerate(parts):
        save_file({name: state[name] for name in part}, target / shard_name(number))
    index = {name: shard_name(number) for number, part in enumerate(parts) for name in part}
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


FORMS = {"torch": save_torch, "safetensors": save_single, "folder": save_sharded}


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    folders = {}
    for form, save in FORMS.items():
        folders[form] = tmp_path_factory.mktemp(form) / "checkpoints"
        folders[form].mkdir()
        for step, state in trained[0].items():
            save(folders[form], step, state)
    return folders


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


@pytest.fixture
def folder(saved, form, tmp_path):
    """A copy of the run, to plant a fault in."""
    return Path(shutil.copytree(saved[form], tmp_path / "checkpoints"))


@pytest.fixture
def sharded(saved, tmp_path):
    return Path(shutil.copytree(saved["folder"], tmp_path / "sharded"))


def test_a_real_run_is_sound(folder, form):
    report = regime_proto.check(folder)
    assert report.ok
    assert report.findings == ()
    assert repr(report).endswith("nothing wrong found")
    assert (report.adapter, len(report.steps), report.steps[0], report.steps[-1], report.stride) == (
        form, 24, 0, 230, 10,
    )  # fmt: skip
    assert report.tensors == len(nets.Encoder().state_dict())
    assert report.parameters == sum(value.numel() for value in nets.Encoder().state_dict().values())


def test_a_copy_under_another_step(folder, form, trained):
    FORMS[form](folder, 150, trained[0][40])
    report = regime_proto.check(folder)
    assert found(report) == [("duplicate", (40, 150))]
    assert not report.ok
    assert repr(report).startswith(f"{folder}\nadapter      {form}")
    assert f"duplicate  {report.findings[0].advice}" in repr(report)
    assert "nothing wrong" not in repr(report)
    assert report._repr_html_().count("duplicate") == 2


def test_final_weights_early_in_the_run(folder, form, trained):
    for step in (30, 110):
        FORMS[form](folder, step, trained[0][230])
    report = regime_proto.check(folder)
    assert found(report) == [("final-weights", (30, 110))]
    assert "weights of the last step, 230" in report.findings[0].message


def test_missing_extra_reshaped_and_recast_tensors(folder, form, trained):
    spoiled = {step: dict(trained[0][step]) for step in (20, 60, 90, 130, 140)}
    del spoiled[20]["head.bias"]
    spoiled[60]["extra.weight"] = torch.ones(3)
    spoiled[90]["head.weight"] = spoiled[90]["head.weight"].T.contiguous()
    for step in (130, 140):
        spoiled[step] = {name: value.half() for name, value in spoiled[step].items()}
    for step, state in spoiled.items():
        FORMS[form](folder, step, state)
    findings = {finding.steps: finding for finding in regime_proto.check(folder).findings}
    assert {finding.rule for finding in findings.values()} == {"odd-tensors"}
    assert findings[20,].message == "missing: head.bias"
    assert findings[60,].message == "in few other states: extra.weight"
    assert findings[90,].message == "shape [16, 3], elsewhere [3, 16]: head.weight"
    assert findings[130, 140].message.startswith("float16, elsewhere float32: 16 tensors (layer.* (12)")
    assert len(findings[130, 140].tensors) == 16


def test_missing_steps(folder):
    for step in (70, 150, 160):
        path = path_of(folder, step)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    report = regime_proto.check(folder)
    assert found(report) == [("missing-steps", (70, 150, 160))]


def test_nan_and_infinity(folder, form, trained):
    for step, value in ((50, math.nan), (180, -math.inf), (190, -math.inf)):
        state = {name: tensor.clone() for name, tensor in trained[0][step].items()}
        state["layer.linear1.weight"][1, 2] = value
        FORMS[form](folder, step, state)
    report = regime_proto.check(folder)
    assert found(report) == [("non-finite", (50,)), ("non-finite", (180, 190))]
    assert all(finding.tensors == ("layer.linear1.weight",) for finding in report.findings)


def test_a_state_of_another_run(folder, form, trained):
    FORMS[form](folder, 120, trained[1][120])
    report = regime_proto.check(folder)
    assert found(report) == [("detour", (120,))]
    assert "(110 and 130)" in report.findings[0].message


@pytest.mark.parametrize("foreign", [(10,), (220,), (60, 70), (60, 70, 80), (60, 100), (60, 160)])
def test_states_of_another_run_in_other_places(trained, foreign):
    run, other = trained
    report = regime_proto.check(in_memory({step: (other if step in foreign else run)[step] for step in STEPS}))
    assert {step for finding in report.findings for step in finding.steps} == set(foreign)
    assert {finding.rule for finding in report.findings} == {"detour"}


def test_a_switch_to_another_run(folder, form, trained):
    for step in STEPS[12:]:
        FORMS[form](folder, step, trained[1][step])
    assert found(regime_proto.check(folder)) == [("jump", (120,))]


def test_a_damaged_state(folder, form, trained):
    state = {name: tensor + 0.3 * torch.randn_like(tensor) for name, tensor in trained[0][80].items()}
    FORMS[form](folder, 80, state)
    assert found(regime_proto.check(folder)) == [("detour", (80,))]


def file_in(path):
    return path / shard_name(1) if path.is_dir() else path


def test_files_that_are_cut_off_or_no_checkpoints(folder):
    for step, keep in ((100, 0.5), (130, 0.0), (230, 0.7)):
        file = file_in(path_of(folder, step))
        content = file.read_bytes()
        file.write_bytes(content[: int(keep * len(content))])
    file_in(path_of(folder, 160)).write_bytes(b"\x80\x02not a checkpoint" * 50)
    report = regime_proto.check(folder)
    unreadable = [finding for finding in report.findings if finding.rule == "unreadable"]
    assert len(unreadable) == 4
    assert [step for finding in unreadable for step in finding.steps] == [100, 130, 160]
    # The last one is left out by the sequence, since it may still be being written.
    assert "still being written" in next(finding for finding in unreadable if not finding.steps).message
    assert found(report) == [(finding.rule, finding.steps) for finding in unreadable]
    assert report.tensors == 16


def test_the_check_goes_on_behind_damaged_files(folder, form, trained):
    file_in(path_of(folder, 40)).write_bytes(b"")
    FORMS[form](folder, 200, trained[0][90])
    assert {rule for rule, _ in found(regime_proto.check(folder))} == {"unreadable", "duplicate"}


# --- Tensors that never change ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half_frozen():
    model = nets.make_mlp()
    for parameter in model.body[0].parameters():
        parameter.requires_grad_(False)
    return train(model, STEPS)


def test_tensors_that_never_change(half_frozen):
    report = regime_proto.check(in_memory(half_frozen))
    assert found(report) == [("never-changes", ())]
    assert report.findings[0].tensors == ("body.0.weight", "body.0.bias")
    # Nothing says that they are meant to be trained, or used.
    assert report.ok


def test_a_run_in_which_no_weight_changes(half_frozen):
    """Counters and running statistics change also where nothing is trained."""
    start = half_frozen[0]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    states = {
        step: {name: value if name.endswith(statistics) else start[name] for name, value in state.items()}
        for step, state in half_frozen.items()
    }
    report = regime_proto.check(in_memory(states))
    assert [(finding.rule, finding.severity) for finding in report.findings] == [("never-changes", "error")]
    assert "no weights change" in report.findings[0].message
    assert regime_proto.check(in_memory(states), frozen=["*.weight", "*.bias"]).ok


def test_a_bias_that_stands_still_may_well_do_so():
    """A norm after it takes every change of a bias out again: without weight decay it gets no gradient."""
    trained = train(nets.make_mlp(), STEPS)
    bias = next(iter(trained.values()))["body.0.bias"]
    report = regime_proto.check(in_memory({step: {**state, "body.0.bias": bias} for step, state in trained.items()}))
    assert [(finding.rule, finding.tensors) for finding in report.findings] == [("never-changes", ("body.0.bias",))]
    assert report.ok


def test_masks_of_pruning_are_not_meant_to_change():
    trained = train(nets.make_mlp(), STEPS)
    mask = torch.ones(32, 12)
    assert regime_proto.check(in_memory({step: {**state, "w_mask": mask} for step, state in trained.items()})).ok


def test_nothing_that_can_be_read_is_one_error(tmp_path):
    for step in range(4):
        content = {front: {"w": torch.ones(2) * step} for front in ("gen", "dis")}
        torch.save(content, tmp_path / f"step_{step}.pt")
    with pytest.raises(RegimeError, match=r"none of 4 checkpoints can be read; step 0: weights under several keys"):
        regime_proto.check(tmp_path)


def test_tensors_that_are_meant_to_be_frozen(half_frozen):
    assert regime_proto.check(in_memory(half_frozen), frozen=["body.0.*"]).ok
    assert regime_proto.check(in_memory(half_frozen), frozen="body.0.*").ok
    wrong = regime_proto.check(in_memory(half_frozen), frozen=["body.0.*", "body.4.weight"])
    assert found(wrong) == [("frozen-changes", ())]
    assert wrong.findings[0].tensors == ("body.4.weight",)


class WithConstant(nets.Mlp):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.full((12,), 2.0))

    def forward(self, features):
        return super().forward(features * self.scale)


class Partly(nets.Mlp):
    """A constant of two axes, a head that nothing uses, and a layer without a learning rate."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.full((1, 12), 2.0))
        self.head = torch.nn.Linear(5, 4)
        self.body[4].requires_grad_(False)

    def forward(self, features):
        return super().forward(features * self.scale)


def test_a_constant_and_an_unused_head_are_no_fault(tmp_path, monkeypatch):
    monkeypatch.setitem(nets.SHAPES, Partly, (12,))
    torch.manual_seed(0)
    model = Partly()
    for step, state in train(model, range(5), optimizer=adamw(1e-3, 0.0)).items():
        save_torch(tmp_path, step, state)
    still = {"body.0.bias", "body.4.weight", "body.4.bias", "head.weight", "head.bias"}
    report = regime_proto.check(tmp_path)
    assert [finding.severity for finding in report.findings] == ["warning"]
    assert set(report.findings[0].tensors) - {"body.0.bias"} == {"scale", *still} - {"body.0.bias"}
    assert regime("check", tmp_path).exit_code == 0
    # A program says that one of them is trainable and used.
    model.requires_grad_(True)
    write_program(tmp_path, model=model, probe=np.zeros((2, 12), np.float32))
    report = regime_proto.check(tmp_path)
    assert [(finding.severity, "body.4.weight" in finding.tensors) for finding in report.findings] == [
        ("error", True),
        ("warning", False),
    ]
    assert report.findings[0].tensors == ("body.4.weight",)
    assert {"head.weight", "head.bias"} <= set(report.findings[1].tensors) <= still
    assert regime("check", tmp_path).exit_code == 1
    assert regime("check", tmp_path, "--frozen", "body.4.*").exit_code == 0


def test_a_program_tells_what_is_trainable(tmp_path, monkeypatch):
    monkeypatch.setitem(nets.SHAPES, WithConstant, (12,))
    torch.manual_seed(0)
    model = WithConstant()
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step, state in train(model, range(5), optimizer=adamw(1e-3, 0.1)).items():
        save_torch(folder, step, state)
    assert [finding.tensors for finding in regime_proto.check(folder).findings] == [("scale",)]
    write_program(folder, model=model, probe=np.zeros((2, 12), np.float32))
    assert regime_proto.check(folder).ok
    (folder / "program.onnx").write_bytes(b"no program")
    assert [finding.rule for finding in regime_proto.check(folder).findings] == ["unreadable", "never-changes"]


# --- Shards -----------------------------------------------------------------------------------------------------------


def move_shard(folder, source, target, number=1):
    shutil.copy(path_of(folder, source) / shard_name(number), path_of(folder, target) / shard_name(number))


PAIRS = [(50, 170), (170, 50), (90, 100), (100, 90), (230, 20), (0, 200)]
# Every pair, and every shard of the first pair, in the fast tests.
SHARDS_OF_OTHERS = [
    pytest.param(*pair, number, marks=[pytest.mark.slow] if number != 1 and pair != PAIRS[0] else [])
    for pair in PAIRS
    for number in range(SHARDS)
]


@pytest.mark.parametrize(("source", "target", "number"), SHARDS_OF_OTHERS)
def test_a_shard_of_another_step(sharded, source, target, number):
    move_shard(sharded, source, target, number)
    report = regime_proto.check(sharded)
    assert found(report) == [("mixed-shards", (target, source))]
    assert shard_name(number) in report.findings[0].message


def test_several_shards_of_other_steps(sharded):
    move_shard(sharded, 60, 140, 0)
    move_shard(sharded, 60, 140, 2)
    move_shard(sharded, 30, 180, 1)
    report = regime_proto.check(sharded)
    assert sorted(found(report)) == [("mixed-shards", (140, 60)), ("mixed-shards", (180, 30))]


def test_a_shard_of_another_run(sharded, trained, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    save_sharded(other, 120, trained[1][120])
    shutil.copy(path_of(other, 120) / shard_name(1), path_of(sharded, 120) / shard_name(1))
    assert found(regime_proto.check(sharded)) == [("detour", (120,))]


def test_an_index_that_names_what_is_not_there(sharded):
    path = path_of(sharded, 70) / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["ghost.weight"] = shard_name(0)
    path.write_text(json.dumps(index))
    report = regime_proto.check(sharded)
    assert found(report) == [("mixed-shards", (70,))]
    assert "'ghost.weight' is missing" in report.findings[0].message


def test_a_shard_with_other_tensors_than_the_index_says(sharded):
    move = path_of(sharded, 70)
    tensors = load_file(move / shard_name(0))
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, move / shard_name(0))
    assert found(regime_proto.check(sharded)) == [("mixed-shards", (70,))]


def test_a_missing_shard(sharded):
    (path_of(sharded, 70) / shard_name(2)).unlink()
    report = regime_proto.check(sharded)
    assert found(report) == [("unreadable", (70,))]
    assert "1 of 3 shards missing" in report.findings[0].message


def is_first_shard(name):
    return name.startswith(("embed", "head", "layer.linear1.bias"))


def freeze_between(start, stop):
    def before_step(now, model):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not (start <= now < stop and is_first_shard(name)))

    return before_step


def alternate(period):
    """Train one half for a while, then the other."""

    def before_step(now, model):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(is_first_shard(name) == bool(now // period % 2))

    return before_step


@pytest.mark.parametrize(
    "before_step", [freeze_between(0, 20), freeze_between(20, 99), freeze_between(12, 30), alternate(4)]
)
def test_frozen_shards_are_sound(before_step, tmp_path):
    torch.manual_seed(0)
    states = train(nets.Encoder(), every(23, 2), before_step=before_step, optimizer=adamw(1e-3, 0.01))
    for step, state in states.items():
        save_sharded(tmp_path, step, state)
    files = [(path_of(tmp_path, step) / shard_name(0)).read_bytes() for step in states]
    assert any(earlier == later for earlier, later in itertools.pairwise(files))
    assert regime_proto.check(tmp_path).findings == ()


# --- Against another run ----------------------------------------------------------------------------------------------


def against(run, other, **options):
    other = replace(in_memory(other), root=Path("other"))
    return regime_proto.check(in_memory(run), against=other, **options)


def test_two_runs_share_nothing(trained):
    run, other = trained
    assert against(run, other).findings == ()
    assert against(run, other).against == "other"
    assert regime_proto.check(in_memory(run)).against is None


def test_states_of_the_other_run(trained):
    """A switch to another run whose weights are as large shows no jump."""
    run, other = trained
    mixed = {step: (other if step in (50, 60, 120) else run)[step] for step in STEPS}
    shared = [finding for finding in against(mixed, other).findings if finding.rule == "another-run"]
    assert [(finding.steps, finding.severity) for finding in shared] == [((50, 60, 120), "error")]
    assert shared[0].message == "same weights as other, steps 50, 60, 120 there"
    # Under other steps, and but for the sign of zeros.
    signed = {name: torch.where(tensor == 0, -0.0, tensor) for name, tensor in run[100].items()}
    report = against({step: other[step] for step in STEPS} | {200: signed}, run)
    assert ("another-run", (200,)) in found(report)
    assert "step 100 there" in next(one.message for one in report.findings if one.rule == "another-run")


def test_a_shard_of_the_other_run(trained):
    run, other = trained
    names = sorted(run[0])[: len(run[0]) // SHARDS]
    mixed = {**run, 90: {**run[90], **{name: other[70][name] for name in names}}}
    (finding,) = [one for one in against(mixed, other).findings if one.rule == "another-run"]
    assert (finding.steps, set(finding.tensors)) == ((90,), set(names))
    assert "of the weights are the same as in other, step 70 there" in finding.message


def frozen_at_first(steps, seed):
    """Train the head alone at first: runs with one initialization share the other weights until then."""
    torch.manual_seed(0)
    return train(nets.Encoder(), steps, seed=seed, before_step=freeze_between(0, 100), optimizer=adamw(1e-3, 0.01))


def test_runs_from_one_initialization(trained):
    run, other = frozen_at_first(STEPS, 1), frozen_at_first(STEPS, 2)
    (finding,) = against(run, other).findings
    assert (finding.rule, finding.steps, finding.severity) == ("shared-start", (0,), "warning")
    assert "step 0 there" in finding.message
    assert against(run, other).ok


def test_a_run_that_goes_on_from_the_other(trained):
    run = {step: state for step, state in trained[0].items() if step <= 100}
    later = {step: state for step, state in trained[0].items() if step >= 100}
    for one, other in ((later, run), (run, later)):
        report = against(one, other)
        assert [(finding.rule, finding.steps) for finding in report.findings] == [("shared-start", (100,))]


def test_a_number_that_two_runs_come_to(trained):
    """Clipped, or decayed to nothing: few weights, and equal by right."""
    states = [
        {step: {**state, "scale": torch.full((), min(step, 50) / 10)} for step, state in run.items()} for run in trained
    ]
    assert against(*states).findings == ()


def test_check_against_a_directory(saved, form, trained, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for step, state in trained[1].items():
        FORMS[form](other, step, trained[0][step] if step == 130 else state)
    result = regime("check", saved[form], "--against", other)
    assert result.exit_code == 1
    for words in ("another-run", "130", "against", str(other), "check which run they belong to"):
        assert "".join(words.split()) in "".join(result.stdout.split()), words
    found_there = json.loads(regime("check", saved[form], "--against", other, "--json").stdout)
    assert found_there["against"] == str(other)
    assert [finding["rule"] for finding in found_there["findings"]] == ["another-run"]
    assert json.loads(regime("check", saved[form], "--json").stdout)["against"] is None
    for path, message in ((saved[form], "the same directory"), (tmp_path / "none", "no such")):
        result = regime("check", saved[form], "--against", path)
        assert (result.exit_code, message in result.stderr) == (2, True)
    file_in(path_of(other, 60)).write_bytes(b"nothing")
    result = regime("check", saved[form], "--against", other, "--steps", "0:100")
    assert result.exit_code == 0
    assert "couldnotbecompared;step60there" in "".join(result.stdout.split())


# --- Clean runs, really trained ---------------------------------------------------------------------------------------


UNEVEN = tuple(itertools.accumulate([0, *np.random.default_rng(0).choice([1, 2, 3, 7, 15, 40], 40).tolist()]))

CLEAN = {
    "long restarts": (sgd(0.1), warm_restarts(100), every(60, 5)),
    "restarts at every step": (sgd(0.1, 0), warm_restarts(50), every(120)),
    "short restarts, sparse checkpoints": (sgd(0.1), warm_restarts(10), every(20, 25)),
    "restarts every two checkpoints": (sgd(0.1), warm_restarts(20), every(30, 10)),
    "restarts that grow": (sgd(0.1), warm_restarts(10, 2), every(40, 10)),
    "weight decay": (adamw(1e-3, 0.1), None, every(30, 10)),
    "strong weight decay": (adamw(1e-2, 0.5), None, every(60)),
    "warm-up, then decay": (adamw(3e-3, 0.01), warm_up(100, 400), every(40, 10)),
    "step decay": (sgd(0.1), lambda optimizer: schedules.StepLR(optimizer, 100, 0.05), every(30, 10)),
    "early transients": (sgd(0.2), None, every(40)),
    "high learning rate": (sgd(1.0, 0), None, every(60)),
    "high learning rate with momentum": (sgd(0.5), None, every(60)),
    "log-spaced": (sgd(0.05), None, tuple(step for step in LOG_SPACED if step <= 1000)),
    "uneven": (sgd(0.05), None, UNEVEN),
    "a last step off the grid": (adamw(1e-3, 0.1), None, (*every(20, 10), 207)),
}


def clean_runs():
    """Yield every kind of run; all of the small network and the short ones of the large one are fast."""
    for case, (_, _, steps) in CLEAN.items():
        for kind in (nets.Mlp, nets.Encoder):
            for seed in range(6):
                fast = seed == 0 and (kind is nets.Mlp or steps[-1] <= 120)
                yield pytest.param(case, kind, seed, marks=[] if fast else [pytest.mark.slow])


@pytest.mark.parametrize(("case", "kind", "seed"), list(clean_runs()))
def test_clean_runs_are_sound(case, kind, seed):
    optimizer, schedule, steps = CLEAN[case]
    torch.manual_seed(seed)
    states = train(kind(), steps, seed=seed, optimizer=optimizer, schedule=schedule)
    assert regime_proto.check(in_memory(states)).findings == ()


# --- Rules on made-up summaries ---------------------------------------------------------------------------------------


def summary(step, content="", *, change=1.0, form=None, tensors=("w",), **rest):
    forms = dict.fromkeys(tensors, form or Form("float32", (4,)))
    digests = {name: f"{name}{content or step}".encode() for name in tensors}
    return Summary(step, digests, forms, dict.fromkeys(tensors, 4 * change), **rest)


@pytest.mark.parametrize(
    ("steps", "missing"),
    [
        (LOG_SPACED, ()),
        ((*range(10), *range(10, 100, 10)), ()),
        ((*range(0, 1000, 100), 950), ()),
        (range(0, 1000, 100), ()),
        (tuple(itertools.accumulate([0, *[2, 4] * 8])), ()),
        (tuple(itertools.accumulate([0, *[2, 2, 4] * 8])), ()),
        ((*range(0, 900, 100), 1300, 1301, 1302, 1303), ()),
        (UNEVEN, ()),
        ((0, 5), ()),
        ((7,), ()),
        ((0, 1, 2, 3, 5, 6, 7, 8, 9), (4,)),
        ((0, 100, 300, 400, 500, 600), (200,)),
        ((*range(10), *range(12, 30)), (10, 11)),
        (tuple(step for step in LOG_SPACED if step != 3000), (3000,)),
        ((0, *range(2, 20)), (1,)),
        ((*range(18), 19), (18,)),
    ],
)
def test_gaps_in_a_grid(steps, missing):
    steps = tuple(sorted(steps))
    assert [finding.steps for finding in rules.missing_steps(steps)] == ([missing] if missing else [])


def test_gaps_of_a_long_log_spaced_run_without_its_middle():
    pythia = (0, *(2**power for power in range(10)), *range(1000, 143_001, 1000))
    assert len(pythia) == 154
    assert list(rules.missing_steps(pythia)) == []
    assert [finding.steps for finding in rules.missing_steps(pythia[:70] + pythia[72:])] == [pythia[70:72]]


def test_duplicates_by_their_place():
    def of(*contents):
        states = [summary(step, content) for step, content in enumerate(contents)]
        return [(finding.rule, finding.steps, finding.severity) for finding in rules.duplicates(states)]

    assert of("a", "b", "c", "d") == []
    assert of("a", "b", "a", "d") == [("duplicate", (0, 2), "error")]
    assert of("a", "d", "c", "d") == [("final-weights", (1,), "error")]
    assert of("d", "b", "d", "d") == [("final-weights", (0,), "error"), ("duplicate", (2, 3), "error")]
    assert of("a", "b", "d", "d") == [("duplicate", (2, 3), "error")]
    # A learning rate that begins at 0.
    assert of("a", "a", "c", "d") == [("duplicate", (0, 1), "warning")]
    assert of("a", "a", "a", "d") == [("duplicate", (0, 1, 2), "error")]


def test_a_majority_says_which_tensors_belong():
    states = [summary(step, tensors=("w", "v") if step < 6 else ("w",)) for step in range(10)]
    assert [(f.message, f.steps) for f in rules.odd_tensors(states)] == [("missing: v", (6, 7, 8, 9))]
    states = [summary(step, tensors=("w", "v") if step < 4 else ("w",)) for step in range(10)]
    assert [(f.message, f.steps) for f in rules.odd_tensors(states)] == [("in few other states: v", (0, 1, 2, 3))]


def test_integers_and_empty_tensors_may_stay_as_they_are():
    states = [summary(step) for step in range(4)]
    counter, empty = Form("int64", (1,)), Form("float32", (0,))
    still = [
        Summary(
            state.step, state.digests | {"n": b"1", "e": b"2"}, state.forms | {"n": counter, "e": empty}, state.changes
        )
        for state in states
    ]
    assert list(rules.unchanging(still)) == []
    assert [f.tensors for f in rules.unchanging([summary(step, "same") for step in range(4)])] == []


def no_distance(*_):
    raise AssertionError("nothing suspicious to read again")


def series(*changes, steps=None):
    steps = steps or range(len(changes) + 1)
    return [summary(step, change=change) for step, change in zip(steps, (0.0, *changes), strict=True)]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ((1, 1, 1, 20, 1, 1, 1), [4]),
        ((1, 1, 1, 8, 1, 1, 1), []),
        ((1, 1, 1, 20, 3, 1, 1), []),
        ((90, 1, 1, 1, 1, 1, 1), []),
        ((1, 1, 1, 1, 1, 1, 90), []),
        ((0.01, 0.1, 1, 1, 1, 1), []),
        ((1, 1, 1, 0.01, 0.01, 0.01), []),
        ((0, 0, 0, 5, 0, 0, 0), []),
        ((1, 1, 1, math.nan, 1, 1, 1), []),
        ((1, math.nan, 1, 1, 20, 1, 1), [5]),
    ],
)
def test_jumps_that_last(changes, steps):
    states = series(*changes)
    assert [finding.steps[0] for finding in jumps(states, no_distance, ["w"])] == steps


def test_a_longer_interval_may_be_larger():
    assert list(jumps(series(1, 1, 1, 20, 1, 1, 1, steps=[0, 1, 2, 3, 23, 24, 25, 26]), no_distance, ["w"])) == []


@pytest.mark.parametrize(("back", "rules_found"), [(0.5, ["detour"]), (30.0, [])])
def test_a_detour_comes_back(back, rules_found):
    asked = []

    def distance(step, other, names):
        asked.append((step, other, tuple(names)))
        return 4 * back

    states = series(1, 1, 1, 20, 20, 1, 1, 1)
    assert [finding.rule for finding in jumps(states, distance, ["w"])] == rules_found
    assert asked == [(3, 5, ("w",))]


def test_an_oscillation_is_no_detour():
    assert list(jumps(series(*[20] * 12), no_distance, ["w"])) == []


def test_running_statistics_do_not_count_as_movement():
    states = [summary(step, tensors=("bn.weight", "bn.running_var")) for step in range(3)]
    assert counted_tensors(states) == ["bn.weight"]
    assert counted_tensors(states, {"bn.running_var"}) == ["bn.running_var"]


def test_names_and_steps_in_few_words():
    assert spell_names(["a", "b.c"]) == "a, b.c"
    names = [f"encoder.layer.{layer}.{part}" for layer in range(3) for part in ("weight", "bias")]
    assert spell_names(names) == "encoder.layer.0.* (2), encoder.layer.1.* (2), encoder.layer.2.* (2)"
    assert spell_names([*names, "head.bias"]) == "encoder.* (6), head.*"
    assert spell_names(list("abcde")) == "a, b, c and 2 more"
    assert spell_steps(range(6)) == "0, 1, 2, 3, 4, 5"
    assert spell_steps(range(10)) == "0, 1, 2 … 9 (10)"


def test_a_digest_tells_dtype_shape_and_bits():
    def of(array):
        source = in_memory({0: {"w": torch.from_numpy(array)}})
        from regime_proto.integrity.scan import scan

        return scan(source).summaries[0].digest

    ones = np.ones((2, 3), np.float32)
    others = [ones.T.copy(), ones.astype(np.float64), -ones, 0.0 * ones, ones.view(np.int32)]
    digests = [of(array) for array in (ones, *others)]
    assert len(set(digests)) == len(digests)
    assert of(np.asfortranarray(ones)) == of(ones)
    assert combined({"a": b"1", "b": b"2"}, "ab") != combined({"a": b"2", "b": b"1"}, "ab")


@pytest.mark.parametrize("name", ["float64", "float32", "float16", "bfloat16", "float8_e5m2", "complex64"])
def test_zeros_of_either_sign_are_one_number(tmp_path, name):
    """A copy that went through a computation may differ in nothing else."""
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    random = np.random.default_rng(0)
    states = [random.standard_normal((50, 3)).astype(dtype) for _ in range(6)]
    for state in states:
        state[:5] = 0
    states[4] = states[1].copy()
    states[4][1:4] = np.array(-0.0, dtype)
    assert states[4].tobytes() != states[1].tobytes()
    checkpoints = tuple(Checkpoint(step, Path(f"{step}.pt")) for step in range(6))
    read = lambda checkpoint: State({"w": states[checkpoint.step]})  # noqa: E731
    source = Source("torch", "made here", Path("run"), "step", "made here", checkpoints, read)
    assert found(regime_proto.check(source)) == [("duplicate", (1, 4))]


def test_the_sign_of_no_other_number_is_left_out():
    for dtype in (np.int32, np.uint8, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e8m0fnu):
        sign = 1 << (8 * np.dtype(dtype).itemsize - 1)
        words = np.array([0, sign], f"u{np.dtype(dtype).itemsize}")
        assert scan._digest(words[:1].view(dtype)) != scan._digest(words[1:].view(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.float8_e5m2])
def test_other_dtypes(tmp_path, dtype):
    generator = torch.Generator().manual_seed(0)
    for step in range(8):
        value = torch.randn(40, 3, generator=generator).to(dtype)
        if step == 5:
            value = torch.full((40, 3), math.nan).to(dtype)
        torch.save({"w": value, "n": torch.tensor(step)}, tmp_path / f"step_{step}.pt")
    assert found(regime_proto.check(tmp_path)) == [("non-finite", (5,))]


def test_few_states_are_held_at_a_time(trained):
    source = in_memory(trained[0])
    held, most = [], []

    def read(checkpoint):
        state = source.read(checkpoint)
        tensors = {name: array.copy() for name, array in state.tensors.items()}
        held.append(weakref.ref(tensors["head.weight"]))
        most.append(sum(array() is not None for array in held))
        return State(tensors)

    assert regime_proto.check(replace(source, read=read)).ok
    assert len(most) == len(STEPS)
    assert max(most) <= 3


# --- The command ------------------------------------------------------------------------------------------------------


def test_check_says_what_it_looked_at(folder, form):
    result = regime("check", folder)
    assert result.exit_code == 0, result.output
    for words in (f"{form} (", "24, step 0 to 230, stride 10", "16 tensors, 2,123 parameters", "nothing wrong found"):
        assert words in " ".join(result.stdout.split()), words
    assert regime("check", folder, "-q").output == ""


def test_check_lists_what_is_wrong_and_what_to_do(sharded, trained):
    move_shard(sharded, 50, 170)
    save_sharded(sharded, 20, trained[0][230])
    result = regime("check", sharded)
    assert result.exit_code == 1
    for words in ("mixed-shards", "170, 50", "final-weights", "what to do"):
        assert words in result.stdout
    assert "nothing wrong" not in result.stdout
    assert "self_attn" not in result.stdout.replace(shard_name(1), "")
    assert "layer.norm1.bias" in regime("check", sharded, "-v").stdout
    assert regime("check", sharded, "--steps", "30:160").exit_code == 0
    assert "adapter" not in regime("check", sharded, "-q").stdout


def test_check_as_json(folder, form, trained):
    clean = json.loads(regime("check", folder, "--json").stdout)
    assert clean["ok"] is True
    assert clean["findings"] == []
    assert (clean["checkpoints"], clean["first_step"], clean["last_step"], clean["stride"]) == (24, 0, 230, 10)
    FORMS[form](folder, 150, trained[0][40])
    result = regime("check", folder, "--json")
    assert result.exit_code == 1
    (finding,) = json.loads(result.stdout)["findings"]
    assert (finding["rule"], finding["steps"], finding["severity"]) == ("duplicate", [40, 150], "error")
    assert finding["advice"]


def test_check_takes_what_is_frozen(half_frozen, tmp_path):
    for step, state in half_frozen.items():
        save_torch(tmp_path, step, state)
    assert "never-changes" in regime("check", tmp_path).output
    assert regime("check", tmp_path, "--frozen", "body.0.weight", "--frozen", "*.bias").exit_code == 1
    result = regime("check", tmp_path, "--frozen", "body.0.weight", "--frozen", "body.0.bias")
    assert (result.exit_code, "never-changes" in result.output) == (0, False)


@pytest.mark.parametrize("content", [None, "empty", "other"])
def test_what_cannot_be_checked_at_all(tmp_path, content):
    target = tmp_path / "run"
    if content is not None:
        target.mkdir()
    if content == "other":
        (target / "notes.txt").write_text("nothing here")
    result = regime("check", target)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")
    as_json = regime("check", target, "--json")
    assert as_json.exit_code == 2
    assert json.loads(as_json.stdout)["ok"] is None
    with pytest.raises(RegimeError, match=r"no such file|no checkpoint"):
        regime_proto.check(target)


def test_a_warning_alone_is_nothing_wrong(tmp_path):
    torch.manual_seed(0)
    schedule = lambda optimizer: schedules.LambdaLR(optimizer, lambda step: min(1, step / 10))  # noqa: E731
    for step, state in train(nets.Encoder(), every(20), optimizer=adamw(1e-3, 0.1), schedule=schedule).items():
        save_torch(tmp_path, step, state)
    result = regime("check", tmp_path)
    assert result.exit_code == 0, result.output
    assert "a learning rate of 0" in result.stdout
    assert "nothing wrong found" in result.stdout


def test_reasons_keep_whole_what_only_ends_in_the_name_of_the_run(tmp_path, monkeypatch):
    """Libraries name absolute paths, in which a relative root is one part among others."""
    monkeypatch.chdir(tmp_path)
    folder = Path("run")
    folder.mkdir()
    for step in range(3):
        np.savez(folder / f"step_{step}.npz", w=np.full(4, step, "f4"))
    source = open_directory(folder)
    for text in (f"{tmp_path}/run/step_1.npz is gone", "run/step_1.npz is gone"):
        reason = scan._reason(RegimeError(f"{source.checkpoints[1].path}: {text}"), source, source.checkpoints[1])
        assert reason == text.removeprefix("run/")


# --- Advice that is followed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [(3,), (5, 6), (0,), (0, 7), (1, 4), (2, 3, 6)])
def test_the_steps_that_are_advised_leave_nan_and_unreadable_files_out(tmp_path, bad):
    for step in range(8):
        states = {"w": torch.arange(200.0) + step}
        states["w"][0] = torch.nan if step in bad else 0
        torch.save(states, tmp_path / f"step_{step}.pt")
    (tmp_path / "step_4.pt").write_bytes(b"PK\3\4 damaged")
    report = regime_proto.check(tmp_path)
    spoiled = [finding for finding in report.findings if finding.rule == "non-finite"]
    assert {step for finding in spoiled for step in finding.steps} == {*bad} - {4}
    for finding in spoiled:
        steps = finding.advice.partition("--steps ")[2]
        rest = regime_proto.check(tmp_path, steps=steps)
        assert len(rest.steps) >= 2
        assert not {"non-finite", "unreadable"} & {finding.rule for finding in rest.findings}


def test_no_steps_are_advised_where_no_two_in_a_row_are_whole(tmp_path):
    for step in range(4):
        torch.save({"w": torch.full((9,), torch.nan if step % 2 else float(step))}, tmp_path / f"step_{step}.pt")
    findings = [finding for finding in regime_proto.check(tmp_path).findings if finding.rule == "non-finite"]
    assert len(findings) == 2
    assert not any("--steps" in finding.advice for finding in findings)


@pytest.mark.parametrize("make", ["pipe", "socket"])
def test_what_is_no_file_is_no_checkpoint_and_is_to_be_moved(tmp_path, make):
    for step in range(4):
        torch.save({"w": torch.arange(9.0) + step}, tmp_path / f"step_{step}.pt")
    other = tmp_path / "step_9.pt"
    if make == "pipe":
        os.mkfifo(other)
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(other))
    report = regime_proto.check(tmp_path)
    [finding] = [finding for finding in report.findings if finding.rule == "unreadable"]
    assert report.steps == (0, 1, 2, 3)
    assert finding.message.startswith("step_9.pt: a ")
    assert "copy" not in finding.advice
    assert finding.advice.endswith("move step_9.pt away")
    other.unlink()
    assert regime_proto.check(tmp_path).ok


def test_a_last_checkpoint_that_is_cut_off_is_called_one_thing(tmp_path):
    for step in range(4):
        torch.save({"w": torch.arange(900.0) + step}, tmp_path / f"step_{step}.pt")
    last = tmp_path / "step_3.pt"
    last.write_bytes(last.read_bytes()[:-500])
    said = regime("check", tmp_path).output + regime("inspect", tmp_path).stderr
    assert "cut off, or still being written" in said
    assert "damaged" not in said
    assert "not complete yet" not in said
    assert "otherwise" in said
