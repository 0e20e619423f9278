"""Files of libraries that no adapter reads: each is named, and the command of the answer makes readable ones of it."""

import copy
import functools
import itertools
import json
import pickle
import re
import shutil
import warnings
import zipfile
from collections import namedtuple

import nets
import numpy as np
import pytest
import torch
from advised import STATES, read_the_first, run_the_command, save_run, write
from commands import regime
from libraries import load_exporter, needed
from reading import assert_same_trajectory

import regime_proto
from regime_proto.adapters.advice import adapter as advice
from regime_proto.adapters.advice import commands
from regime_proto.plugins.open_directory import NoCheckpoint, open_directory
from regime_proto.plugins.source_settings import SourceSettings

PLACE = "it's $HOME"


@pytest.mark.parametrize("name", ["net_{}.pth.tar", "{}", "$(touch pwned)_{}", "[{}].x*"])
def test_modules_under_any_name(name, tmp_path):
    folder = tmp_path / PLACE
    save_run(folder, tmp_path / "plain", lambda trained, step: torch.save(trained, folder / name.format(step)))
    (folder / "log.txt").write_text("not of these")
    (folder / "net_1.json").write_text("{}")
    (folder / "net_1_old").mkdir()
    with pytest.raises(regime_proto.RegimeError, match="holds a Mlp, not a dict of tensors") as error:
        read_the_first(folder)
    # As a user does, once.
    out = run_the_command(str(error.value), by="shell" if "$" in name else "fork")
    found = open_directory(out)
    assert {checkpoint.path.name for checkpoint in found.checkpoints} == {name.format(step) for step in range(STATES)}
    for checkpoint in found.checkpoints:
        plain = torch.load(tmp_path / f"plain/step_{checkpoint.step}.pt")
        for key, array in found.read(checkpoint).tensors.items():
            np.testing.assert_array_equal(array, plain[key].numpy())


@pytest.mark.parametrize(
    ("name", "like", "unlike"),
    [
        ("a_1.pt", ["b.pt", "a_2.pt"], ["a_1.pth", "a_1pt"]),
        ("a_1.pth.tar", ["b_2.pth.tar"], ["data.tar", "a_1.pth"]),
        ("a_1.tar", ["a_2.tar"], ["a_2.pt"]),
        ("checkpoint_10", ["checkpoint_9"], ["checkpoint_9.json", "checkpoint_x", "checkpoint_9_old"]),
        ("checkpoint", ["checkpoint"], ["checkpoint_1"]),
        ("v1.2_step3", ["v10.2_step44"], ["v1.2_step3.pt"]),
        ("a.pkl.gz", ["b.pkl.gz"], ["b.gz"]),
    ],
)
def test_the_like_of_a_file(name, like, unlike, tmp_path):
    pattern = commands.like(tmp_path / name)
    assert all(re.fullmatch(pattern, other) for other in [name, *like])
    assert not any(re.fullmatch(pattern, other) for other in unlike)


def test_objects_that_take_code_to_read(mlp_run, tmp_path):
    folder = tmp_path / PLACE

    def save(trained, step):
        payload = {"model": trained.state_dict(), "args": functools.partial(max, 1), "epoch": step}
        torch.save(payload, folder / f"net_{step}.pt", pickle_protocol=4)

    save_run(folder, tmp_path / "plain", save)
    with pytest.raises(
        regime_proto.RegimeError, match=r"holds objects that need code to be loaded .pickle protocol 4"
    ) as error:
        read_the_first(folder)
    out = run_the_command(str(error.value))
    assert open_directory(out).step_kind == "epoch"
    assert_same_trajectory(out, tmp_path / "plain", tmp_path, program=mlp_run)


def test_what_a_reading_would_refuse_is_seen_by_inspect(mlp_run, tmp_path):
    """The names alone tell the order, so no payload has to be read for it."""
    for step in range(3):
        torch.save({"model": nets.make_mlp(), "step": step}, tmp_path / f"step_{step}.pt", pickle_protocol=4)
    for name in ("program.onnx", "probe.npz"):
        shutil.copy(mlp_run / name, tmp_path / name)
    for command in ("inspect", "analyze"):
        done = regime(command, tmp_path)
        assert done.exit_code == 1
        assert "step_0.pt: damaged, or holds objects that need code to be loaded" in done.stderr


def test_agents_of_stable_baselines(tmp_path):
    folder = tmp_path / PLACE

    def save(trained, step):
        with zipfile.ZipFile(folder / f"rl_model_{100 * step}_steps.zip", "w") as archive:
            archive.writestr("data", json.dumps({"policy_class": {}}))
            for name in ("pytorch_variables.pth", "policy.pth", "policy.optimizer.pth"):
                with archive.open(name, "w") as file:
                    torch.save(trained.state_dict() if name == "policy.pth" else {}, file)
            archive.writestr("_stable_baselines3_version", "2.9.2")

    save_run(folder, tmp_path / "plain", save)
    with zipfile.ZipFile(folder / "videos.zip", "w") as archive:
        archive.writestr("1.mp4", b"")
    with pytest.raises(NoCheckpoint, match=r"rl_model_0_steps.zip: a Stable-Baselines3 agent") as error:
        open_directory(folder)
    source = open_directory(run_the_command(str(error.value)))
    assert [checkpoint.step for checkpoint in source.checkpoints] == [100 * step for step in range(STATES)]
    for step, checkpoint in enumerate(source.checkpoints):
        plain = torch.load(tmp_path / f"plain/step_{step}.pt")
        for name, array in source.read(checkpoint).tensors.items():
            np.testing.assert_array_equal(array, plain[name].numpy())


def test_what_tensorflow_and_paddle_write(tmp_path):
    for step in (1, 2):
        write(tmp_path / f"tf/ckpt-{step}.index")
        write(tmp_path / f"tf/ckpt-{step}.data-00000-of-00001")
        write(tmp_path / f"saved/{step}/saved_model.pb")
        write(tmp_path / f"saved/{step}/variables/variables.index")
        write(tmp_path / f"saved/{step}/variables/variables.data-00000-of-00001")
        write(tmp_path / f"paddle/epoch_{step}.pdparams", b"\x80\x04")
    write(tmp_path / "tf/checkpoint", b'model_checkpoint_path: "ckpt-2"')
    write(tmp_path / "other/words.index")
    for folder, words in (
        ("tf", r"ckpt-1.index: a TensorFlow checkpoint; .* MODULE:FACTORY .*; then use .*tf-keras$"),
        ("saved", r"saved/1: a TensorFlow SavedModel, .*tf2onnx.*; then use .*saved-onnx$"),
        ("paddle", r"epoch_1.pdparams: PaddlePaddle weights .*; then use .*paddle-npz$"),
        ("other", r"no checkpoint found .it holds words.index"),
    ):
        with pytest.raises(NoCheckpoint, match=words):
            open_directory(tmp_path / folder)


def test_weights_of_paddle(tmp_path):
    paddle = needed("paddle")
    saved = {}
    (tmp_path / "run").mkdir()
    for step in (1, 2):
        layer = paddle.nn.Linear(3, 4)
        paddle.save(layer.state_dict(), str(tmp_path / f"run/epoch_{step}.pdparams"))
        saved[step] = {name: value.numpy() for name, value in layer.state_dict().items()}
    source = open_directory(run_the_command(advice.advice(tmp_path / "run/epoch_1.pdparams")))
    for checkpoint in source.checkpoints:
        for name, array in source.read(checkpoint).tensors.items():
            np.testing.assert_array_equal(array, saved[checkpoint.step][name])


# --- JAX ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jax2onnx():
    """The exporter at work: it imports its many parts before the first model."""
    needed("jax2onnx")
    load_exporter()


PROBE = np.random.default_rng(1).normal(size=(8, 6)).astype("float32")
RUN = (1, 2, 10)
Adam = namedtuple("Adam", "count mu")


def haiku_params(step):
    """As dm-haiku names its parameters."""
    generator = np.random.default_rng(step)
    return {
        "mlp/~/linear_0": {"w": generator.normal(size=(6, 5)).astype("float32"), "b": np.zeros(5, "float32")},
        "mlp/~/linear_1": {"w": generator.normal(size=(5, 2)).astype("float32"), "b": np.full(2, step, "float32")},
    }


def haiku_net(params, x):
    import jax

    first, second = params["mlp/~/linear_0"], params["mlp/~/linear_1"]
    return jax.nn.relu(x @ first["w"] + first["b"]) @ second["w"] + second["b"]


def changes_of(params):
    """Return Σ|Δ| of all weights from each state to the next."""
    flat = [np.concatenate([a.ravel() for layer in tree.values() for a in layer.values()]) for tree in params]
    return [np.abs(after.astype(float) - before).sum() for before, after in itertools.pairwise(flat)]


def assert_changes(folder, model, expected, tmp_path):
    path = regime_proto.convert(folder, tmp_path / "run.h5", model=model, probe=PROBE)
    with regime_proto.open_trajectory(path) as found:
        assert found["step"].values.tolist() == list(RUN)
        np.testing.assert_allclose(found["weight_delta_l1"].values[1:].sum(axis=1), expected, rtol=1e-6)


@pytest.mark.libraries
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["numpy", "jax", "with optimizer", "frozen"])
@pytest.mark.usefixtures("jax2onnx")
def test_pickled_params(kind, tmp_path):
    jax, flax = needed("jax"), needed("flax")
    folder = tmp_path / PLACE
    folder.mkdir()
    make = {
        "numpy": lambda params, step: params,
        "jax": lambda params, step: jax.tree.map(jax.numpy.asarray, params),
        "with optimizer": lambda params, step: {"params": params, "opt_state": (Adam(3, params), ()), "step": step},
        "frozen": lambda params, step: flax.core.freeze({"params": params}),
    }[kind]
    for step in RUN:
        tree = make(haiku_params(step), step)
        (folder / f"step_{step}.pkl").write_bytes(pickle.dumps(tree))
    with pytest.raises(NoCheckpoint, match=r"step_1.pkl: pickled JAX or NumPy arrays, which are not read") as error:
        open_directory(folder)
    out = run_the_command(str(error.value), by="fork" if kind == "numpy" else "exec")
    expected = changes_of([haiku_params(step) for step in RUN])
    assert_changes(out, (haiku_net, haiku_params(0)), expected, tmp_path)
    if kind == "with optimizer":
        assert open_directory(out).order != "the number in the file name"


def test_pickles_without_arrays_are_left_alone(tmp_path):
    for step in range(2):
        (tmp_path / f"args_{step}.pkl").write_bytes(pickle.dumps({"lr": 0.1}))
        (tmp_path / f"text_{step}.pkl").write_text("jax")
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(np.arange(3)))
    assert [advice.advice(path) for path in tmp_path.iterdir()] == [None] * 5


@pytest.mark.libraries
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("jax2onnx")
def test_leaves_of_equinox(tmp_path):
    jax, eqx = needed("jax"), needed("equinox")
    folder = tmp_path / PLACE
    folder.mkdir()

    class Net(eqx.Module):
        first: eqx.nn.Linear
        drop: eqx.nn.Dropout
        second: eqx.nn.Linear
        scale: float
        activation: object

        def __call__(self, x):
            return self.second(self.drop(self.activation(self.first(x)), inference=True)) * self.scale

    def make(step):
        keys = jax.random.split(jax.random.key(step))
        layers = eqx.nn.Linear(6, 5, key=keys[0]), eqx.nn.Dropout(0.5), eqx.nn.Linear(5, 2, key=keys[1])
        return Net(*layers, 2.0, jax.nn.relu)

    for step in RUN:
        eqx.tree_serialise_leaves(folder / f"step_{step}.eqx", make(step))
    with pytest.raises(NoCheckpoint, match=r"step_1.eqx: Equinox arrays without names") as error:
        open_directory(folder)
    text = str(error.value)
    out = run_the_command(text, by="exec")
    # What the answer says of the model, to the letter.
    names = {"jax": jax, "eqx": eqx, "model": make(0)}
    pair, _, assignments = text.rpartition("the pair ")[2].partition(" after ")
    exec(assignments.replace(" and leaves", "; leaves"), names)
    states = [jax.tree.leaves(eqx.filter(make(step), eqx.is_inexact_array)) for step in RUN]
    flat = [np.concatenate([np.asarray(leaf, float).ravel() for leaf in leaves]) for leaves in states]
    expected = [np.abs(after - before).sum() for before, after in itertools.pairwise(flat)]
    assert_changes(out, eval(pair, names), expected, tmp_path)


# --- Adapters of transformers' models -------------------------------------------------------------------------------


@pytest.mark.libraries
def test_merged_adapters_keep_tokenizer_and_steps(tmp_path):
    """A run of text, analyzed in the order that the Trainer says."""
    peft, transformers = needed("peft"), needed("transformers")
    tokenizers = needed("tokenizers")
    torch.manual_seed(0)
    words = {
        "[UNK]": 0,
        "[PAD]": 1,
        **{word: 2 + number for number, word in enumerate(["the", "cat", "sat", "on", "a", "mat"])},
    }
    words_model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    words_model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words_model, unk_token="[UNK]", pad_token="[PAD]", model_max_length=16
    )
    config = transformers.OPTConfig(
        vocab_size=10, hidden_size=8, ffn_dim=12, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, word_embed_proj_dim=8, pad_token_id=1, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    transformers.OPTForCausalLM(config).save_pretrained(tmp_path / "base")
    saved = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        chosen = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["fc1"], init_lora_weights=False)
        model = peft.get_peft_model(base, chosen)
        # The names tell another order than the Trainer.
        for name, step in (("c", 10), ("a", 20), ("b", 30)):
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data += 0.1
            folder = tmp_path / f"run/{name}-1"
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            transformers.TrainerState(global_step=step, epoch=step / 10).save_to_json(
                str(folder / "trainer_state.json")
            )
            torch.save({}, folder / "optimizer.pt")
            merged = copy.deepcopy(model).merge_and_unload()
            saved[step] = merged.model.decoder.layers[0].fc1.weight.detach().numpy().astype(float)
    with pytest.raises(NoCheckpoint, match=r"an adapter \(LoRA\) without the weights of its base model") as error:
        open_directory(tmp_path / "run")
    out = run_the_command(str(error.value), by="exec")
    assert not list(out.glob("*/optimizer.pt"))
    assert not list(out.glob("*/adapter_*"))
    assert [checkpoint.step for checkpoint in open_directory(out, SourceSettings()).checkpoints] == [10, 20, 30]
    (tmp_path / "lines.txt").write_text("the cat sat\non a mat\na cat\n")
    trajectory = tmp_path / "run.h5"
    done = regime("analyze", out, "--probe-text", tmp_path / "lines.txt", "-o", trajectory, "--resamples", 0)
    assert done.exit_code == 0, done.output
    with regime_proto.open_trajectory(trajectory) as found:
        assert found["step"].values.tolist() == [10, 20, 30]
        expected = [np.abs(saved[step] - saved[step - 10]).sum() for step in (20, 30)]
        np.testing.assert_allclose(found["weight_delta_l1"].values[1:].sum(axis=1), expected, rtol=1e-4)
