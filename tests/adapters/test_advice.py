"""What cannot be read is named, with a command that makes readable checkpoints of it; the commands are run here."""

import gzip
import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
import warnings

import children
import joblib
import nets
import numpy as np
import pytest
import torch
from advised import STATES, read_the_first, run_the_command, save_run, write
from folders import SUPPORT
from libraries import needed
from reading import assert_same_trajectory
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from regime_proto.adapters import from_folder
from regime_proto.adapters.advice import adapter as advice
from regime_proto.plugins.open_directory import NoCheckpoint, open_directory
from regime_proto.schema.errors import RegimeError


def save_script(trained, path):
    with warnings.catch_warnings():
        # TorchScript is deprecated.
        warnings.simplefilter("ignore")
        torch.jit.trace(trained.eval(), torch.zeros(2, 12)).save(path)
    trained.train()


SAVES = {
    "holds a Mlp, not a dict of tensors": torch.save,
    "holds a Mlp, not a dict": lambda trained, path: torch.save({"model": trained, "epoch": 1}, path),
    "a TorchScript file, which holds code": save_script,
}


@pytest.mark.parametrize("message", SAVES)
def test_models_with_their_code(message, mlp_run, tmp_path):
    folder = tmp_path / "it's $HOME"
    save_run(folder, tmp_path / "plain", lambda trained, step: SAVES[message](trained, folder / f"net_{step}.pt"))
    with pytest.raises(RegimeError, match=message) as error:
        read_the_first(folder)
    out = run_the_command(str(error.value))
    assert out == folder.with_name(f"{folder.name}-states")
    assert [checkpoint.step for checkpoint in open_directory(out).checkpoints] == list(range(STATES))
    assert_same_trajectory(out, tmp_path / "plain", tmp_path, program=mlp_run)


def test_a_single_script(tmp_path):
    save_script(nets.make_mlp(), tmp_path / "net.pt")
    assert "a TorchScript file, which holds code; extract its tensors with python -c" in advice.advice(
        tmp_path / "net.pt"
    )
    torch.save({"w": torch.ones(2)}, tmp_path / "other.pt")
    assert advice.advice(tmp_path / "other.pt") is None
    assert advice.advice(tmp_path) is None


def test_a_single_file_that_is_overwritten(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(
        RegimeError, match=r"a single checkpoint .* if training overwrites it, save each under a different name"
    ):
        open_directory(tmp_path)
    torch.save({"w": torch.ones(2), "step": 5}, tmp_path / "step_5.pt")
    torch.save({"w": torch.ones(2), "step": 5}, tmp_path / "last.pt")
    (tmp_path / "model.pt").unlink()
    with pytest.raises(RegimeError, match=r"one checkpoint \(step_5.pt\) .* each under its own name"):
        open_directory(tmp_path).require_two()


def test_what_deepspeed_splits(tmp_path):
    """Stage 3: no process holds a whole tensor."""
    for step in (10, 20):
        for rank in range(2):
            write(tmp_path / f"run/global_step{step}/zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
            write(tmp_path / f"run/global_step{step}/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    write(tmp_path / "run/latest", b"global_step20")
    write(tmp_path / "run/zero_to_fp32.py")
    with pytest.raises(
        NoCheckpoint, match=r"run: DeepSpeed checkpoints.*run/global_step\*/; .* --tag .* --safe_serialization"
    ):
        open_directory(tmp_path / "run")
    with pytest.raises(NoCheckpoint, match=r"run: DeepSpeed checkpoints"):
        open_directory(tmp_path / "run/global_step10")
    # One state in each folder, as transformers and accelerate keep them.
    for step in (10, 20):
        folder = tmp_path / f"trainer/checkpoint-{step}"
        write(folder / f"global_step{step}/zero_pp_rank_0_mp_rank_00_model_states.pt")
        write(folder / "zero_to_fp32.py")
    with pytest.raises(
        NoCheckpoint, match=r'for d in .*/trainer/\*/; do python "\$d/zero_to_fp32.py" "\$d" .*trainer-fp32'
    ):
        open_directory(tmp_path / "trainer")


@pytest.mark.parametrize("new", [False, True])
def test_what_megatron_splits(new, tmp_path):
    for step in (100, 200):
        folder = tmp_path / f"run/iter_{step:07}"
        if new:
            write(folder / "metadata.json", json.dumps({"sharded_backend": "torch_dist"}).encode())
            write(folder / "common.pt")
            write(folder / "__0_0.distcp")
        else:
            write(folder / "mp_rank_00/model_optim_rng.pt")
            write(folder / "mp_rank_01/model_optim_rng.pt")
    for pointer in (True, False):
        if pointer:
            write(tmp_path / "run/latest_checkpointed_iteration.txt", b"200")
        else:
            (tmp_path / "run/latest_checkpointed_iteration.txt").unlink()
        with pytest.raises(NoCheckpoint, match=r"Megatron .*export_ckpt.* MODEL .*; then use .*run-hf$"):
            open_directory(tmp_path / "run")


def test_readable_checkpoints_beside_are_read(tmp_path):
    for step in range(2):
        torch.save({"model": {"w": torch.full((2,), float(step))}}, tmp_path / f"step_{step}.pt")
    write(tmp_path / "global_step1/zero_pp_rank_0_mp_rank_00_model_states.pt")
    write(tmp_path / "adapter/adapter_config.json", b"{}")
    write(tmp_path / "adapter/adapter_model.safetensors")
    write(tmp_path / "latest_checkpointed_iteration.txt")
    assert len(open_directory(tmp_path).checkpoints) == 2


def test_parts_are_not_taken_for_the_whole(tmp_path):
    write(tmp_path / "a/zero_pp_rank_0_mp_rank_00_model_states.pt")
    write(tmp_path / "b/common.pt")
    write(tmp_path / "b/__0_0.distcp")
    assert from_folder.recognise(tmp_path / "a") is None
    assert from_folder.recognise(tmp_path / "b") is None


@pytest.mark.parametrize("config", [b"", b"[]", b"\xff", b'{"task_type": 5}', b"{}"])
def test_an_adapter_of_any_kind(config, tmp_path):
    write(tmp_path / "c/adapter_config.json", config)
    write(tmp_path / "c/adapter_model.bin")
    found = advice.advice(tmp_path / "c")
    assert found is None or "import AutoPeftModel as M" in found


def fitted(step=0):
    model = MLPClassifier((4,), random_state=step)
    return model.partial_fit(np.eye(6, 3), np.arange(6) % 2, classes=[0, 1])


def pickled(model, path):
    path.write_bytes(pickle.dumps(model))


PICKLES = {
    ".pkl": pickled,
    ".pickle": lambda model, path: pickled({"epoch": 1, "model": model}, path),
    ".joblib": joblib.dump,
    ".joblib.gz": joblib.dump,
    ".joblib.xz": joblib.dump,
    ".pkl.bz2": joblib.dump,
    ".pkl.z": joblib.dump,
}


@pytest.mark.parametrize("suffix", PICKLES)
def test_pickled_estimators(suffix, tmp_path):
    (tmp_path / "run").mkdir()
    PICKLES[suffix](make_pipeline(StandardScaler(), fitted()), tmp_path / f"run/step_1{suffix}")
    with pytest.raises(
        NoCheckpoint, match=r"step_1.*: a pickled scikit-learn estimator, .* loading it runs the code in it; .*-skops$"
    ):
        open_directory(tmp_path / "run")


def test_other_pickles_are_left_alone(tmp_path):
    """They may lie beside the folder that a user meant."""
    pickled({"lr": 0.1}, tmp_path / "args.pkl")
    joblib.dump(StandardScaler(), tmp_path / "scaler.joblib", compress=3)
    (tmp_path / "a.pkl.gz").write_bytes(gzip.compress(b"sklearn.neural_network"))
    (tmp_path / "b.joblib").write_bytes(b"\x78\x9cnot what zlib writes")
    (tmp_path / "c.pkl").write_bytes(b"")
    (tmp_path / "d.txt").write_bytes(pickle.dumps(fitted()))
    (tmp_path / "e.pkl").mkdir()
    for path in tmp_path.iterdir():
        assert advice.advice(path) is None
    (tmp_path / "states").mkdir()
    for step in (1, 2):
        torch.save({"w": torch.ones(2)}, tmp_path / f"states/step_{step}.pt")
    with pytest.raises(NoCheckpoint, match=r"no checkpoint found, but 2 in .*states; give that directory"):
        open_directory(tmp_path)


@pytest.mark.libraries
@pytest.mark.parametrize("suffix", [".pkl", ".joblib", ".pkl.gz"])
def test_estimators_are_saved_anew(suffix, tmp_path):
    needed("skops.io")
    folder = tmp_path / "it's $HOME"
    folder.mkdir()
    models = [fitted(step) for step in range(3)]
    for step, model in enumerate(models):
        (pickled if suffix == ".pkl" else joblib.dump)(model, folder / f"step_{step}{suffix}")
    by = "fork" if suffix == ".pkl.gz" else "exec"
    source = open_directory(run_the_command(advice.advice(folder / f"step_0{suffix}"), by=by))
    assert source.adapter == "sklearn"
    assert {checkpoint.path.name for checkpoint in source.checkpoints} == {f"step_{step}.skops" for step in range(3)}
    for checkpoint in source.checkpoints:
        found = source.read(checkpoint).tensors
        expected = models[int(checkpoint.path.stem[-1])]
        np.testing.assert_array_equal(found["coefs_.0"], expected.coefs_[0])


def test_what_keras_splits(tmp_path):
    write(tmp_path / "step_1.weights.json", b"{}")
    assert advice.advice(tmp_path / "step_1.weights.json") is None
    write(tmp_path / "step_1_00000.weights.h5")
    assert re.search(
        r"split over files; .*: model.load_weights\('.*/step_1.weights.json'\); "
        r"model.save_weights\('.*step_1.weights.h5'\)$",
        advice.advice(tmp_path / "step_1.weights.json"),
    )


KERAS_RUN = """
import re, sys
import keras, numpy
from regime_proto.adapters.advice import adapter as advice
from pathlib import Path
root = Path(sys.argv[1])
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2)])
saved = model.get_weights()
model.save_weights(root / "step_1.weights.json", max_shard_size=7e-8)
assert len(list(root.glob("*.weights.h5"))) > 1
model.set_weights([0 * weight for weight in saved])
commands = advice.advice(root / "step_1.weights.json").partition("one file: ")[2]
exec(commands)
whole = model.get_weights()
model.set_weights([0 * weight for weight in saved])
model.load_weights("step_1.weights.h5")
for found in (whole, model.get_weights()):
    assert all((a == b).all() for a, b in zip(saved, found, strict=True))
"""


@pytest.mark.libraries
def test_split_weights_of_keras_are_saved_in_one(tmp_path):
    if importlib.util.find_spec("keras") is None:
        # Imported here, it would choose its backend for the tests of others.
        needed("keras")
    places = os.environ | {"KERAS_BACKEND": "numpy"}
    done = children.run(KERAS_RUN, tmp_path, env=places, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.libraries
def test_adapters_are_merged(tmp_path):
    peft, transformers = needed("peft"), needed("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=20, n_positions=16)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    with warnings.catch_warnings():
        # On a choice that peft mends by itself.
        warnings.simplefilter("ignore")
        base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        chosen = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["c_attn"], init_lora_weights=False)
        model = peft.get_peft_model(base, chosen)
        merged = {}
        for step in (1, 2, 10):
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data += 0.1
            model.save_pretrained(tmp_path / f"run/checkpoint-{step}")
            model.merge_adapter()
            merged[step] = base.transformer.h[0].attn.c_attn.base_layer.weight.detach().numpy().copy()
            model.unmerge_adapter()
    with pytest.raises(NoCheckpoint, match=r"an adapter \(LoRA\) without the weights of its base model") as error:
        open_directory(tmp_path / "run")
    source = open_directory(run_the_command(str(error.value)))
    assert [checkpoint.step for checkpoint in source.checkpoints] == [1, 2, 10]
    for checkpoint in source.checkpoints:
        found = source.read(checkpoint).tensors["transformer.h.0.attn.c_attn.weight"]
        np.testing.assert_allclose(found, merged[checkpoint.step], atol=1e-6)
    assert (merged[1] != merged[2]).any()


DEEPSPEED_RUN = """
import os, sys
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
import torch, deepspeed, nets
# It would be compiled, and one process has nothing to share.
sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
stage, folder, plain = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{plain}/rendezvous", rank=0, world_size=1)
deepspeed.init_distributed("gloo")
model = nets.make_mlp()
config = {
    "train_batch_size": 64, "optimizer": {"type": "SGD", "params": {"lr": 0.1}}, "zero_optimization": {"stage": stage},
    "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
}
engine = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)[0]
inputs = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
for step in range(4):
    engine.save_checkpoint(folder)
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        torch.save({name: tensor.clone() for name, tensor in model.state_dict().items()}, f"{plain}/step_{step}.pt")
    engine.backward(engine(inputs).square().mean())
    engine.step()
"""


@pytest.mark.libraries
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed, which is built, is not installed")
@pytest.mark.parametrize("stage", [1, 3])
def test_what_deepspeed_saves(stage, tmp_path):
    folder, plain = tmp_path / "run", tmp_path / "plain"
    plain.mkdir()
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DEEPSPEED_RUN, str(stage), str(folder), str(plain)],
        cwd=SUPPORT, env=os.environ | {"DS_ACCELERATOR": "cpu"}, check=True,
    )  # fmt: skip
    if stage == 3:
        with pytest.raises(NoCheckpoint, match="DeepSpeed checkpoints"):
            open_directory(folder)
        folder = run_the_command(advice.advice(folder))
    model = nets.make_mlp()
    assert_same_trajectory(folder, plain, tmp_path, model=model, probe=nets.probe(model))
