"""Sequences on the Hugging Face Hub: its real client against a local server that speaks the Hub's protocol."""

import json
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import children
import hub_server
import numpy as np
import onnx
import pytest
import torch
from commands import regime
from hub_server import TOKEN, Fault, Repository
from safetensors.numpy import save
from transformers_models import TEXT, make, save_steps, tokenizer_saved

import regime_proto
from regime_proto.adapters.from_huggingface import adapter as from_huggingface
from regime_proto.checkpoints.hub import client
from regime_proto.checkpoints.hub.address import parse
from regime_proto.checkpoints.hub.downloads import downloads_folder
from regime_proto.checkpoints.hub.files import weights_among
from regime_proto.checkpoints.hub.locations import sizes
from regime_proto.checkpoints.locations import as_place, downloading, is_published, is_remote, on_disk
from regime_proto.conversion.following import grown_plan
from regime_proto.conversion.plan import make_plan
from regime_proto.conversion.run import run_plan
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.plugins.open_directory import open_directory
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.segments import kept_observations

STEPS = (0, 10, 20, 30, 100, 1000)
SHAPES = {"a.weight": (40, 300), "b.weight": (300, 20)}
WEIGHTS = "model.safetensors"
# What lies beside the weights in many repositories, and is never asked for.
OTHER_FILES = (
    "optimizer.pt", "scheduler.pt", "training_args.bin", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack",
    "modeling_own.py", "README.md", ".gitattributes", "onnx/model.onnx",
)  # fmt: skip


def states():
    """Return weights that move less and less."""
    generator = np.random.default_rng(0)
    tensors = {name: generator.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    for number, step in enumerate(STEPS, start=1):
        yield step, dict(tensors)
        for name, shape in SHAPES.items():
            tensors[name] = tensors[name] + generator.normal(size=shape).astype(np.float32) / number


def model_file(path):
    """Write a model with weights of that name, as ONNX."""
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "a.weight"], ["z"]),
        onnx.helper.make_node("Relu", ["z"], ["r"]),
        onnx.helper.make_node("MatMul", ["r", "b.weight"], ["y"]),
    ]
    kind = onnx.TensorProto.FLOAT
    ends = [onnx.helper.make_tensor_value_info(name, kind, [5, width]) for name, width in (("x", 40), ("y", 20))]
    held = [onnx.numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in SHAPES.items()]
    graph = onnx.helper.make_graph(nodes, "net", ends[:1], ends[1:], held)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A folder with a model, a probe, and the states on disk in ``steps/``; read only."""
    folder = tmp_path_factory.mktemp("material")
    model_file(folder / "net.onnx")
    np.savez(folder / "probe.npz", x=np.random.default_rng(1).normal(size=(5, 40)).astype(np.float32))
    for step, tensors in states():
        (folder / "steps" / f"step{step}").mkdir(parents=True)
        (folder / "steps" / f"step{step}" / WEIGHTS).write_bytes(save(tensors))
    return folder


@pytest.fixture(scope="module")
def local(material):
    return regime_proto.convert(
        material / "steps", material / "local.h5", model=str(material / "net.onnx"), probe=material / "probe.npz"
    )


@pytest.fixture(scope="module")
def server():
    with hub_server.serving() as running:
        yield running


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    """An empty server that the client uses, from an empty folder."""
    for held in (server.repositories, server.requests, server.faults):
        held.clear()
    server.watch = lambda: None
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client, "_WAITS", (0.01, 0.02, 0.03))
    return server


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def repository(hub, material):
    """``lab/net`` with a branch for each state, and all that others put beside weights."""
    made = hub.repositories["lab/net"] = Repository()
    others = {name: name.encode() * 2000 for name in OTHER_FILES}
    for step in STEPS:
        made.commit(f"step {step}", others | files_of(material / "steps" / f"step{step}"), branch=f"step{step}")
    made.branches["main"] = made.commits[-1].sha
    return made


@pytest.fixture
def options(material):
    return {"model": str(material / "net.onnx"), "probe": material / "probe.npz"}


@pytest.fixture
def typed(options):
    return ["--model", options["model"], "--probe", str(options["probe"])]


def converted(address="hf://lab/net@step*", output="run.h5", **options):
    return regime_proto.convert(address, output, **options)


def assert_measured_alike(path, other):
    """All that was measured is the same, bit for bit, wherever it came from."""
    with regime_proto.open_trajectory(path) as one, regime_proto.open_trajectory(other) as expected:
        assert set(one.variables) == set(expected.variables)
        for name in expected.variables:
            np.testing.assert_array_equal(one[name], expected[name], err_msg=name)
        apart = ("run_id", "created", "source_fingerprint")
        assert {name: value for name, value in one.attrs.items() if name not in apart} == {
            name: value for name, value in expected.attrs.items() if name not in apart
        }


def assert_read_alike(address):
    """All states are those that were published; return their source."""
    source = open_directory(as_place(address))
    expected = [tensors for _, tensors in states()]
    for checkpoint, tensors in zip(source.checkpoints, expected, strict=True):
        found = source.read(checkpoint).tensors
        assert found.keys() == tensors.keys()
        for name, array in tensors.items():
            np.testing.assert_array_equal(found[name], array, err_msg=f"{checkpoint.path} {name}")
    return source


# ---- what is measured, fetched and kept


def test_a_published_sequence_gives_what_its_files_give(repository, hub, material, local, options):
    output = converted(**options)
    assert_measured_alike(output, local)
    whole = {WEIGHTS: len(STEPS)}
    assert {name: hub.files().count(name) for name in set(hub.files())} == whole
    assert hub.sent() == sum((material / "steps" / f"step{step}" / WEIGHTS).stat().st_size for step in STEPS)
    assert [path.name for path in Path().iterdir()] == ["run.h5"]
    hub.requests.clear()
    assert converted(**options) == output
    assert hub.sent() == 0


def test_a_published_sequence_in_parts_is_fetched_once(repository, hub, local, options):
    folder, seen = downloads_folder(Path("run.h5")).absolute(), []
    hub.watch = lambda: seen.append(on_disk_of_this_process(folder))
    assert_measured_alike(converted(output=folder.parent / "run.h5", parts=1, **options), local)
    assert hub.files().count(WEIGHTS) == len(STEPS)
    assert max(map(len, seen)) <= 3
    with pytest.raises(RegimeError, match="the first checkpoint would be downloaded again for every part"):
        converted(output="other.h5", parts=1, measure="weight_distance_l2", **options)


def test_steps_are_chosen_before_anything_is_asked_for(repository, hub):
    source = open_directory(as_place("hf://lab/net@step*")).select("10:", 2)
    assert [checkpoint.step for checkpoint in source.checkpoints] == [10, 30, 1000]
    sizes(source)
    asked = {request.path.split("/")[-1] for request in hub.requests if "/tree/" in request.path}
    # The config of the first one of all is looked for too.
    assert asked == {repository.branches[f"step{step}"] for step in (0, 10, 30, 1000)}
    assert not hub.files()


def on_disk_of_this_process(folder):
    """Return the checkpoints that take room: those in the folder, and those that are mapped still."""
    mapped = re.findall(rf"{re.escape(str(folder))}/(\w+)/", Path("/proc/self/maps").read_text())
    there = {path.parent.name for path in folder.glob(f"*/{WEIGHTS}*")} if folder.exists() else set()
    return {*mapped, *there}


@pytest.mark.parametrize("workers", [None, 1])
def test_few_checkpoints_are_on_the_disk_at_a_time(repository, hub, options, workers):
    folder, seen = downloads_folder(Path("run.h5")).absolute(), []
    hub.watch = lambda: seen.append(on_disk_of_this_process(folder))
    converted(output=folder.parent / "run.h5", workers=workers, **options)
    # The middle and the last one for the noise floor; one, the one before it, and the next.
    assert max(map(len, seen)) <= 5 - (workers == 1)
    assert not on_disk_of_this_process(folder)


def test_downloads_are_kept_where_that_is_asked_for(repository, hub, material, options):
    output = converted(keep_downloads=True, **options)
    kept = downloads_folder(output)
    assert sorted(path.name for path in kept.glob("[!.]*")) == sorted(f"step{step}" for step in STEPS)
    assert (kept / "step30" / WEIGHTS).read_bytes() == (material / "steps" / "step30" / WEIGHTS).read_bytes()
    # They are a directory like others, and are not fetched again.
    sources = [open_directory(folder) for folder in (kept, material / "steps")]
    np.testing.assert_array_equal(*(source.read(source.checkpoints[3]).tensors["a.weight"] for source in sources))
    # Nor are they removed later.
    hub.requests.clear()
    converted(overwrite=True, **options)
    assert hub.sent() == 0
    assert len(list(kept.glob("step*"))) == len(STEPS)


def test_the_first_checkpoint_tells_the_adapter(repository, hub, options):
    plan = make_plan(as_place("hf://lab/net@step*"), ConversionSettings(**options))
    assert is_remote(plan.source.root)
    assert plan.source.adapter == "folder"
    assert plan.source.step_kind == "step"
    assert str(plan.source.checkpoints[1].path) == "hf://lab/net@step10"
    assert not hub.files()


def test_models_of_transformers_by_their_tokenizer(hub, tmp_path, tmp_path_factory):
    """The program is made of the config, and of the names in the weights, which are fetched once."""
    made, folder = Repository(), tmp_path_factory.mktemp("run")
    hub.repositories["lab/gpt"] = made
    save_steps(folder, make(vocab_size=20, n_layer=1), (0, 5, 10))
    for step in (0, 5, 10):
        tokenizer_saved(folder / f"step{step}")
        others = {"generation_config.json": b"{}", "modeling_own.py": b"raise", "vocab.bin": b"x"}
        made.commit("x", files_of(folder / f"step{step}") | others, branch=f"step{step}")
    (tmp_path / "lines.txt").write_text(TEXT)
    done = regime(
        "analyze", "hf://lab/gpt@step*", "--probe-text", "lines.txt", "--embed", "all", "--json", "--resamples", 20
    )
    assert done.exit_code == 0, done.output
    # With the same program and the same probe.
    assert regime("program", "gpt.regime.h5", "-o", str(folder)).exit_code == 0
    assert_measured_alike("gpt.regime.h5", regime_proto.convert(folder, "local.h5", embed="all"))
    asked = set(hub.files())
    assert asked == {WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json"}
    whole = [request for request in hub.requests if request.path.startswith("/cdn/") and request.status == 200]
    assert len(whole) == 3
    # To see that nothing changed since, of the weights only what says their names is fetched.
    hub.requests.clear()
    first = open_directory(as_place("hf://lab/gpt@step*")).checkpoints[0]
    with on_disk(first.path, values=False) as outline:
        assert (outline / WEIGHTS).stat().st_size == (folder / "step0" / WEIGHTS).stat().st_size
        held, expected = (from_huggingface.read(path).groups[""] for path in (outline, folder / "step0"))
        assert {name: array.shape for name, array in held.items()} == {
            name: array.shape for name, array in expected.items()
        }
    assert 0 < hub.sent() < 4000


# ---- the command line


def test_inspection_and_dry_runs_fetch_no_weights(repository, hub, material, typed, tmp_path):
    total = sum((material / "steps" / f"step{step}" / WEIGHTS).stat().st_size for step in STEPS)
    inspected = regime("inspect", "hf://lab/net@step*")
    assert inspected.exit_code == 0, inspected.output
    for part in ("step1000", f"{total / 1000:.1f} kB in total", "6, by a step in the file name", "folder"):
        assert part in inspected.stdout
    gates = regime("inspect", "hf://lab/net", *typed)
    assert gates.exit_code == 0, gates.output
    assert "main" in gates.stdout
    assert "1 tracked" in gates.stdout
    foreseen = regime("analyze", "hf://lab/net@step*", *typed, "--dry-run")
    assert foreseen.exit_code == 0, foreseen.output
    assert f"dry run: would fetch 6 checkpoints at most, {total / 1000:.1f} kB" in foreseen.stderr
    assert "dry run: would write net.regime.h5 (6 observations, none measured yet" in foreseen.stderr
    assert hub.sent() == 0
    assert not list(tmp_path.iterdir())
    assert regime("analyze", "hf://lab/net@step*", *typed).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["net.regime.h5"]
    again = regime("analyze", "hf://lab/net@step*", *typed, "--dry-run")
    assert again.stderr == "dry run: would write nothing: net.regime.h5 already holds all 6 observations\n"
    # Later checkpoints are added; what would be fetched is told before.
    repository.commit("more", repository.commits[-1].files, branch="step2000")
    grown = regime("analyze", "hf://lab/net@step*", *typed, "--dry-run")
    assert "7 observations, 6 already in net.regime.h5, 1 to be added" in grown.stderr


def test_checks(repository, hub):
    checked = regime("check", "hf://lab/net@step*")
    assert checked.exit_code == 0, checked.output
    assert "nothing wrong found" in checked.stdout
    assert hub.files().count(WEIGHTS) == len(STEPS)
    # A state under two names.
    repository.branches["step50"] = repository.branches["step20"]
    checked = regime("check", "hf://lab/net@step*", "--json")
    assert checked.exit_code == 1, checked.output
    assert any(finding["rule"] == "duplicate" for finding in json.loads(checked.stdout)["findings"])


def test_a_local_directory_has_no_downloads_to_keep(material, typed, tmp_path):
    done = regime("convert", str(material / "steps"), "-o", str(tmp_path / "x.h5"), *typed, "--keep-downloads")
    assert done.exit_code == 1
    assert "not on the Hugging Face Hub; --keep-downloads applies only to hf:" in done.stderr


# ---- repositories, commits, formats


def test_repositories_that_are_numbered(hub, material, typed):
    for step in (*STEPS, 7):
        name = f"relu-{step}B" if step != 7 else "relu-instruct"
        files = files_of(material / "steps" / f"step{0 if step == 7 else step}")
        hub.repositories[f"lab/{name}"] = made = Repository()
        made.commit("x", files)
    source = assert_read_alike("hf://lab/relu-{step}B")
    assert [checkpoint.step for checkpoint in source.checkpoints] == [step * 10**9 for step in STEPS]
    assert source.step_kind == "step"
    foreseen = regime("convert", "hf://lab/relu-{step}B", "-o", "x.h5", "--dry-run", *typed)
    assert "would fetch 6 checkpoints" in foreseen.stderr


def commit_all(repository, material, titles):
    for step, title in zip(STEPS, titles, strict=True):
        repository.commit(title, files_of(material / "steps" / f"step{step}"))
        repository.commit("Update README.md", repository.commits[-1].files | {"README.md": title.encode()})


@pytest.mark.parametrize("titled", [True, False])
def test_commits_of_a_branch(hub, material, titled):
    made = hub.repositories["lab/net"] = Repository()
    made.commit("initial commit", {".gitattributes": b"x"})
    titles = [f"Training in progress, step {step}" if titled else "push [red] \x1b[31m" for step in STEPS]
    commit_all(made, material, titles)
    source = assert_read_alike("hf://lab/net@main~commits")
    assert source.step_kind == ("step" if titled else "ordinal")
    assert [one.step for one in source.checkpoints] == (list(STEPS) if titled else [1, 3, 5, 7, 9, 11])
    assert all(one.path.name.isprintable() for one in source.checkpoints)
    assert set(source.skipped_by_reason()) == {"no weights in it", "the same weights as the previous commit"}


def test_two_trainings_in_one_branch_are_told_apart_by_hand(hub, material):
    made = hub.repositories["lab/net"] = Repository()
    commit_all(made, material, [f"step {step}" for step in (1, 2, 3, 1, 2, 3)])
    with pytest.raises(RegimeError, match=r"do not rise.*'hf://lab/net@COMMIT~commits'"):
        open_directory(as_place("hf://lab/net@main~commits"))
    first = open_directory(as_place(f"hf://lab/net@{made.commits[5].sha}~commits"))
    assert [checkpoint.step for checkpoint in first.checkpoints] == [1, 2, 3]


def sharded(tensors):
    names = {name: f"model-0000{number}-of-00002.safetensors" for number, name in enumerate(tensors, start=1)}
    files = {file: save({name: tensors[name]}) for name, file in names.items()}
    return files | {"model.safetensors.index.json": json.dumps({"weight_map": names}).encode()}


def pickled(tensors, folder):
    torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, folder / "state")
    return {"pytorch_model.bin": (folder / "state").read_bytes()}


@pytest.mark.parametrize("form", ["shards", "bin"])
def test_other_forms_of_weights(hub, typed, tmp_path, tmp_path_factory, form):
    made, apart = Repository(), tmp_path_factory.mktemp("states")
    hub.repositories["lab/net"] = made
    for step, tensors in states():
        files = sharded(tensors) if form == "shards" else pickled(tensors, apart)
        made.commit("x", {"optimizer.bin": b"z" * 20000, **files}, branch=f"step{step}")
    foreseen = regime("convert", "hf://lab/net@step*", "-o", "x.h5", "--dry-run", *typed)
    assert foreseen.exit_code == 0, foreseen.output
    assert "dry run: would fetch 6 checkpoints" in foreseen.stderr
    assert hub.sent() == 0
    assert_read_alike("hf://lab/net@step*")
    assert set(hub.files()) == set(files)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin", "model.fp16.safetensors"], ["model.safetensors"]),
        (
            ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"],
            ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
        ),
        (["optimizer.safetensors", "weights.safetensors", "training_args.bin"], ["weights.safetensors"]),
        (["optimizer.bin", "training_args.bin", "tf_model.h5", "flax_model.msgpack", "model.onnx", "x.py"], []),
        (["sub/model.safetensors"], []),
        (["a.safetensors", "b.safetensors"], []),
    ],
)
def test_what_counts_as_weights(names, expected):
    assert list(weights_among(names)) == expected


# ---- what goes wrong on the way


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ([Fault("/cdn/", 2, status=500)], None),
        ([Fault("/refs", 1, status=503)], None),
        ([Fault("/tree/", 1, status=429, headers={"Retry_After": "0"})], "limits requests: waiting"),
        ([Fault("/resolve/", 1, status=429, headers={"RateLimit": '"resolvers";r=0;t=0'})], "limits requests: waiting"),
        ([Fault("/cdn/", 3, cut=20_000)], None),
        ([Fault("/cdn/", 1, flip=True)], None),
    ],
    ids=["500", "503", "429", "429 of files", "cut", "spoiled"],
)
def test_what_passes_is_waited_for(repository, hub, faults, said, recwarn):
    hub.faults += faults
    assert_read_alike("hf://lab/net@step*")
    assert all(fault.times == 0 for fault in faults)
    found = [str(warning.message) for warning in recwarn]
    assert [said in message for message in found] == ([True] if said else [])
    if faults[0].cut:
        # What came is not sent again.
        assert hub.sent() == sum(len(commit.files[WEIGHTS]) for commit in repository.commits)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("/cdn/", 99, status=500), "the Hub answers 500, even after retries"),
        (Fault("/cdn/", 99, status=429, headers={"Retry_After": "0"}), r"limits requests \(429\) after several waits"),
        (Fault("/cdn/", 99, cut=0), r"cannot be reached \(\w+\); run the same command once it is"),
        (Fault("/cdn/", 99, flip=True), "arrived twice with content different from the Hub's listing"),
        (Fault("/resolve/", 99, status=403), r"access is restricted \(403\)"),
    ],
    ids=["500", "429", "cut", "spoiled", "403"],
)
def test_what_does_not_pass_is_one_line(repository, hub, typed, fault, message):
    hub.faults.append(fault)
    failed = regime("convert", "hf://lab/net@step*", "-o", "run.h5", *typed, "--quiet")
    assert failed.exit_code == 1, failed.output
    assert re.search(message, failed.stderr), failed.stderr
    assert len(failed.stderr.splitlines()) == 1, failed.stderr
    assert "nothing was written to run.h5 (downloads are kept in run.h5.downloads; " in failed.stderr
    assert "X-Signature" not in failed.output


# What a kill leaves, an interruption leaves too.
@pytest.mark.parametrize("sign", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_an_interrupted_conversion_goes_on(repository, hub, material, local, typed, tmp_path, sign):
    command = ["convert", "hf://lab/net@step*", "-o", "run.h5", *typed, "--workers", "1"]
    last = repository.find("step100").files[WEIGHTS]

    def watch():
        # The noise floor takes the first, the middle and the last one; then the others come.
        if repository.branches["step100"] in hub.requests[-1].path and not hub.faults:
            hub.faults += [Fault("/cdn/", 1, cut=len(last) // 2), Fault("/cdn/", 99, status=503)]

    hub.watch = watch
    process = children.start_regime(*command)
    process.wait_for(lambda: any(request.status == 503 for request in hub.requests))
    process.send_signal(sign)
    said = process.wait(60).stderr
    hub.watch = lambda: None
    hub.faults.clear()
    downloads = downloads_folder(tmp_path / "run.h5")
    assert downloads.is_dir(), said
    if sign == signal.SIGINT:
        assert process.returncode == 130, said
        [line] = said.splitlines()
        assert "resume with `regime convert 'hf://lab/net@step*' -o run.h5" in line
        assert "downloads are kept in run.h5.downloads" in line
        assert kept_observations(tmp_path / "run.h5") == 4
    part = downloads / "step100" / f"{WEIGHTS}.part"
    held = part.stat().st_size
    assert 0 < held < len(last)
    hub.requests.clear()
    assert regime(*command).exit_code == 0
    assert_measured_alike(tmp_path / "run.h5", local)
    # Some goes on where it was cut, and what is on the disk is not fetched again.
    assert f"bytes={held}-" in [request.headers.get("Range") for request in hub.requests]
    assert [path.name for path in tmp_path.iterdir()] == ["run.h5"]


def limit_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))


def test_a_disk_that_is_full(repository, hub, typed, tmp_path):
    """Told before the download where the system knows; else what was observed is kept."""
    repository.sizes[WEIGHTS] = 10**18
    done = regime("convert", "hf://lab/net@step*", "-o", "run.h5", *typed)
    assert done.exit_code == 1
    assert re.search(r"run.h5.downloads: 1,000,000,000,000,000,000 bytes of hf://lab/net@\w+ do not fit", done.stderr)
    assert "write the output to another disk with -o" in done.stderr
    repository.sizes.clear()
    larger = save({**dict(states())[100], "c.weight": np.zeros(10**6, np.float32)})
    repository.commit("large", {WEIGHTS: larger}, branch="step100")
    command = ["convert", "hf://lab/net@step*", "-o", "run.h5", *typed, "--workers", "1"]
    done = children.run_regime(*command, prepare=limit_files)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "run.h5.downloads: cannot be written (File too large); free some space there" in line
    assert "4 of 6 observations are kept in run.h5.segments; resume with `regime convert" in line


def test_a_branch_that_moved(repository, hub, options, local):
    output = converted(**options)
    files = repository.find("step20").files
    moved = save({name: array + 1 for name, array in dict(states())[20].items()})
    repository.commit("another", files | {WEIGHTS: moved}, branch="step20")
    with pytest.raises(RegimeError, match="converted from different checkpoints"):
        converted(**options)
    assert_measured_alike(output, local)


def test_a_branch_that_moved_after_an_interruption(repository, hub, options):
    class Stop(Exception):
        pass

    def stop(done, total):
        if done == 4:
            raise Stop

    with pytest.raises(Stop):
        converted(progress=stop, **options)
    kept = downloads_folder(Path("run.h5"))
    assert kept.is_dir()
    repository.commit("another", repository.find("step30").files, branch="step20")
    with pytest.raises(RegimeError, match=r"run\.h5"):
        converted(**options)
    # What was downloaded of the commit before is not taken for the new one.
    with regime_proto.open_trajectory(converted(overwrite=True, **options)) as trajectory:
        assert trajectory["weight_delta_l1"][3, 0] == 0


def test_two_processes_keep_their_downloads_apart(repository, hub, tmp_path):
    with downloading(as_place("hf://lab/net@step*"), tmp_path / "run.h5") as place:
        read_first(place)
        other = downloading(as_place("hf://lab/net@step*"), tmp_path / "run.h5")
        with other as found, pytest.raises(RegimeError, match="another process downloads into this folder"):
            read_first(found)
    assert not list(tmp_path.iterdir())


def read_first(place):
    source = open_directory(place)
    source.read(source.checkpoints[0])


def read_first_and_fail(output):
    with downloading(as_place("hf://lab/net@step*"), output) as place:
        read_first(place)
        raise ValueError("over")


def test_after_an_error_the_next_call_takes_up_what_is_there(repository, hub, tmp_path):
    with pytest.raises(ValueError, match="over"):
        read_first_and_fail(tmp_path / "run.h5")
    hub.requests.clear()
    with downloading(as_place("hf://lab/net@step*"), tmp_path / "run.h5") as place:
        read_first(place)
    assert not hub.files()
    assert not list(tmp_path.iterdir())


def test_a_sequence_that_grows_is_followed(repository, hub, local, options):
    late = [repository.branches.pop(name) for name in ("step100", "step1000")]

    def grown(plan, done):
        if late:
            repository.branches |= {"step1000": late.pop(), "step100": late.pop()}
            return grown_plan(plan, seconds=0.01)
        return None

    with downloading(as_place("hf://lab/net@step*"), Path("run.h5")) as place:
        run_plan(make_plan(place, ConversionSettings(**options)), Path("run.h5"), grown=grown)
    with regime_proto.open_trajectory("run.h5") as one, regime_proto.open_trajectory(local) as other:
        np.testing.assert_array_equal(one["flips"], other["flips"])
    assert hub.files().count(WEIGHTS) == len(STEPS)
    assert [path.name for path in Path().iterdir()] == ["run.h5"]


# ---- access, names, installation


def test_a_gated_repository(repository, hub, typed, monkeypatch, tmp_path):
    repository.gated = True
    refused = regime("analyze", "hf://lab/net@step*", *typed)
    assert refused.exit_code == 1
    assert "hf://lab/net: access is restricted (401); accept its terms at http" in refused.stderr
    assert "/lab/net, then `hf auth login` or set HF_TOKEN" in refused.stderr
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = regime("analyze", "hf://lab/net@step*", *typed, "-v")
    assert done.exit_code == 0, done.output
    assert TOKEN not in done.output
    assert TOKEN.encode() not in (tmp_path / "net.regime.h5").read_bytes()
    elsewhere = [request.headers for request in hub.requests if request.path.startswith("/cdn/")]
    assert elsewhere
    assert all("Authorization" not in headers for headers in elsewhere)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "hf://lab/nett@step*",
            r"hf://lab/nett: no such repository, or a private one, .*; did you mean hf://lab/net\?",
        ),
        (
            "hf://lba/net@step*",
            r"hf://lba/net: no such repository, or a private one, which needs `hf auth login`",
        ),
        (
            "hf://lab/net@stage*",
            r"'hf://lab/net@stage\*': no branch or tag matches; existing ones: main, step0, step10",
        ),
        ("hf://lab/net@mai?", r"none of the matching names holds a number \(main\)"),
        ("hf://lab/net@step1000*", r"one checkpoint \(step1000\) to analyze"),
        ("hf://lab/net@nosuch~commits", r"hf://lab/net: no revision 'nosuch'"),
        ("hf://lab/nut-{step}", r"no repository of lab matches; existing ones: none"),
        ("hf://lab/n{step}@step*", r"a pattern in the repository together with"),
        ("hf://lab/net@{steps}", r"not a pattern; expected 'hf://ORG/NAME@GLOB'"),
    ],
)
def test_addresses_of_nothing(repository, hub, typed, address, message):
    done = regime("analyze", address, *typed)
    assert done.exit_code == 1
    assert re.search(message, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) == 1 or "skipped" in done.stderr
    assert hub.sent() == 0


def test_without_weights_that_can_be_read(hub, typed):
    made = hub.repositories["lab/net"] = Repository()
    for step in (1, 2):
        made.commit("x", {"tf_model.h5": b"x" * 100, "own.py": b""}, branch=f"step{step}")
    done = regime("analyze", "hf://lab/net@step*", *typed)
    assert "no readable weights in step1; expected model.safetensors or pytorch_model.bin" in done.stderr


def test_a_revision_without_weights(repository, hub, typed):
    repository.commit("empty", {"README.md": b"later"}, branch="step50")
    done = regime("convert", "hf://lab/net@step*", "-o", "run.h5", *typed)
    assert done.exit_code == 1
    assert "hf://lab/net@step50: no weights in a readable format; leave it out with --steps or" in done.stderr
    made = hub.repositories["lab/empty"] = Repository()
    made.commit("initial commit", {"README.md": b"x"})
    done = regime("check", "hf://lab/empty@main~commits")
    assert done.exit_code == 2
    assert "'hf://lab/empty@main~commits': no commit with readable weights; expected" in done.stderr


def test_without_network(hub, typed, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    done = regime("analyze", "hf://lab/net@step*", *typed)
    assert done.exit_code == 1
    assert "hf://lab/net: the Hub at http://127.0.0.1:9 cannot be reached (ConnectError)" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = regime("analyze", "hf://lab/net@step*", *typed)
    assert "HF_HUB_OFFLINE is set; unset it" in done.stderr


def test_without_the_client_it_says_what_to_install():
    code = (
        "import sys\nsys.modules['huggingface_hub'] = None\nfrom regime_proto.cli.main import main\n"
        "main(['analyze', 'hf://lab/net@step*'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        'hf://lab/net@step*: reading from the Hugging Face Hub needs huggingface_hub: pip install "regime-proto[hub]"'
        in done.stderr
    )


def test_other_addresses_of_the_hub_are_left_to_fsspec(repository, hub, monkeypatch):
    for address in ("hf://lab/net@main", "hf://lab/net@main/checkpoints", "hf://datasets/lab/net", "hf://lab/net/sub"):
        assert parse(address) is None
    assert str(as_place("hf://lab/net")) == "hf://lab/net@*"
    for name in [name for name in repository.branches if name != "main"]:
        del repository.branches[name]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    # One revision is a folder.
    folder = as_place("hf://lab/net")
    assert is_remote(folder)
    assert not is_published(folder)


# ---- the names of sequences that are published

PUBLISHED = {
    "hf://EleutherAI/pythia-70m@step*": ["step0", "step1", "step2", "step512", "step1000", "step10000", "step143000"],
    "hf://allenai/OLMo-1B-hf@step*": [
        "step0-tokens0B", "step1000-tokens4B", "step20000-tokens84B", "step738020-tokens3094B",
    ],
    "hf://allenai/OLMo-2-1124-7B@stage1-*": [
        "stage1-step150-tokens1B", "stage1-step600-tokens3B", "stage1-step928646-tokens3896B",
    ],
    "hf://bigscience/bloom-560m-intermediate@global_step*": [
        "global_step1000", "global_step10000", "global_step100000", "global_step300000",
    ],
    "hf://HuggingFaceTB/SmolLM2-135M-intermediate-checkpoints@step-*": ["step-80000", "step-160000", "step-1200000"],
    "hf://HuggingFaceTB/SmolLM3-3B-checkpoints@stage1-step-*": ["stage1-step-40000", "stage1-step-3440000"],
    "hf://LLM360/Amber@ckpt_*": ["ckpt_000", "ckpt_001", "ckpt_010", "ckpt_358"],
    "hf://google/multiberts-seed_0-step_{step}k": [
        "multiberts-seed_0-step_0k", "multiberts-seed_0-step_20k", "multiberts-seed_0-step_100k",
        "multiberts-seed_0-step_2000k",
    ],
    "hf://SparseLLM/relu-{step}B": ["relu-5B", "relu-10B", "relu-50B", "relu-100B"],
}  # fmt: skip


@pytest.mark.parametrize("address", PUBLISHED)
def test_the_order_of_published_sequences(hub, address):
    expected, parsed = PUBLISHED[address], parse(address)
    files = {WEIGHTS: save({"a": np.zeros(2, np.float32)})}
    shuffled = sorted(expected, key=lambda name: name[::-1])
    main = hub.repositories[parsed.repository] = Repository()
    main.commit("x", files)
    for name in shuffled:
        if parsed.is_family:
            hub.repositories[f"{parsed.owner}/{name}"] = main
        else:
            main.branches[name] = main.branches["main"]
    if parsed.is_family:
        del hub.repositories[parsed.repository]
    source = open_directory(as_place(address))
    assert [checkpoint.path.name for checkpoint in source.checkpoints] == expected
    steps = [checkpoint.step for checkpoint in source.checkpoints]
    assert steps == sorted(set(steps))


def test_stages_of_a_training_are_not_one_sequence(hub):
    made = hub.repositories["allenai/OLMo-2-1124-7B"] = Repository()
    sha = made.commit("x", {WEIGHTS: save({"a": np.zeros(2, np.float32)})})
    names = ["stage1-step1000-tokens5B", "stage1-step2000-tokens9B", "stage2-ingredient1-step1000-tokens5B"]
    made.branches |= dict.fromkeys(names, sha)
    with pytest.raises(RegimeError, match=r"'hf://allenai/OLMo-2-1124-7B@\*': .*step1000"):
        open_directory(as_place("hf://allenai/OLMo-2-1124-7B@*"))
    with pytest.raises(RegimeError, match=r"stage1-step1000-\S+ and stage2-\S+-step1000-\S+ both have step"):
        open_directory(as_place("hf://allenai/OLMo-2-1124-7B@*step{step}-*"))
    source = open_directory(as_place("hf://allenai/OLMo-2-1124-7B@stage1-step{step}-*"))
    assert [checkpoint.step for checkpoint in source.checkpoints] == [1000, 2000]
    assert source.step_kind == "step"
