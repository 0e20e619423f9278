"""A run that is measured part by part gives the file that it gives whole, bit for bit."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import children
import ml_dtypes
import nets
import numpy as np
import pytest
import sources
import torch
import transformers_models
from commands import assert_one_line, regime
from nets import save_run
from reading import assert_same
from safetensors.torch import save_file

import regime_proto
from regime_proto.cli.console import size
from regime_proto.conversion.parting import foreseen_parts, parted, parting_of
from regime_proto.conversion.plan import make_plan, write_program
from regime_proto.conversion.run import foresee_plan, run_plan
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.engine.part_states import observe_parts
from regime_proto.program.probe import COUNTED
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.files import segments_folder
from regime_proto.schema.finish import finish

MEASURED = ("weight_norm_l2", "weight_distance_l2", "weight_dot_previous", "weight_dot_first", "active_fraction")
LLAMA = (
    "LlamaForCausalLM",
    {
        "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 16,
        "intermediate_size": 40, "vocab_size": 100, "hidden_act": "relu", "max_position_embeddings": 32,
        "tie_word_embeddings": False,
    },
    {"input_ids": transformers_models.IDS}, 0,
)  # fmt: skip
NETS = {"mlp": nets.make_mlp, "conv": nets.make_conv, "encoder": nets.make_encoder}
STATES = 8


def save_net(folder, make):
    save_run(folder, make(), STATES)
    write_program(folder, model=make(), probe=nets.probe(make()))


def save_transformer(folder, name, monkeypatch):
    monkeypatch.setitem(transformers_models.MODELS, "llama", LLAMA)
    layers = {"gpt2": {"n_layer": 3}, "opt": {"num_hidden_layers": 3}}.get(name, {})
    model = transformers_models.make(name, **layers).to(torch.bfloat16)
    transformers_models.save_steps(folder, model, range(4), max_shard_size="10kB")
    probe = dict(transformers_models.MODELS[name][2])
    np.savez(folder.parent / "probe.npz", **probe)


class Runs(dict):
    """Runs by the name of their model, made when they are asked for: checkpoints, probe, and what whole states give."""

    def __init__(self, folder, monkeypatch):
        super().__init__()
        self.folder, self.monkeypatch = folder, monkeypatch

    def __missing__(self, name):
        folder, probe = self.folder / name / "checkpoints", None
        if name in NETS:
            save_net(folder, NETS[name])
        else:
            save_transformer(folder, name, self.monkeypatch)
            probe = folder.parent / "probe.npz"
        whole = folder.parent / "whole.h5"
        regime_proto.convert(folder, whole, probe=probe, parts="off", measure=MEASURED)
        self[name] = folder, probe, whole
        return self[name]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Runs(tmp_path_factory.mktemp("runs"), monkeypatch)


def most_parts(folder, probe):
    """Return how many parts there can be."""
    plan = make_plan(folder, ConversionSettings.of(probe=probe, parts=10**6))
    with pytest.raises(RegimeError, match="at most") as refused:
        foreseen_parts(plan, ConversionSettings.of(probe=probe, parts=10**6))
    return int(str(refused.value).rpartition("--parts ")[2].split()[0])


@pytest.mark.parametrize("parts", [1, 2, 3, "most"])
@pytest.mark.parametrize("name", [*NETS, "gpt2", "opt", "llama"])
def test_any_number_of_parts_gives_the_same_file(runs, tmp_path, name, parts):
    folder, probe, whole = runs[name]
    parts = most_parts(folder, probe) if parts == "most" else parts
    found = regime_proto.convert(folder, tmp_path / "run.h5", probe=probe, parts=parts, measure=MEASURED)
    assert_same(found, whole)
    with regime_proto.open_trajectory(found) as trajectory:
        assert (trajectory.flips.values[1:] > 0).any()
        assert "noise_floor_ulp" in trajectory.attrs


def test_the_checkpoints_of_transformers_are_in_shards_of_half_precision(runs):
    folder, _, _ = runs["llama"]
    plan = make_plan(folder, ConversionSettings.of(probe=runs["llama"][1]))
    assert len(list((folder / "step0").glob("*.safetensors"))) > 2
    state = plan.source.read_lazily(plan.source.checkpoints[0])
    assert {array.dtype for array in state.tensors.values()} == {np.dtype(ml_dtypes.bfloat16)}


def test_a_sample_of_units_is_the_same(runs, tmp_path):
    folder, _, _ = runs["conv"]
    paths = [
        regime_proto.convert(folder, tmp_path / f"{parts}.h5", parts=parts, sample_units=7) for parts in ("off", 3)
    ]
    assert_same(*paths)


def test_some_of_the_probes_have_padding(runs):
    _, probe, whole = runs["gpt2"]
    with np.load(probe) as held:
        assert COUNTED in held.files
    with regime_proto.open_trajectory(whole) as trajectory:
        assert len(set(trajectory.layer_units.values[0].tolist())) > 1


def test_workers_and_groups_do_not_change_the_result(runs, tmp_path, monkeypatch):
    folder, _, whole = runs["mlp"]
    for workers, group in [(1, 1), (3, 2), (2, 3), (4, 8)]:
        monkeypatch.setattr("regime_proto.conversion.parting._GROUP", group)
        found = regime_proto.convert(folder, tmp_path / f"{workers}.h5", parts=2, workers=workers, measure=MEASURED)
        assert_same(found, whole)


SOURCES = {
    "torch": sources.torch_files,
    "safetensors": sources.safetensors_files,
    "folder": sources.sharded_folders,
    "dcp": sources.dcp_folders,
}


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("name", SOURCES)
def test_every_format_that_can_be_read_lazily_gives_the_same(tmp_path, name):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    SOURCES[name](folder, sources.states(sources.mlp))
    model, probe = sources.mlp()
    write_program(folder, model=model, probe=probe)
    paths = [regime_proto.convert(folder, tmp_path / f"{parts}.h5", parts=parts) for parts in ("off", 2)]
    assert_same(*paths)


def test_weights_saved_in_two_parts_are_joined_part_by_part(tmp_path):
    from torch.nn.utils import parametrizations

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(12, 20), torch.nn.ReLU(), torch.nn.Linear(20, 9), torch.nn.ReLU())
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    write_program(folder, model=model, probe=np.random.default_rng(0).standard_normal((6, 12), np.float32))
    normed = parametrizations.weight_norm(model[0])
    for step in range(3):
        save_file(model.state_dict(), folder / f"step_{step}.safetensors")
        with torch.no_grad():
            normed.parametrizations.weight.original0.mul_(-0.9)
    paths = [regime_proto.convert(folder, tmp_path / f"{parts}.h5", parts=parts) for parts in ("off", 2)]
    assert_same(*paths)


CONVERT = """
import os, signal, sys
import regime_proto
from regime_proto.conversion import parting
from regime_proto.schema import writer

source, output, parts, at = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
parting._GROUP = 2
# Each observation is a segment's last for a while.
writer.TrajectoryWriter.__init__.__kwdefaults__["seconds"] = 0.0
def progress(done, total):
    if done == at:
        os.kill(os.getpid(), signal.SIGKILL)
regime_proto.convert(source, output, parts=parts, measure=sys.argv[5:], progress=progress)
"""


@pytest.mark.parametrize(("before", "after"), [(2, 2), (3, "off"), ("off", 3)])
def test_a_killed_conversion_goes_on_in_parts_or_whole(runs, tmp_path, before, after):
    folder, _, whole = runs["conv"]
    output = tmp_path / "run.h5"
    killed = children.start(CONVERT, folder, output, before, 5, *MEASURED)
    killed.wait()
    assert killed.returncode == -signal.SIGKILL
    assert list(segments_folder(output).iterdir())
    done = []
    regime_proto.convert(folder, output, parts=after, measure=MEASURED, progress=lambda count, _: done.append(count))
    assert 0 < len(done) < STATES
    assert_same(output, whole)


def test_shards_in_parts_give_the_same_file(runs, tmp_path):
    folder, _, whole = runs["mlp"]
    for shard in ("2/2", "1/2"):
        regime_proto.convert(folder, tmp_path / "run.h5", parts=2, shard=shard, measure=MEASURED)
    finish(segments_folder(tmp_path / "run.h5"))
    assert_same(tmp_path / "run.h5", whole)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cluster_in_parts_gives_the_same_file(runs, tmp_path):
    pytest.importorskip("distributed")
    folder, _, whole = runs["mlp"]
    assert_same(
        regime_proto.convert(folder, tmp_path / "run.h5", parts=2, scheduler="local:1", measure=MEASURED), whole
    )


def test_what_precedes_a_damaged_checkpoint_is_kept_and_the_error_is_that_of_whole_states(tmp_path):
    folder = tmp_path / "checkpoints"
    save_net(folder, nets.make_mlp)
    path = folder / "step_0005.pt"
    state = torch.load(path)
    state["model"]["body.0.weight"] = torch.zeros(3, 3)
    torch.save(state, path)
    errors = []
    for parts in ("off", 2):
        done = []
        with pytest.raises(RegimeError, match=r"body\.0\.weight is \[3, 3\]") as refused:
            regime_proto.convert(
                folder,
                tmp_path / f"{parts}.h5",
                parts=parts,
                progress=lambda count, _: done.append(count),  # noqa: B023
            )
        assert done == [1, 2, 3, 4, 5]
        errors.append(str(refused.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("step", [0, 3, 7])
def test_broken_states_are_invalid_as_they_are_whole(tmp_path, step):
    folder = tmp_path / "checkpoints"
    save_net(folder, nets.make_mlp)
    path = folder / f"step_{step:04d}.pt"
    state = torch.load(path)
    state["model"]["body.8.weight"][0, 0] = torch.nan
    torch.save(state, path)
    for parts in ("off", 3):
        with pytest.warns(RegimeWarning, match="NaN or Inf"):
            regime_proto.convert(folder, tmp_path / f"{parts}.h5", parts=parts)
    assert_same(tmp_path / "off.h5", tmp_path / "3.h5")
    with regime_proto.open_trajectory(tmp_path / "3.h5") as trajectory:
        assert trajectory.valid.values.tolist() == [int(number != step) for number in range(STATES)]
    if step == 0:
        for parts in ("off", 3):
            with pytest.raises(RegimeError, match="other states cannot be compared with it"):
                regime_proto.convert(folder, tmp_path / "x.h5", parts=parts, distance=True)


def test_a_checkpoint_that_changes_between_two_parts_is_refused(tmp_path):
    folder = tmp_path / "checkpoints"
    save_net(folder, nets.make_mlp)
    plan = make_plan(folder)
    read, changed = plan.source.read_lazily, plan.source.checkpoints[2]
    reads = []

    def changing(checkpoint):
        reads.append(checkpoint)
        if checkpoint == changed and reads.count(changed) > 1:
            os.utime(checkpoint.path, ns=(1, len(reads)))
        return read(checkpoint)

    meter = parted(plan, parting_of(plan, ConversionSettings.of(parts=3)))
    found = observe_parts(meter, plan.source.checkpoints, changing, workers=1)
    assert [next(found).step, next(found).step] == [0, 1]
    with pytest.raises(RegimeError, match=f"{changed.path.name}: the checkpoint changed during the measurement"):
        next(found)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"parts": 0}, "--parts 0: expected auto, off, or the smallest number of parts"),
        ({"parts": "few"}, "--parts few: expected auto, off"),
        ({"parts": 2, "measure": "amplitude_distance_previous"}, "--parts 2: --measure amplitude_distance_previous: "),
        ({"parts": 2, "noise": "full"}, "--noise full requires whole states; pass --noise quick"),
        ({"parts": 400}, r"--parts 400: the program can be cut into at most \d+ parts"),
    ],
)
def test_what_cannot_be_done_in_parts_is_refused(runs, tmp_path, options, match):
    with pytest.raises(RegimeError, match=match):
        regime_proto.convert(runs["mlp"][0], tmp_path / "run.h5", **options)
    assert not (tmp_path / "run.h5").exists()


def test_formats_that_are_read_whole_are_refused(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    sources.npz_files(folder, sources.states(sources.mlp))
    model, probe = sources.mlp()
    write_program(folder, model=model, probe=probe)
    result = regime("convert", folder, "-o", tmp_path / "run.h5", "--parts", "2")
    assert_one_line(result, r"--parts 2: .*npz checkpoints here can only be read whole; .* --parts off")


def test_streams_of_torch_are_refused(tmp_path):
    folder = tmp_path / "checkpoints"
    save_net(folder, nets.make_mlp)
    for path in folder.glob("*.pt"):
        torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    with pytest.raises(RegimeError, match=r"from before torch 1\.6, which can only be read whole"):
        regime_proto.convert(folder, tmp_path / "run.h5", parts=2)


def test_auto_goes_by_the_free_memory(runs, tmp_path, monkeypatch):
    folder, _, whole = runs["conv"]
    plan = make_plan(folder)
    available = "regime_proto.conversion.parting.available_bytes"
    monkeypatch.setattr(available, lambda: 4 * plan.state_bytes)
    assert parting_of(plan, ConversionSettings()) is None
    monkeypatch.setattr(available, lambda: 4 * plan.state_bytes - 1)
    parting = parting_of(plan, ConversionSettings())
    assert parting is not None
    assert parting.cutting.budget < plan.state_bytes
    assert parting_of(plan, ConversionSettings.of(parts="off")) is None
    with pytest.warns(RegimeWarning, match="are run whole nevertheless: --noise full requires whole states"):
        assert parting_of(plan, ConversionSettings(noise="full")) is None
    with pytest.raises(RegimeError, match="a part of the program needs about"):
        regime_proto.convert(folder, tmp_path / "run.h5")
    # A probe that is larger than the weights takes memory in any case.
    monkeypatch.setattr("regime_proto.engine.parts.PartsMeter.memory_bytes", lambda *_: 0)
    assert_same(regime_proto.convert(folder, tmp_path / "run.h5", measure=MEASURED), whole)


def test_inspect_says_what_will_be_done_in_parts(runs, monkeypatch):
    folder, _, _ = runs["conv"]
    assert "in parts" not in regime("inspect", folder).stdout
    plan = make_plan(folder)
    monkeypatch.setattr("regime_proto.conversion.parting.available_bytes", lambda: 30_000)
    monkeypatch.setattr("regime_proto.conversion.plan.Plan.state_bytes", 10**6)
    monkeypatch.setattr("regime_proto.engine.parts.PartsMeter.memory_bytes", lambda *_: 4_000)
    result = regime("inspect", folder)
    assert result.exit_code == 0, result.output
    found = foreseen_parts(plan, ConversionSettings())
    sizes = [checkpoint.path.stat().st_size for checkpoint in plan.source.checkpoints]
    assert found.group < STATES
    assert found.read_bytes == sum(sizes) + sum(sizes[found.group - 1 : -1 : found.group])
    assert re.search(rf"in parts +{found.parts} of at most", result.stdout)
    assert f"{found.group} checkpoints at a time" in result.stdout
    assert re.search(rf"to read +{size(found.read_bytes)}", result.stdout)


def test_a_dry_run_reads_no_state_whole(runs, tmp_path):
    plan = make_plan(runs["mlp"][0], ConversionSettings.of(measure=MEASURED))

    def read_whole(_):
        raise AssertionError("a state was read whole")

    plan = replace(plan, source=replace(plan.source, read=read_whole))
    with pytest.raises(AssertionError, match="was read whole"):
        foresee_plan(plan, tmp_path / "run.h5")
    assert foresee_plan(plan, tmp_path / "run.h5", ConversionSettings.of(parts=2)).observations == STATES
    run_plan(plan, tmp_path / "run.h5", ConversionSettings.of(parts=2))
    assert_same(tmp_path / "run.h5", runs["mlp"][2])


MEMORY = """
import sys, threading, time
from pathlib import Path
import regime_proto

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

source, output, parts = sys.argv[1:]
from regime_proto.conversion.run import run_plan
from regime_proto.conversion.plan import make_plan
from regime_proto.conversion.settings import ConversionSettings
plan = make_plan(Path(source))
before, peak, ended = anonymous(), 0, threading.Event()
def watch():
    global peak
    while not ended.wait(0.001):
        peak = max(peak, anonymous())
thread = threading.Thread(target=watch)
thread.start()
run_plan(plan, Path(output), ConversionSettings.of(parts=parts, workers=1))
ended.set()
thread.join()
print(peak - before)
"""


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_anonymous_memory_holds_the_weights_of_a_part_only(tmp_path):
    width, layers = 1024, 12
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.manual_seed(0)
    parts = [part for _ in range(layers) for part in (torch.nn.Linear(width, width), torch.nn.ReLU())]
    model = torch.nn.Sequential(*parts)
    write_program(folder, model=model, probe=np.random.default_rng(0).standard_normal((4, width), np.float32))
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    # Files from which tensors cannot be viewed.
    changed = {step: {name: (1 + step / 64) * tensor for name, tensor in weights.items()} for step in sources.STEPS[:3]}
    sources.dcp_folders(folder, changed)
    held = 4 * width**2 * layers
    peaks = {}
    for parts in ("off", "12"):
        peaks[parts] = int(children.run(MEMORY, folder, tmp_path / f"{parts}.h5", parts).stdout)
    assert peaks["off"] > 2 * held
    assert peaks["12"] < held
    assert_same(tmp_path / "off.h5", tmp_path / "12.h5")
