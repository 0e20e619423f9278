"""Folders that Orbax saves are read as what was saved, without Orbax or JAX; damaged and hostile ones are refused."""

import contextlib
import json
import os
import shutil
import sys
import warnings

import bare
import numpy as np
import pytest
from commands import regime
from libraries import needed
from reading import read

from regime_proto.adapters.from_jax import from_orbax
from regime_proto.checkpoints.payload import Incomplete, NotACheckpoint
from regime_proto.plugins.open_directory import NoCheckpoint, open_directory
from regime_proto.schema.errors import RegimeError, RegimeWarning

pytestmark = pytest.mark.libraries
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    ocp = needed("orbax.checkpoint")
    jnp = needed("jax.numpy")
    flax_checkpoints = needed("flax.training.checkpoints")
    v1 = needed("orbax.checkpoint.experimental.v1")

STEPS = (0, 3, 10)


def layers(step):
    generator = np.random.default_rng(step)
    return {
        "Dense_0": {"kernel": jnp.asarray(generator.normal(size=(12, 40)), jnp.float32), "bias": jnp.ones(40)},
        "Dense_1": {"kernel": jnp.asarray(generator.normal(size=(40, 3)), jnp.bfloat16), "bias": np.zeros(3, "f2")},
        "blocks": [{"scale": np.arange(4) + step}, {"scale": jnp.zeros((2, 1, 2), bool)}],
    }


def state(step):
    """Return a state of training, with all that may stand beside a model."""
    moments = {"mu": layers(step + 100), "nu": layers(step + 200)}
    adam = [{"count": jnp.int32(step), **moments}, None, {}]
    return {"step": step, "loss": jnp.float32(0.5), "params": layers(step), "opt_state": adam, "ema_params": layers(7)}


def standard(folder, step, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / f"step_{step}", tree)


def manager(folder, step, tree):
    with ocp.CheckpointManager(folder) as checkpoints:
        checkpoints.save(step, args=ocp.args.StandardSave(tree))


def items(folder, step, tree):
    save = ocp.args.StandardSave
    parts = {"params": save(tree["params"]), "opt": save(tree["opt_state"]), "ema_params": save(tree["ema_params"])}
    with ocp.CheckpointManager(folder, item_names=tuple(parts)) as checkpoints:
        checkpoints.save(step, args=ocp.args.Composite(**parts))


def metrics(folder, step, tree):
    options = ocp.CheckpointManagerOptions(best_fn=lambda found: found["loss"])
    parts = {"state": ocp.args.StandardSave(tree), "notes": ocp.args.JsonSave({"words": 3})}
    with ocp.CheckpointManager(folder, options=options) as checkpoints:
        checkpoints.save(step, args=ocp.args.Composite(**parts), metrics={"loss": 0.5, "accuracy": 0.25})


def flax(folder, step, tree):
    flax_checkpoints.save_checkpoint(folder, tree, step=step, keep=9)


def folders_of_arrays(folder, step, tree):
    ocp.PyTreeCheckpointer(use_ocdbt=False).save(folder / f"step_{step}", {**tree, "name": "text"})


def version_1(folder, step, tree):
    v1.save_pytree(folder / f"step_{step}", tree)


def version_1_in_training(folder, step, tree):
    with v1.training.Checkpointer(folder) as checkpoints:
        checkpoints.save_pytree(step, tree, metrics={"loss": 0.5})


LAYOUTS = (standard, manager, items, metrics, flax, folders_of_arrays, version_1, version_1_in_training)


def save(folder, layout, step, tree=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layout(folder, step, state(step) if tree is None else tree)


@pytest.fixture(scope="module", params=LAYOUTS, ids=lambda layout: layout.__name__)
def saved(request, tmp_path_factory):
    """A layout, and a run in it. Read only."""
    folder = tmp_path_factory.mktemp("orbax") / "a run, 50%"
    folder.mkdir()
    for step in STEPS:
        save(folder, request.param, step)
    return request.param, folder


@pytest.fixture
def copied(saved, tmp_path):
    """A copy of one checkpoint, to spoil."""
    return shutil.copytree(open_directory(saved[1]).checkpoints[-1].path, tmp_path / "run/step_10")


def flat(tree, path=""):
    branches = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if branches is None:
        return {path: np.asarray(tree)}
    return {name: leaf for key, part in branches for name, leaf in flat(part, f"{path}.{key}".strip(".")).items()}


def assert_arrays(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(found[name], array)


def test_what_was_saved_is_read_in_order(saved):
    layout, folder = saved
    source = open_directory(folder)
    assert (source.adapter, source.step_kind) == ("orbax", "step")
    assert [checkpoint.step for checkpoint in source.checkpoints] == list(STEPS)
    for checkpoint in source.checkpoints:
        found = source.read(checkpoint)
        assert_arrays(found.tensors, flat(layers(checkpoint.step)))
        assert found.metrics == from_orbax.peek(checkpoint.path).metrics
        assert found.metrics.get("loss") == (None if layout is items else 0.5)
        assert ("accuracy" in found.metrics) == (layout is metrics)


def test_averages_are_read_and_the_optimizer_is_not(saved):
    path = open_directory(saved[1]).checkpoints[1].path
    assert_arrays(read(from_orbax, path, "ema_params").tensors, flat(layers(7)))
    assert set(from_orbax.read(path).groups) == {"", "ema_params"}


def test_peek_reads_numbers_only(saved, monkeypatch):
    path = open_directory(saved[1]).checkpoints[1].path
    shapes = []
    monkeypatch.setattr(from_orbax, "_declared", lambda store: shapes.append(store.shape) or 0)
    assert from_orbax.peek(path).step == 3
    assert set(shapes) <= {()}
    assert len(shapes) <= 2


def test_inspect_says_what_it_recognised(saved):
    result = regime("inspect", saved[1])
    assert result.exit_code == 0, result.output
    assert "as Orbax saves" in " ".join(result.output.split())
    assert "orbax" in result.output


def test_neither_jax_nor_orbax_is_needed(saved):
    code = f"""
from pathlib import Path
from regime_proto.plugins.open_directory import open_directory
source = open_directory(Path({str(saved[1])!r}))
print(sum(float(array.astype("f8").sum()) for array in source.read(source.checkpoints[-1]).tensors.values()))
"""
    absent = ["jax", "jaxlib", "flax", "orbax", "orbax.checkpoint", "msgpack", "torch", "zarr"]
    done = bare.run(code, without=absent)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == sum(array.astype("f8").sum() for array in flat(layers(STEPS[-1])).values())


def test_one_that_is_being_written_is_left_out(saved, tmp_path):
    folder = saved[1]
    run = shutil.copytree(folder, tmp_path / "run")
    last = open_directory(run).checkpoints[-1].path
    shutil.move(last, last.with_name(f"{last.name}.orbax-checkpoint-tmp"))
    found = open_directory(run)
    assert [checkpoint.step for checkpoint in found.checkpoints] == list(STEPS[:-1])
    assert [skipped.path.name for skipped in found.skipped] == [f"{last.name}.orbax-checkpoint-tmp"]
    only = tmp_path / "only"
    only.mkdir()
    shutil.move(run / f"{last.name}.orbax-checkpoint-tmp", only)
    with pytest.raises(NoCheckpoint, match="no checkpoint found"):
        open_directory(only)


def tree_in(path):
    """Return the folder of the model's tree in a checkpoint."""
    trees = [file.parent for file in sorted(path.rglob("_METADATA"))]
    return next((tree for tree in trees if tree.name == "params"), trees[0])


def spoil_description(path, change):
    file = tree_in(path) / "_METADATA"
    description = json.loads(file.read_text())
    change(description)
    file.write_text(json.dumps(description))


def without_marker(path):
    file = path / "_CHECKPOINT_METADATA"
    file.write_text(json.dumps({**json.loads(file.read_text()), "commit_timestamp_nsecs": None}))


def without_description(path):
    (tree_in(path) / "_METADATA").unlink()


def cut_description(path):
    os.truncate(tree_in(path) / "_METADATA", 500)


def without_data(path):
    """As it looks while it is copied or deleted."""
    tree = tree_in(path)
    if (tree / "manifest.ocdbt").exists():
        (tree / "manifest.ocdbt").unlink()
    else:
        shutil.rmtree(tree / "params.Dense_0.kernel")


@pytest.mark.parametrize("spoil", [without_marker, without_description, cut_description, without_data])
def test_the_last_one_is_left_out_if_it_is_not_complete(saved, tmp_path, spoil):
    run = shutil.copytree(saved[1], tmp_path / "run")
    last = open_directory(run).checkpoints[-1].path
    spoil(last)
    with pytest.warns(RegimeWarning, match=f"{last.name}.*left out"):
        found = open_directory(run)
    assert [checkpoint.step for checkpoint in found.checkpoints] == list(STEPS[:-1])


def test_a_commit_file_stands_for_the_commit(saved, copied):
    without_marker(copied)
    (copied / "commit_success.txt").write_text("")
    assert_arrays(read(from_orbax, copied).tensors, flat(layers(10)))


def assert_sound_or_refused(path, same=assert_arrays):
    """What is read is right, or one line says which checkpoint is damaged."""
    try:
        found = read(from_orbax, path)
    except RegimeError as error:
        message = str(error)
    else:
        same(found.tensors, flat(layers(10)))
        return True
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400
    return False


def files_in(path):
    return sorted(file for file in path.rglob("*") if file.is_file())


def test_files_that_are_missing_or_cut_off(saved, copied):
    sound = []
    for file in files_in(copied):
        content = file.read_bytes()
        file.unlink()
        sound.append(assert_sound_or_refused(copied))
        for length in {0, len(content) // 2, max(0, len(content) - 1)}:
            file.write_bytes(content[:length])
            sound.append(assert_sound_or_refused(copied))
        file.write_bytes(content)
    assert not all(sound)
    assert assert_sound_or_refused(copied)


def same_names(found, expected):
    # Numbers have no checksum.
    assert {name: array.shape for name, array in found.items()} == {
        name: array.shape for name, array in expected.items()
    }


def flips(copied, places):
    generator = np.random.default_rng(0)
    sound = []
    for file in files_in(copied):
        content = bytearray(file.read_bytes())
        if file.name in ("_METADATA", "_CHECKPOINT_METADATA") or not content:
            continue
        for at in generator.integers(len(content), size=places):
            content[at] ^= 0x11
            file.write_bytes(content)
            sound.append(assert_sound_or_refused(copied, same_names))
            content[at] ^= 0x11
        file.write_bytes(content)
    assert not all(sound)


def test_bytes_that_are_flipped(saved, copied):
    flips(copied, 3)


@pytest.mark.slow
def test_many_bytes_that_are_flipped(saved, copied):
    flips(copied, 100)


def named(*keys):
    """Return a change of a description: the path of its first array of more than one key."""

    def change(description):
        entry = next(entry for entry in description["tree_metadata"].values() if len(entry["key_metadata"]) > 1)
        entry["key_metadata"] = [{"key": key, "key_type": 2} for key in keys]

    return change


def repeated(description):
    entries = list(description["tree_metadata"].values())
    description["tree_metadata"] = {"a": entries[-1], "b": entries[-1]}


@pytest.mark.parametrize(
    "change",
    [
        lambda description: description.clear(),
        lambda description: description.update(tree_metadata=[]),
        lambda description: description.update(tree_metadata={"a": 1}),
        lambda description: description["tree_metadata"].update(a={"key_metadata": 3, "value_metadata": {}}),
        lambda description: description.update(use_ocdbt=not description["use_ocdbt"]),
        lambda description: description.update(use_zarr3=not description["use_zarr3"]),
        named(),
        named("not", "there"),
        named(*["deep"] * 5000),
        repeated,
    ],
)
def test_descriptions_that_say_something_else(saved, copied, change):
    spoil_description(copied, change)
    assert not assert_sound_or_refused(copied)
    with contextlib.suppress(RegimeError):
        from_orbax.peek(copied)


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """A checkpoint in which every array has a folder. Read only."""
    folder = tmp_path_factory.mktemp("apart")
    save(folder, folders_of_arrays, 10)
    return folder / "step_10"


@pytest.fixture
def spoiled(apart, tmp_path):
    return shutil.copytree(apart, tmp_path / "step_10")


@pytest.mark.parametrize("keys", [("..",), ("../elsewhere", "x"), ("/", "etc", "x"), ("a/", "/b"), ("a\0", "b")])
def test_names_that_lead_out_of_the_folder(spoiled, keys):
    elsewhere = spoiled.parent / "elsewhere.x"
    shutil.copytree(spoiled / "params.Dense_0.kernel", elsewhere)
    spoil_description(spoiled, named(*keys))
    for function in (from_orbax.peek, from_orbax.read):
        with pytest.raises(RegimeError, match=r"_METADATA: names .* outside the folder; refused"):
            function(spoiled)


def test_names_with_a_slash_are_those_of_haiku(tmp_path):
    tree = {"params": {"mlp/~/linear_0": {"w": np.ones((3, 4), np.float32), "b": np.arange(4)}}}
    for layout in (folders_of_arrays, standard):
        save(tmp_path / layout.__name__, layout, 1, tree)
        found = read(from_orbax, tmp_path / layout.__name__ / "step_1").tensors
        assert_arrays(found, {"mlp/~/linear_0.w": np.ones((3, 4), np.float32), "mlp/~/linear_0.b": np.arange(4)})


def test_links_out_of_the_folder(spoiled, tmp_path):
    array = spoiled / "params.Dense_0.kernel"
    shutil.move(array, tmp_path / "elsewhere")
    array.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RegimeError, match=r"params.Dense_0.kernel: leads out of the checkpoint; copy"):
        from_orbax.read(spoiled)
    array.unlink()
    shutil.move(tmp_path / "elsewhere", spoiled / "other")
    array.symlink_to("other")
    assert_arrays(read(from_orbax, spoiled).tensors, flat(layers(10)))


def test_pipes(spoiled):
    os.mkfifo(spoiled / "params.Dense_0.kernel/0.1")
    with pytest.raises(RegimeError, match=r"0\.1: neither a file nor a folder"):
        from_orbax.peek(spoiled)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [2**20, 2**20]}, "larger than its files"),
        ({"chunks": [2**20, 2**20]}, "larger than its files"),
        ({"shape": [1000, 1000], "chunks": [1, 1]}, "more pieces than its files"),
        ({"shape": [2**40, 2**40]}, "damaged or incomplete|larger than"),
        ({"dtype": "|O"}, r"'params\.Dense_0\.kernel' has type '\|O'; expected plain numbers"),
        ({"dtype": "|V2000000000"}, "expected plain numbers"),
        ({"dtype": [["a", "<f4"]]}, "expected plain numbers"),
        ({"attributes": "x" * 2**21}, "the description of an array is 2,097,.* bytes long"),
        ({"shape": [-1, 4]}, "damaged or incomplete"),
        ({"compressor": {"id": "lzma"}}, "damaged or incomplete"),
    ],
)
def test_arrays_that_claim_what_is_not_there(spoiled, change, message):
    file = spoiled / "params.Dense_0.kernel/.zarray"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(RegimeError, match=message) as caught:
        from_orbax.read(spoiled)
    assert str(caught.value).startswith(str(spoiled))


def test_a_piece_that_is_missing_is_no_zero(spoiled):
    (spoiled / "params.Dense_0.kernel/0.0").unlink()
    with pytest.raises(Incomplete, match="step_10: damaged or incomplete"):
        from_orbax.read(spoiled)


def test_checkpoints_of_older_versions(saved, copied):
    """They say neither which layout they have nor how an array was cut, and have no description of the whole."""

    def change(description):
        del description["use_ocdbt"], description["store_array_data_equal_to_fill_value"]
        for entry in description["tree_metadata"].values():
            entry["value_metadata"].pop("write_shape", None)

    spoil_description(copied, change)
    (copied / "_CHECKPOINT_METADATA").unlink()
    assert "Orbax" in from_orbax.recognise(copied)
    assert from_orbax.peek(copied).step == (None if saved[0] is items else 10)
    assert_arrays(read(from_orbax, copied).tensors, flat(layers(10)))


def test_what_holds_no_model(tmp_path):
    save(tmp_path, standard, 1, {"step": 3})
    with warnings.catch_warnings(), ocp.CheckpointManager(tmp_path / "run") as checkpoints:
        warnings.simplefilter("ignore")
        checkpoints.save(1, args=ocp.args.Composite(opt=ocp.args.StandardSave({"mu": np.ones(3)})))
        checkpoints.save(2, args=ocp.args.Composite(data=ocp.args.JsonSave({"at": 1})))
        checkpoints.save(3, args=ocp.args.Composite(rng=ocp.args.ArraySave(np.ones(3))))
    for path in (tmp_path / "step_1", *(tmp_path / f"run/{step}" for step in (1, 2, 3))):
        with pytest.raises(NotACheckpoint):
            from_orbax.peek(path)


def test_a_single_checkpoint_is_named_as_one(saved):
    path = open_directory(saved[1]).checkpoints[0].path
    with pytest.raises(RegimeError, match=r"a single checkpoint .*Orbax saves"):
        open_directory(path)


def test_tensorstore_is_what_is_missing(apart, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    assert from_orbax.recognise(apart) is not None
    with pytest.raises(RegimeError, match=r'without tensorstore; pip install "regime-proto\[flax\]"'):
        from_orbax.read(apart)
