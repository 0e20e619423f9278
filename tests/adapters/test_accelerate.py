"""Folders that accelerate saves measure as their plain files do."""

import time
import warnings

import nets
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from libraries import needed
from reading import assert_same_trajectory

from regime_proto.adapters.from_huggingface import from_accelerate
from regime_proto.plugins.open_directory import open_directory
from regime_proto.plugins.source_settings import SourceSettings
from regime_proto.schema.errors import RegimeWarning

pytestmark = [pytest.mark.libraries, pytest.mark.usefixtures("nets_are_exported_once")]
accelerate = needed("accelerate")

STATES = 5


def train(root, plain, *, models=1, name=None, **options):
    """Save a state after every step, in folders that accelerate numbers unless they are named."""
    project = accelerate.utils.ProjectConfiguration(str(root), automatic_checkpoint_naming=name is None)
    accelerator = accelerate.Accelerator(cpu=True, project_config=project)
    model = nets.make_mlp()
    others = [torch.nn.Linear(2, 3) for _ in range(models - 1)]
    accelerator.prepare(model, torch.optim.Adam(model.parameters()), *others)
    plain.mkdir()
    for step, trained in enumerate(nets.train(model, STATES)):
        accelerator.save_state(None if name is None else str(root / name.format(step)), **options)
        torch.save(trained.state_dict(), plain / f"step_{step}.pt")
    return root if name is not None else root / "checkpoints"


@pytest.mark.parametrize(
    ("name", "kind", "safe"),
    [
        (None, "ordinal", True),
        (None, "ordinal", False),
        ("step_{}", "step", True),
        ("epoch_{}", "epoch", False),
        pytest.param("step_{}", "step", False, marks=pytest.mark.slow),
        pytest.param("epoch_{}", "epoch", True, marks=pytest.mark.slow),
    ],
)
def test_a_run_measures_as_its_plain_files_do(name, kind, safe, tmp_path):
    folder = train(tmp_path / "run", tmp_path / "plain", name=name, safe_serialization=safe)
    source = open_directory(folder)
    # accelerate counts its saves.
    assert (source.adapter, source.step_kind) == ("accelerate", kind)
    assert [checkpoint.step for checkpoint in source.checkpoints] == list(range(STATES))
    model = nets.make_mlp()
    assert_same_trajectory(folder, tmp_path / "plain", tmp_path, model=model, probe=nets.probe(model))


@pytest.mark.parametrize("safe", [True, False])
def test_one_of_several_models(safe, tmp_path):
    folder = train(tmp_path / "run", tmp_path / "plain", models=3, name="s{}", safe_serialization=safe)
    assert set(from_accelerate.read(folder / "s1").groups) == {"model", "model_1", "model_2"}
    for weights, shape in ((None, (32, 12)), ("model", (32, 12)), ("model_2", (3, 2))):
        source = open_directory(folder, SourceSettings(weights=weights))
        name = "weight" if weights == "model_2" else "body.0.weight"
        assert source.read(source.checkpoints[1]).tensors[name].shape == shape


def test_one_that_is_being_written_is_left_out(tmp_path):
    folder = train(tmp_path / "run", tmp_path / "plain")
    weights = folder / f"checkpoint_{STATES - 1}/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.warns(RegimeWarning, match="left out"):
        assert len(open_directory(folder).checkpoints) == STATES - 1
    weights.unlink()
    with pytest.warns(RegimeWarning, match="it holds no weights"):
        assert len(open_directory(folder).checkpoints) == STATES - 1


def test_states_of_random_numbers_are_not_opened(tmp_path):
    folder = train(tmp_path / "run", tmp_path / "plain")
    for path in folder.glob("*/random_states_0.pkl"):
        path.write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    source = open_directory(folder)
    assert len(source.read(source.checkpoints[0]).tensors) == 16


def save_shards(folder, content):
    with warnings.catch_warnings():
        # Without a group of processes torch says that there is one.
        warnings.simplefilter("ignore")
        dcp.save(content, checkpoint_id=folder)


def test_shards_of_fsdp(tmp_path):
    """As accelerate lays them out under FSDP, which takes several processes on accelerators."""
    folder = train(tmp_path / "run", tmp_path / "plain")
    for path in sorted(folder.glob("checkpoint_*")):
        step = int(path.name.rpartition("_")[2])
        state = torch.load(tmp_path / f"plain/step_{step}.pt")
        (path / "model.safetensors").unlink()
        save_shards(path / "pytorch_model_fsdp_0", {"model": state})
        save_shards(path / "optimizer_0", {"optimizer": {"state": {"0": torch.ones(9)}, "param_groups": [{}]}})
    source = open_directory(folder)
    assert source.adapter == "accelerate"
    assert set(from_accelerate.read(folder / "checkpoint_0").groups) == {"model"}
    (folder / "checkpoint_3/random_states_0.pkl").unlink()
    assert "under FSDP" in from_accelerate.recognise(folder / "checkpoint_3")
    model = nets.make_mlp()
    assert_same_trajectory(folder, tmp_path / "plain", tmp_path, model=model, probe=nets.probe(model))


def test_models_that_a_hook_saved_in_folders(tmp_path):
    accelerator = accelerate.Accelerator(cpu=True)
    model = accelerator.prepare(nets.make_mlp())

    def save(models, weights, folder):
        weights.pop()
        accelerator.save_model(models[0], f"{folder}/net")
        accelerator.save_model(models[0], f"{folder}/net_ema")

    accelerator.register_save_state_pre_hook(save)
    for step in range(2):
        accelerator.save_state(str(tmp_path / f"checkpoint-{step}"))
    source = open_directory(tmp_path)
    assert source.adapter == "accelerate"
    assert set(from_accelerate.read(source.checkpoints[0].path).groups) == {"net", "net_ema"}
    found = source.read(source.checkpoints[0]).tensors["body.0.weight"]
    np.testing.assert_array_equal(found, model.body[0].weight.detach())


def test_a_thousand_folders_are_listed_at_once(tmp_path):
    one = train(tmp_path / "one", tmp_path / "plain") / "checkpoint_0"
    for step in range(1000):
        folder = tmp_path / f"run/checkpoint_{step}"
        folder.mkdir(parents=True)
        for file in one.iterdir():
            (folder / file.name).hardlink_to(file)
    start = time.perf_counter()
    assert len(open_directory(tmp_path / "run").checkpoints) == 1000
    assert time.perf_counter() - start < 2
