"""Distributed checkpoints of torch are read by one process, whatever number of them saved, and nothing in them runs."""

import os
import pickle
import shutil
import time
import warnings
from pathlib import Path

import children
import nets
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from reading import assert_same_trajectory, read
from sharded_checkpoints import STATES

import regime_proto
from regime_proto.adapters.from_torch import dcp_metadata, from_dcp
from regime_proto.checkpoints.payload import Incomplete, NotACheckpoint
from regime_proto.conversion.plan import PROBE_FILE, PROGRAM_FILE
from regime_proto.plugins.open_directory import open_directory
from regime_proto.schema.errors import RegimeError, RegimeWarning


def save(folder, content, **options):
    with warnings.catch_warnings():
        # Without a group of processes torch says that there is one.
        warnings.simplefilter("ignore")
        dcp.save(content, storage_writer=dcp.FileSystemWriter(folder, **options))
    return folder


def save_run(root, plain, model, wrap=lambda state, step: {"model": state, "step": step}):
    for step, trained in enumerate(nets.train(model, STATES)):
        state = {key: value.clone() for key, value in trained.state_dict().items()}
        save(root / f"step-{step}", wrap(state, step))
        plain.mkdir(exist_ok=True)
        torch.save(state, plain / f"step_{step}.pt")


def assert_same_state(found, expected):
    assert set(found.tensors) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found.tensors[name], tensor.numpy())
        assert found.tensors[name].dtype == tensor.numpy().dtype


def test_a_run_measures_as_its_plain_files_do(mlp_run, tmp_path):
    save_run(tmp_path / "dcp", tmp_path / "plain", nets.make_mlp())
    assert_same_trajectory(tmp_path / "dcp", tmp_path / "plain", tmp_path, program=mlp_run)


def test_what_a_directory_of_them_is(tmp_path):
    save_run(tmp_path / "dcp", tmp_path / "plain", nets.make_conv())
    (tmp_path / "dcp/notes").mkdir()
    source = open_directory(tmp_path / "dcp")
    assert (source.adapter, source.step_kind) == ("dcp", "step")
    assert [checkpoint.step for checkpoint in source.checkpoints] == list(range(STATES))
    assert source.skipped_by_reason() == {"not a checkpoint for adapter dcp": ["notes"]}
    assert_same_state(source.read(source.checkpoints[2]), torch.load(tmp_path / "plain/step_2.pt"))
    with pytest.raises(RegimeError, match=r"a single checkpoint \(.distcp files"):
        open_directory(tmp_path / "dcp/step-0")


@pytest.mark.libraries
def test_shards_of_several_processes_are_put_together(mlp_run, tmp_path):
    (tmp_path / "plain").mkdir()
    code = "import sys; from sharded_checkpoints import train_in_two; train_in_two(int(sys.argv[1]), sys.argv[2])"
    for process in [children.start(code, rank, tmp_path) for rank in range(2)]:
        done = process.wait()
        assert done.returncode == 0, done.stderr
    last = tmp_path / "dcp" / str(10 * (STATES - 1))
    split = {entry.path: entry for entry in dcp_metadata.entries_of(last / ".metadata")}
    # 3 rows for 2 processes: unequal pieces.
    assert [piece.sizes for piece in split["model", "body.8.weight"].pieces] == [(2, 20), (1, 20)]
    assert {piece.file for piece in split["model", "body.0.weight"].pieces} == {"__0_0.distcp", "__1_0.distcp"}
    source = open_directory(tmp_path / "dcp")
    assert source.step_kind == "step"
    assert source.order == "the number in the name, which the payloads confirm to be the step"
    state = source.read(source.checkpoints[-1])
    assert state.epoch == 2.0
    assert_same_state(state, torch.load(last.parent.parent / f"plain/step_{last.name}.pt"))
    assert_same_trajectory(tmp_path / "dcp", tmp_path / "plain", tmp_path, program=mlp_run)


def test_optimizer_states_are_not_read(tmp_path):
    model = nets.make_mlp()
    optimizer = torch.optim.AdamW(model.parameters())
    next(iter(list(nets.train(model, 2))))
    optimizer.step()
    for name in ("optimizer", "o"):
        folder = save(tmp_path / name, {"model": model.state_dict(), name: optimizer.state_dict()})
        assert set(from_dcp.read(folder).groups) == {"model"}
    alone = save(tmp_path / "alone", optimizer.state_dict())
    with pytest.raises(NotACheckpoint, match="an optimizer state"):
        from_dcp.read(alone)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"w": torch.ones(2), "scale": torch.tensor(3.0)}, ["w", "scale"]),
        ({"app": {"model": {"a.w": torch.ones(2)}, "optim": {"m": torch.ones(2)}}}, ["a.w"]),
        ({"model": {"_orig_mod.w": torch.ones(2, dtype=torch.bfloat16)}, "rng": torch.get_rng_state()}, ["w"]),
        ({"model": {"w": torch.ones(2)}, "ema": {"w": torch.zeros(2)}, "step": torch.tensor(7)}, ["w"]),
        ({"model": {"w": torch.ones(2, 0), "b": torch.ones(2)}}, ["w", "b"]),
        ({"model": {"w": torch.ones(4, 5)[:, 1:3].T}}, ["w"]),
        ({"a.w": torch.ones(2), "train_state": {"step": torch.tensor(7)}}, ["a.w"]),
        ({"a.w": torch.ones(2), "train_state": {"loss": torch.tensor(0.5)}, "step": torch.tensor(7)}, ["a.w", "step"]),
        ({"a.w": torch.ones(2), "rng": {"cpu": torch.get_rng_state()}, "ema": {"w": torch.zeros(2)}}, ["a.w"]),
        ({"net7": {"w": torch.ones(2)}, "step": torch.tensor(7), "seen": {"samples": torch.tensor(3)}}, ["w"]),
    ],
    ids=[
        "flat",
        "nested",
        "wrapped",
        "average",
        "empty",
        "a view",
        "beside a number",
        "beside numbers",
        "beside random numbers and an average",
        "beside numbers, under a key of its own",
    ],
)
def test_what_is_taken_for_the_model(content, names, tmp_path):
    state = read(from_dcp, save(tmp_path / "c", content))
    assert list(state.tensors) == names
    other = {"scale": 3, "step": 7}
    assert all((tensor == other.get(name, 1)).all() for name, tensor in state.tensors.items())
    assert from_dcp.peek(tmp_path / "c").step == (7 if "step" in content else None)
    if "ema" in content:
        assert (read(from_dcp, tmp_path / "c", "ema").tensors["w"] == 0).all()


@pytest.mark.parametrize(
    "content",
    [
        {"train_state": {"step": torch.tensor(7)}, "rng": {"cpu": torch.get_rng_state()}},
        {"progress": {"loss": torch.tensor(0.5)}},
        {"seen": torch.arange(9), "mask": torch.ones(4, dtype=torch.bool)},
        {"model": {"scale": torch.tensor(1.0)}, "other": torch.arange(3)},
    ],
    ids=["numbers beside a model's", "a loss", "whole numbers", "a scalar"],
)
def test_what_is_no_model_is_refused(content, mlp_run, tmp_path):
    """It is neither checked nor measured: nothing of it is a weight."""
    for step in range(3):
        save(tmp_path / f"run/step-{step}", content)
    with pytest.raises(NotACheckpoint, match="no model weights in it, only"):
        read(from_dcp, tmp_path / "run/step-0")
    with pytest.raises(RegimeError, match=r"none of 3 checkpoints can be read; step 0: no model weights"):
        regime_proto.check(tmp_path / "run")
    for name in (PROGRAM_FILE, PROBE_FILE):
        shutil.copy(mlp_run / name, tmp_path / "run")
    with pytest.raises(RegimeError, match="no model weights in it, only"):
        regime_proto.convert(tmp_path / "run", tmp_path / "run.h5")


def test_a_model_at_the_top_level_measures_as_its_plain_files_do(mlp_run, tmp_path):
    def beside(state, step):
        return {**state, "train_state": {"step": torch.tensor(step), "losses": torch.ones(9)}, "dataloader": {"s": 3}}

    save_run(tmp_path / "dcp", tmp_path / "plain", nets.make_mlp(), beside)
    assert regime_proto.check(tmp_path / "dcp").parameters == regime_proto.check(tmp_path / "plain").parameters
    assert_same_trajectory(tmp_path / "dcp", tmp_path / "plain", tmp_path, program=mlp_run)


def test_many_files_and_a_dtype_for_each(tmp_path):
    dtypes = (torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int64, torch.bool)
    tensors = {str(dtype): torch.ones(3, 4).to(dtype) for dtype in dtypes}
    folder = save(tmp_path / "c", {"model": tensors}, single_file_per_rank=False)
    assert len(list(folder.glob("*.distcp"))) == len(dtypes)
    for name, tensor in read(from_dcp, folder).tensors.items():
        assert f"torch.{tensor.dtype.name}" == name
        assert (tensor.astype(np.float64) == 1).all()


def test_an_unfinished_one_at_the_end_is_left_out(tmp_path):
    save_run(tmp_path / "dcp", tmp_path / "plain", nets.make_mlp())
    last = tmp_path / f"dcp/step-{STATES - 1}"
    metadata = (last / ".metadata").read_bytes()
    shards = next(last.glob("*.distcp"))
    content = shards.read_bytes()
    for damage in (
        (last / ".metadata").unlink,
        lambda: (last / ".metadata").write_bytes(metadata[:-200]),
        lambda: shards.write_bytes(content[:-1]),
        shards.unlink,
    ):
        damage()
        shards.parent.joinpath("__1_0.distcp").touch()
        with pytest.warns(RegimeWarning, match=r"incomplete .*: cut off, or still being written; left out"):
            source = open_directory(tmp_path / "dcp")
        assert [checkpoint.step for checkpoint in source.checkpoints] == list(range(STATES - 1))
        (last / ".metadata").write_bytes(metadata)
        shards.write_bytes(content)


def respelled(folder, **changes):
    """Change fields of the metadata of the last tensor, and of the whole."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    info = next(where for index, where in metadata.storage_data.items() if index.fqn == "model.w")
    chunk = metadata.state_dict_metadata["model.w"].chunks[0]
    for name, value in changes.items():
        for holder in (metadata, metadata.state_dict_metadata["model.w"], info, chunk):
            if hasattr(holder, name):
                setattr(holder, name, value)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relative_path": "../w.distcp"}, r"refused: it names '../w.distcp', outside the folder"),
        ({"relative_path": "/etc/passwd"}, r"refused: it names '/etc/passwd', outside the folder"),
        ({"relative_path": "__9_0.distcp"}, r"__9_0.distcp: damaged or incomplete \(0 bytes of \d+\)"),
        ({"offset": 10**9}, r"damaged or incomplete \(\d+ bytes of 1000\d+\)"),
        ({"offset": -1}, r"damaged \(ValueError\('sizes that are not whole numbers'\)\)"),
        ({"offset": 100}, r"byte 100: damaged or unsafe|damaged or incomplete"),
        ({"length": 10}, r"is larger than its pieces"),
        ({"sizes": torch.Size((2, 2))}, r"the pieces of tensor 'model.w' leave gaps or overlap"),
        ({"size": torch.Size((4, 4))}, r"the pieces of tensor 'model.w' leave gaps or overlap"),
        ({"size": torch.Size((2**40, 2**20)), "sizes": torch.Size((2**40, 2**20))}, r"is larger than its pieces"),
        ({"size": torch.Size((2**40, 2**40))}, r"an impossibly large tensor"),
        (
            {"size": torch.Size((2, 3)), "sizes": torch.Size((2, 3))},
            r"a piece of tensor .* is float32\[3, 2\]; expected float32\[2, 3\]",
        ),
        ({"transform_descriptors": ["zstd"]}, r"its files are transformed"),
        ({"version": "2.0.0"}, r"format version 2.0.0; expected 1"),
        ({"storage_data": {}}, r"tensor 'model.w' has no piece"),
    ],
    ids=str,
)
def test_metadata_that_is_not_so(changes, message, tmp_path):
    folder = save(tmp_path / "c", {"model": {"w": torch.ones(3, 2)}})
    respelled(folder, **changes)
    with pytest.raises(RegimeError, match=message) as error:
        from_dcp.read(folder)
    assert "\n" not in str(error.value)


def test_overlapping_pieces_are_refused():
    def piece(offsets, sizes):
        return dcp_metadata.Piece("f", 0, 1000, offsets, sizes)

    assert from_dcp._is_covered((4, 4), [piece((0, 0), (4, 2)), piece((0, 2), (1, 2)), piece((1, 2), (3, 2))])
    assert not from_dcp._is_covered((4, 4), [piece((0, 0), (4, 2)), piece((0, 1), (4, 2))])
    assert not from_dcp._is_covered((4, 4), [piece((0, 0), (4, 2)), piece((0, 3), (4, 2))])
    assert not from_dcp._is_covered((4, 4), [piece((0, 0), (4, 2)), piece((0,), (8,))])


class Calls:
    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


@pytest.mark.parametrize(
    "function", [os.system, eval, pickle.loads, torch.load, Path, shutil.rmtree], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_what_the_metadata_names_is_not_called(function, protocol, tmp_path):
    folder = save(tmp_path / "c", {"model": {"w": torch.ones(3, 2)}})
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.planner_data["x"] = Calls(function, f"touch {tmp_path}/ran")
    (folder / ".metadata").write_bytes(pickle.dumps(metadata, protocol))
    with pytest.raises(RegimeError, match=r"refused: (the pickle names .*, which no|a pickle with)"):
        from_dcp.read(folder)
    assert not (tmp_path / "ran").exists()


def test_damage_anywhere_in_the_metadata_is_one_line(tmp_path):
    folder = save(tmp_path / "c", {"model": {"w": torch.ones(3, 2), "b": torch.ones(1)}, "step": 3})
    sound = (folder / ".metadata").read_bytes()
    random = np.random.default_rng(0)
    refused = []
    for _ in range(600):
        spoiled = bytearray(sound)
        for at in random.integers(0, len(sound), random.integers(1, 4)):
            spoiled[at] = random.integers(0, 256)
        (folder / ".metadata").write_bytes(spoiled)
        try:
            read(from_dcp, folder)
        except RegimeError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all(len(error.splitlines()) == 1 for error in refused)


def test_nested_tuples_and_a_huge_memo(tmp_path):
    folder = save(tmp_path / "c", {"model": {"w": torch.ones(3, 2)}})
    deep = b"\x80\x04}(" + b")" + b"\x85" * 100_000 + b"K\x01u."
    memo = b"\x80\x04Nr\xff\xff\xff\x7f."
    for content in (deep, memo, b"\x80\x04" + b")" + b"\x85" * 100_000 + b".", b"\x80\x04u."):
        (folder / ".metadata").write_bytes(content)
        with pytest.raises(RegimeError, match=r"refused: a dict with unusual keys|damaged"):
            from_dcp.read(folder)


def test_a_number_that_torch_does_not_trust_is_no_number(tmp_path):
    folder = save(tmp_path / "c", {"model": {"w": torch.ones(2)}, "epoch": 2, "loss": Calls(os.system, "false")})
    payload = from_dcp.read(folder)
    assert payload.facts == {"epoch": 2.0}


def test_a_thousand_of_them_are_listed_at_once(tmp_path):
    model = save(tmp_path / "one", {"model": nets.make_mlp().state_dict()})
    for step in range(1000):
        folder = tmp_path / f"run/step-{step}"
        folder.mkdir(parents=True)
        for file in model.iterdir():
            os.link(file, folder / file.name)
    start = time.perf_counter()
    assert len(open_directory(tmp_path / "run").checkpoints) == 1000
    assert time.perf_counter() - start < 2


def test_a_folder_of_megatron_is_another(tmp_path):
    folder = save(tmp_path / "c", {"model": {"w": torch.ones(2)}})
    (folder / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    assert from_dcp.recognise(folder) is None


def test_an_incomplete_one_says_so(tmp_path):
    folder = save(tmp_path / "c", {"model": {"w": torch.ones(2)}})
    (folder / ".metadata").unlink()
    with pytest.raises(Incomplete, match=r"no .metadata in it"):
        from_dcp.peek(folder)
