"""Folders of transformers: its Trainer's, its models against hooks in torch, its tokenizers; and what is refused."""

import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import children
import numpy as np
import oracle
import pytest
import torch
import transformers
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from transformers_models import GPT2, IDS, MODELS, TEXT, make, save_steps, tokenizer_saved

import regime_proto
from regime_proto.adapters.from_huggingface import adapter as from_huggingface
from regime_proto.adapters.from_huggingface import tensor_names, trainer_state
from regime_proto.adapters.from_torch import exporter
from regime_proto.checkpoints.payload import Incomplete, state_of
from regime_proto.cli.main import main
from regime_proto.plugins.open_directory import open_directory
from regime_proto.plugins.registry import exporter_for
from regime_proto.program.gates import find_gates
from regime_proto.program.probe import COUNTED, as_probe
from regime_proto.schema.epochs import from_epochs
from regime_proto.schema.errors import RegimeError, RegimeWarning

transformers.utils.logging.disable_progress_bar()
logging.getLogger("transformers").setLevel(logging.ERROR)


SAFE = "model.safetensors"


# Decoders, encoders and convolutions of other makes than those of the rest.
ALIKE = ("opt", "roberta", "swin", "pvt", "efficientnet")


@pytest.fixture
def steps(tmp_path):
    save_steps(tmp_path / "run", make(vocab_size=20, n_layer=1))
    tokenizer_saved(tmp_path / "run", eos_token="<eos>")
    np.savez(tmp_path / "probe.npz", input_ids=IDS % 20)
    return tmp_path / "run"


def make_model():
    """A model for ``--model``: it returns its keys and values, as transformers' models do by themselves."""
    return make()


@cache
def program_of_plain():
    with tempfile.TemporaryDirectory() as folder:
        make(vocab_size=20, n_layer=1).save_pretrained(folder)
        return from_huggingface.program_of(Path(folder), as_probe({"input_ids": IDS % 20}))


def bound(folder, program):
    """Return the weights of a folder as a program takes them."""
    return program.bind(state_of(from_huggingface.read(folder), str(folder)), str(folder))


# ---- models against hooks


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in MODELS]
)
def test_the_whole_conversion_against_hooks(tmp_path, name):
    kind, _, probe, axis = MODELS[name]
    save_steps(tmp_path / "run", trained := make(name))
    # As torch saves it: with tied weights under every name, and without the names that save_pretrained changes.
    (tmp_path / "run" / "step2" / SAFE).unlink()
    torch.save(trained.state_dict(), tmp_path / "run" / "step2" / "pytorch_model.bin")
    regime_proto.convert(tmp_path / "run", tmp_path / "run.h5", probe=probe)
    inputs = {key: torch.from_numpy(array) for key, array in probe.items() if key != COUNTED}
    states, activations = [], []
    for step in range(3):
        model = getattr(transformers, kind).from_pretrained(
            tmp_path / "run" / f"step{step}", attn_implementation="eager"
        )
        states.append(dict(model.eval().named_parameters()))
        with oracle.Recorder() as recorder, torch.no_grad():
            model(**inputs)
        activations.append([np.moveaxis(z.numpy(), axis, 0) for z in recorder.activations])
    counted = probe.get(COUNTED, np.ones((4, 1), bool))[..., None]

    def total(units):
        return (units.reshape(4, counted.shape[1], -1) & counted).sum(axis=(1, 2))

    with regime_proto.open_trajectory(tmp_path / "run.h5") as trajectory:
        assert trajectory["layer_size"].values.tolist() == [z.size // 4 for z in activations[0]]
        names = trajectory["tensor"].values.tolist()
        assert names == list(states[0])
        for row, (before, after) in enumerate(itertools.pairwise(states), start=1):
            l1, _ = oracle.weight_deltas(names, before, after)
            np.testing.assert_allclose(trajectory["weight_delta_l1"][row], l1, rtol=1e-7)
        for row, (before, after) in enumerate(itertools.pairwise(activations), start=1):
            found, changed = trajectory["flips"].values[row].astype(int), 0
            for layer, (a, b) in enumerate(zip(before, after, strict=True)):
                expected = total((a > 0) != (b > 0))
                changed += expected.sum()
                doubtful = total(oracle.near_zero(a) | oracle.near_zero(b))
                assert np.all(np.abs(found[layer] - expected) <= doubtful)
            assert changed > 10


def test_a_model_of_the_users_own(tmp_path):
    """Its outputs hold keys and values to use again; `save_pretrained` may give its weights other names."""
    model = make(n_layer=1)
    program = exporter_for(model).export(model, as_probe({"input_ids": IDS}))
    assert len(find_gates(program)) == 1
    assert program.framework["transformers"] == transformers.__version__
    assert model.training
    assert model.config.use_cache
    model = make("vit")
    model.save_pretrained(tmp_path)
    names = tensor_names.saved_names(model)
    assert {*names} <= {*model.state_dict()}
    assert {name for name in model.state_dict() if name not in names} | {
        saved for other in names.values() for saved in other
    } == {*load_file(tmp_path / SAFE)}


def test_weights_in_another_layout(tmp_path):
    """The experts of a mixture, which transformers puts together when it loads them."""
    sizes = {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    config = transformers.MixtralConfig(**sizes, num_key_value_heads=2, num_local_experts=2, vocab_size=20)
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(
        RegimeError, match=r"experts.0.w1.weight' has a different layout from the one in MixtralForCausalLM"
    ):
        from_huggingface.program_of(tmp_path, as_probe({"input_ids": IDS % 20}))


def test_a_module_around_a_model_of_transformers():
    """What the exporter of torch does not know among the outputs is left out."""
    inner = make(n_layer=1)

    class Around(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, tokens):
            return {"scores": self.inner(tokens), "by": self}

    model = Around()
    program = exporter_for(model).export(model, as_probe({"tokens": IDS}))
    assert [gate.path for gate in find_gates(program)] == ["inner.transformer.h.0.mlp.act"]
    assert "forward" not in vars(model)
    assert isinstance(model(torch.from_numpy(IDS))["by"], Around)


# ---- what a folder may look like


@pytest.mark.parametrize(
    "how",
    [
        {"max_shard_size": "5kB"},
        {"bfloat16": True},
        {"bin": True},
        {"bin": True, "max_shard_size": "5kB"},
        {"without_head": True},
    ],
    ids=str,
)
def test_ways_to_save(tmp_path, how):
    model = make(vocab_size=20, n_layer=1)
    program = program_of_plain()
    if "bfloat16" in how:
        model = model.bfloat16()
    expected = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    if "without_head" in how:
        # As the published GPT-2 is: with names of the part without head, and buffers that are no longer in use.
        model.save_pretrained(tmp_path)
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(tmp_path / SAFE).items()}
        tensors |= {"h.0.attn.bias": torch.ones(1, 1, 4, 4), "position_ids": torch.arange(4)}
        save_file(tensors, tmp_path / SAFE)
        program = from_huggingface.program_of(tmp_path, as_probe({"input_ids": IDS % 20}))
    elif "bin" in how and "max_shard_size" in how:
        model.config.architectures = ["GPT2LMHeadModel"]
        model.config.save_pretrained(tmp_path)
        names = list(model.state_dict())
        places = {name: f"pytorch_model-0000{1 + index % 2}-of-00002.bin" for index, name in enumerate(names)}
        for place in set(places.values()):
            torch.save({name: model.state_dict()[name] for name in names if places[name] == place}, tmp_path / place)
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    elif "bin" in how:
        model.config.architectures = ["GPT2LMHeadModel"]
        model.config.save_pretrained(tmp_path)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    else:
        model.save_pretrained(tmp_path, **how)
    shards = len(list(tmp_path.glob("*-of-*")))
    assert (shards > 1) == ("max_shard_size" in how)
    assert "GPT2LMHeadModel" in from_huggingface.recognise(tmp_path)
    found = bound(tmp_path, program)
    unused = {name for name in ("h.0.attn.bias", "position_ids") if found.pop(name, None) is not None}
    assert bool(unused) == ("without_head" in how)
    assert len(found) == len(expected) - 1, "the head is tied to the embedding"
    for name, array in found.items():
        np.testing.assert_array_equal(array.astype(np.float32), expected[name])


def test_revisions_in_folders_by_step(tmp_path):
    save_steps(tmp_path, make(), steps=(0, 1000, 512))
    source = open_directory(tmp_path)
    assert (source.adapter, source.step_kind) == ("huggingface", "step")
    assert [checkpoint.step for checkpoint in source.checkpoints] == [0, 512, 1000]
    assert source.recognised == "config.json (GPT2LMHeadModel) next to model.safetensors"


def test_folders_without_a_config_are_plain_folders(tmp_path):
    save_steps(tmp_path, make())
    for file in tmp_path.rglob("config.json"):
        file.write_text("{}")
    assert open_directory(tmp_path).adapter == "folder"


# ---- the Trainer


class Corpus(torch.utils.data.Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        tokens = torch.randint(2, 14, (8,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "labels": tokens}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The output directory of a Trainer: eight steps in two epochs. Read only."""
    root = tmp_path_factory.mktemp("trainer") / "out"
    tokenizer = tokenizer_saved(tmp_path_factory.mktemp("tokenizer"), eos_token="<eos>", pad_token="<eos>")
    settings = transformers.TrainingArguments(
        str(root), per_device_train_batch_size=4, num_train_epochs=2, save_steps=1, logging_steps=2,
        eval_strategy="steps", eval_steps=2, report_to=[], disable_tqdm=True, use_cpu=True, seed=0,
        learning_rate=1e-2, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = transformers.Trainer(
        make(vocab_size=20, n_layer=1), settings, train_dataset=Corpus(), eval_dataset=Corpus(),
        processing_class=tokenizer, data_collator=transformers.default_data_collator,
        compute_metrics=lambda predicted: {"accuracy": float((predicted[0].argmax(-1) == predicted[1]).mean())},
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    return root, trainer.state.log_history


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "probe.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_a_run_of_the_trainer(tmp_path, trained, text):
    root, history = trained
    path = regime_proto.convert(root, tmp_path / "run.h5", probe_text=text)
    with regime_proto.open_trajectory(path) as trajectory:
        assert trajectory["step"].values.tolist() == list(range(1, 9))
        assert trajectory["epoch"].values.tolist() == [step / 4 for step in range(1, 9)]
        assert from_epochs(trajectory["epoch"].values) == 4
        logged = {entry["step"]: entry for entry in history if "loss" in entry}
        scored = {entry["step"]: entry for entry in history if "eval_loss" in entry}
        assert set(logged) == set(scored) == {2, 4, 6, 8}
        for name, entries in {
            "loss": logged, "learning_rate": logged, "grad_norm": logged, "eval_loss": scored, "eval_accuracy": scored,
        }.items():  # fmt: skip
            found = trajectory[f"metric_{name}"].values
            assert np.isnan(found[0])
            assert found[1:].tolist() == [entries[step - step % 2][name] for step in range(2, 9)]
        # Four, two and six words: padding does not count.
        assert (trajectory["flips"].values <= np.array([4, 2, 6]) * 4 * GPT2["n_embd"]).all()
        assert trajectory["flips"].values[1:].sum(axis=1).any()
    result = regime_proto.analyze(path, resamples=0)
    assert result.window == 1
    assert not [warning for warning in result.warnings if "epoch" in warning]


OFFLINE = """
import socket, sys
def refused(*_, **__):
    raise AssertionError("the network was used")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refused
from regime_proto.cli.main import main
main()
"""


def test_nothing_is_fetched_kept_or_said(tmp_path, trained, text):
    """In a process with a home of its own, as on a user's machine."""
    home = tmp_path / "home"
    home.mkdir()
    left = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_", "TRANSFORMERS_"))}
    call = ("analyze", trained[0], "--probe-text", text, "-o", "run.h5", "--resamples", "0")
    done = children.run(OFFLINE, *call, cwd=tmp_path, env={**left, "HOME": str(home)})
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert [line.split()[0] for line in said] == ["skipped", "wrote", "warning:"], done.stderr
    kept = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    # The second is ONNX Runtime's, which keeps a number for its machine.
    assert all(path.startswith((".cache/regime-proto/", ".cache/Microsoft/")) for path in kept), kept


def test_a_checkpoint_that_is_still_being_written(tmp_path, trained):
    root = shutil.copytree(trained[0], tmp_path / "out")
    last = root / "checkpoint-8"
    (last / trainer_state.FILE_NAME).unlink()
    with pytest.raises(Incomplete, match=r"checkpoint-8: incomplete .trainer_state.json, which is written last"):
        from_huggingface.peek(last)
    with pytest.warns(RegimeWarning, match="checkpoint-8: incomplete .*left out"):
        assert len(open_directory(root).checkpoints) == 7
    (last / trainer_state.FILE_NAME).write_text('{"epoch": 1.0, ')
    with pytest.warns(RegimeWarning, match=r"trainer_state.json: incomplete .*left out"):
        assert len(open_directory(root).checkpoints) == 7
    for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (last / name).unlink()
    with pytest.warns(RegimeWarning, match="checkpoint-8: incomplete"):
        assert len(open_directory(root).checkpoints) == 7
    # Alone, as it is when it was fetched from another machine.
    alone = shutil.copytree(trained[0] / "checkpoint-8", tmp_path / "apart" / "checkpoint-8")
    (alone / trainer_state.FILE_NAME).unlink()
    with pytest.raises(Incomplete):
        from_huggingface.peek(alone)


def test_checkpoints_that_were_published_without_the_trainers_files(tmp_path, trained):
    """The names count steps, by the Trainer's convention."""
    root = shutil.copytree(trained[0], tmp_path / "out")
    for file in root.rglob(trainer_state.FILE_NAME):
        file.unlink()
    source = open_directory(root)
    assert source.step_kind == "step"
    assert [checkpoint.step for checkpoint in source.checkpoints] == list(range(1, 9))


def test_scores_after_a_step_are_not_of_it(tmp_path):
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    history = [
        {"step": 1, "epoch": 0.5, "loss": 3.0, "note": "text"}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 1.0}, 7,
    ]  # fmt: skip
    state = {"global_step": 2, "epoch": 1.0, "log_history": history}
    (folder / trainer_state.FILE_NAME).write_text(json.dumps(state))
    assert trainer_state.facts(folder) == {"loss": 2.0, "step": 2.0, "epoch": 1.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "incomplete"), ("[1]", "incomplete"), ('{"epoch": 1', "incomplete")],
    ids=["empty", "list", "cut off"],
)  # fmt: skip
def test_a_damaged_state_of_the_trainer(tmp_path, content, message):
    (tmp_path / trainer_state.FILE_NAME).write_text(content)
    with pytest.raises(RegimeError, match=f"trainer_state.json: damaged.*{message}"):
        trainer_state.facts(tmp_path)
    for extra in ({"epoch": 10**400}, {"log_history": 3}, {"log_history": [None, {"step": "x"}]}, {}):
        (tmp_path / trainer_state.FILE_NAME).write_text(json.dumps(extra))
        assert trainer_state.facts(tmp_path) == {}


# ---- text


@pytest.mark.parametrize("name", ["gpt2", "roberta", "xlnet", "t5"])
def test_a_probe_of_text(tmp_path, name):
    make(name).save_pretrained(tmp_path / "step1")
    # In the folder above, as save_model leaves it.
    tokenizer_saved(tmp_path, eos_token="<eos>")
    lines = ["the quick brown fox", "dog runs", "zebra"]
    probe = from_huggingface.tokenize(tmp_path / "step1", lines, "lines")
    arrays = dict(zip(probe.names, probe.arrays, strict=True))
    assert arrays["input_ids"].tolist() == [[2, 3, 4, 5], [7, 8, 1, 1], [0, 1, 1, 1]]
    assert arrays["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]
    assert arrays[COUNTED].dtype == bool
    assert (arrays[COUNTED] == (arrays["attention_mask"] == 1)).all()
    if name == "t5":
        assert arrays["decoder_input_ids"].tolist() == [[0, 2, 3, 4], [0, 7, 8, 1], [0, 0, 1, 1]]
    expected = {"input_ids", "attention_mask", COUNTED} | ({"decoder_input_ids"} if name == "t5" else set())
    assert set(arrays) - {"token_type_ids"} == expected


@pytest.mark.slow
def test_a_probe_of_text_fits_a_decoder(tmp_path):
    make("t5").save_pretrained(tmp_path)
    tokenizer_saved(tmp_path, eos_token="<eos>")
    program = from_huggingface.program_of(tmp_path, from_huggingface.tokenize(tmp_path, ["the fox", "dog"], "lines"))
    assert "decoder_input_ids" in program.probe_inputs


@pytest.mark.parametrize(("positions", "length"), [(32, 32), (300, 128)])
def test_long_lines_are_cut(tmp_path, positions, length):
    make(n_positions=positions).save_pretrained(tmp_path)
    tokenizer_saved(tmp_path, eos_token="<eos>")
    probe = from_huggingface.tokenize(tmp_path, ["cat " * 400, "dog"], "lines")
    assert probe.arrays[0].shape == (2, length)


# ---- what is refused


def refused(*arguments):
    """Return the one line in which the command says what is wrong."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="regime")
    assert result.exit_code == 1, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "Traceback" not in result.output
    return lines[0]


CODE = "open('pwned', 'w')\nfrom transformers import GPT2Config as C, GPT2LMHeadModel as M\n"


def test_a_model_that_is_wrapped_is_one_of_transformers():
    wrapped = torch.nn.DataParallel(make(n_layer=1))
    exporter = exporter_for(wrapped)
    assert exporter is from_huggingface
    program = exporter.export(wrapped, as_probe({"input_ids": IDS}))
    assert "transformers" in program.framework
    assert "transformer.h.0.mlp.c_fc.weight" in {tensor.name for tensor in program.trainable}


BUILDING = """
import sys
from pathlib import Path
from types import SimpleNamespace
from regime_proto.adapters.from_huggingface.model import build

def taken():
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))

folder = Path(sys.argv[1])
held = {"all": SimpleNamespace(size=10**8)}
build(folder / "small", held)
before = taken()
model = build(folder / "large", held)
# To be read takes none either.
sums = [float(parameter.detach().sum()) for parameter in model.parameters() if parameter.ndim > 1]
print(sum(parameter.nbytes for parameter in model.parameters()), taken() - before, max(map(abs, sums)))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_model_is_built_without_memory_for_its_weights(tmp_path):
    for name, width in (("small", 16), ("large", 1024)):
        (tmp_path / name).mkdir()
        config = {**GPT2, "n_embd": width, "vocab_size": 20_000, "model_type": "gpt2"}
        (tmp_path / name / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2LMHeadModel"]}))
    weights, taken, largest = map(float, children.run(BUILDING, tmp_path).stdout.split())
    assert weights > 150e6
    assert taken < weights / 5
    assert largest == 0


def test_a_large_model_is_tried_by_its_shapes_and_exported_alike(monkeypatch, caplog):
    expected = from_huggingface.export(make(), as_probe({"input_ids": IDS}))
    monkeypatch.setattr(exporter, "_LARGE", 0)
    assert from_huggingface.export(make(), as_probe({"input_ids": IDS})).sha256 == expected.sha256
    with pytest.raises(RegimeError, match="the model fails on the probe"):
        from_huggingface.export(make(), as_probe({"input_ids": IDS.astype(np.float32)}))
    with pytest.raises(RegimeError, match="broadcast a dimension of length 5"):
        from_huggingface.export(make(), as_probe({"input_ids": IDS, "attention_mask": np.ones((4, 5), np.int64)}))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}, "its own code .auto_map.,"),
        ({"auto_map": {"AutoConfig": "own.C"}, "model_type": "own"}, "its own code .auto_map., which is not run"),
        ({"model_type": "own"}, "transformers 5.* has no model_type 'own'; pass a function that builds .*: --model"),
        ({"architectures": ["OwnModel"]}, "has no model 'OwnModel'; .* --model"),
        ({"architectures": ["pipeline"]}, "has no model 'pipeline'"),
        ({"architectures": {"x": 1}}, "config.json: .*; .* --model"),
        ({"architectures": [["x"]]}, "config.json: .*; .* --model"),
        ({"architectures": ["BertModel"]}, "BertModel is not a model of type 'gpt2'"),
        ({"n_embd": "wide"}, "config.json: .*; .* --model"),
        ({"n_head": 7}, "config.json: .*; .* --model"),
        ({"n_embd": 32}, "step0: .* expects .*different model"),
        pytest.param({"n_layer": 2}, "12 tensors missing", marks=pytest.mark.slow),
    ],
    ids=str,
)  # fmt: skip
def test_configs_that_no_model_is_built_from(steps, monkeypatch, changes, message):
    monkeypatch.chdir(steps.parent)
    for folder in steps.glob("step*"):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        (folder / "own.py").write_text(CODE)
    with pytest.raises(RegimeError, match=message):
        regime_proto.convert(steps, "run.h5", probe="probe.npz")
    assert not list(steps.parent.rglob("pwned"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"auto_map": {"AutoTokenizer": ["own.T", None]}}, "tokenizer_config.json: requires its own code"),
        ({"auto_map": {"AutoTokenizer": ["own.T", None]}, "tokenizer_class": "T"}, "requires its own code"),
    ],
    ids=["auto_map", "and a class"],
)
def test_a_tokenizer_with_code_of_its_own(steps, text, settings, message):
    file = steps / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    (steps / "own.py").write_text(CODE)
    assert f"{message}" in refused("analyze", steps, "--probe-text", text)
    assert not list(steps.parent.rglob("pwned"))


def test_probes_of_text_that_cannot_be(steps, text, tmp_path, run):
    other = tmp_path / "other.txt"
    assert "other.txt: no such file" in refused("convert", steps, "--probe-text", other, "-o", tmp_path / "a.h5")
    other.write_text(" \n\n")
    assert "other.txt: holds no line of text" in refused("analyze", steps, "--probe-text", other)
    other.write_bytes(b"caf\xe9\n")
    assert "other.txt: not UTF-8 (byte 3)" in refused("inspect", steps, "--probe-text", other)
    both = ("--probe", tmp_path / "probe.npz", "--probe-text", text)
    assert "--probe and --probe-text: mutually exclusive" in refused("program", *both, "-o", steps)
    assert "--probe-text: needs a tokenizer next to the weights" in refused("analyze", run, "--probe-text", text)
    assert "but there are no checkpoints yet" in refused("program", "--probe-text", text, "-o", tmp_path / "none")
    (steps / "tokenizer.json").write_text("{}")
    assert "pass token ids instead of text: --probe FILE" in refused("analyze", steps, "--probe-text", text)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (steps / name).unlink()
    assert "there is none in" in refused("analyze", steps, "--probe-text", text)


def test_a_directory_that_explains_itself_needs_neither_text_nor_model(steps, text, tmp_path):
    done = CliRunner().invoke(main, ["program", "--probe-text", str(text), "-o", str(steps)], catch_exceptions=False)
    assert done.exit_code == 0
    script = "import sys; from regime_proto import convert; convert(*sys.argv[1:]); "
    script += "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'huggingface_hub')))"
    subprocess.run([sys.executable, "-c", script, str(steps), str(tmp_path / "run.h5")], check=True)


@pytest.mark.parametrize("ability", ["analyze --probe-text", "analyze --probe"])
def test_without_transformers(steps, text, tmp_path, monkeypatch, ability):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "regime_proto.adapters.from_huggingface.model", raising=False)
    given = text if "text" in ability else tmp_path / "probe.npz"
    message = refused("analyze", steps, ability.split()[1], given)
    assert 'needs transformers; pip install "regime-proto[huggingface]"' in message
