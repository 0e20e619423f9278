"""Reading checkpoint directories: what is recognised, what is unwrapped, what is refused."""

import argparse
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint, entry_points

import ml_dtypes
import nets
import numpy as np
import pytest
import torch
from reading import read
from safetensors.torch import save_file

from regime_proto.adapters import from_npz, from_safetensors
from regime_proto.adapters.from_torch import adapter as from_torch
from regime_proto.checkpoints import archives
from regime_proto.checkpoints.payload import Label, NotACheckpoint, label_of
from regime_proto.checkpoints.tensor_names import unwrap
from regime_proto.plugins import registry
from regime_proto.plugins.open_directory import open_directory
from regime_proto.plugins.source_settings import SourceSettings
from regime_proto.schema.errors import RegimeError, RegimeWarning


class Config:
    """A class of the user's own, pickled into a checkpoint."""

    def __init__(self):
        self.width = 3


class Hostile:
    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def assert_weights(state):
    assert set(state.tensors) == set(WEIGHTS)
    for name, tensor in WEIGHTS.items():
        np.testing.assert_array_equal(state.tensors[name], tensor.numpy())


@pytest.mark.parametrize(
    "payload",
    [
        WEIGHTS,
        {"model": WEIGHTS, "step": 3},
        {"state_dict": WEIGHTS, "optimizer_states": [{"state": {}}]},
        {"model_state_dict": WEIGHTS, "ema": {k: v + 1 for k, v in WEIGHTS.items()}, "optimizer": {"m": torch.ones(2)}},
        {"whatever": WEIGHTS, "config": Config(), "args": argparse.Namespace(lr=1), "loss": np.float64(0.5)},
        {"model": WEIGHTS, "rng": torch.zeros(3), "seen": torch.tensor(5)},
        {"whatever": WEIGHTS, "rng_state": torch.zeros(3)},
        {"whatever": WEIGHTS, "step": torch.tensor(3), "best": torch.tensor(0.5), "seen": {"n": torch.tensor(1)}},
        {**WEIGHTS, "train_state": {"step": torch.tensor(3), "losses": torch.zeros(3)}},
        {"trainer": {"net": WEIGHTS, "optimizer": {"m": torch.ones(2)}}, "ema": {"net": {"x": torch.ones(2)}}},
        {"model": {f"module.{name}": tensor for name, tensor in WEIGHTS.items()}},
        {"model": {f"module._orig_mod.{name}": tensor for name, tensor in WEIGHTS.items()}},
        {f"_fsdp_wrapped_module.{name.replace('.', '._checkpoint_wrapped_module.')}": t for name, t in WEIGHTS.items()},
    ],
)  # fmt: skip
def test_payloads_and_prefixes(tmp_path, payload):
    path = tmp_path / "step_3.pt"
    torch.save(payload, path)
    assert from_torch.recognise(path)
    assert_weights(read(from_torch, path))


@pytest.mark.parametrize(
    ("weights", "shift"),
    [(None, 0), ("model", 0), ("ema", 1), ("averages.best", 2), ("averages", None), ("gen", None)],
)
def test_weights_on_request(tmp_path, weights, shift):
    moved = [{name: tensor + by for name, tensor in WEIGHTS.items()} for by in range(3)]
    payload = {"model": moved[0], "ema": moved[1], "averages": {"best": moved[2]}, "optimizer": {"m": torch.ones(2)}}
    torch.save(payload, tmp_path / "a.pt")
    if weights == "gen":
        with pytest.raises(
            RegimeError, match=r"a.pt: no weights under 'gen'; it holds the keys model, ema, averages, optimizer"
        ):
            read(from_torch, tmp_path / "a.pt", weights)
        return
    tensors = read(from_torch, tmp_path / "a.pt", weights).tensors
    if shift is None:
        assert set(tensors) == {f"best.{name}" for name in WEIGHTS}
    else:
        np.testing.assert_array_equal(tensors["a.bias"], WEIGHTS["a.bias"].numpy() + shift)


def test_weights_under_no_key(tmp_path):
    larger = {"teacher": {"x": torch.ones(99)}}
    torch.save({**WEIGHTS, **larger}, tmp_path / "a.pt")
    with pytest.raises(RegimeError, match=r"--weights teacher, or --weights '' for those under no key"):
        read(from_torch, tmp_path / "a.pt")
    assert_weights(read(from_torch, tmp_path / "a.pt", ""))
    assert read(from_torch, tmp_path / "a.pt", "teacher").tensors["x"].size == 99


def test_a_model_of_single_numbers(tmp_path):
    for content in (
        {"a": torch.tensor(1.0), "b": torch.tensor(2.0)},
        {"line": {"a": torch.ones(()), "b": torch.ones(())}},
    ):
        torch.save(content, tmp_path / "a.pt")
        assert set(read(from_torch, tmp_path / "a.pt").tensors) == {"a", "b"}


def test_weights_by_the_front_of_their_names(tmp_path):
    names = {f"{front}.{name}": tensor for front in ("generator", "critic") for name, tensor in WEIGHTS.items()}
    save_file({name: tensor.clone() for name, tensor in names.items()}, tmp_path / "a.safetensors")
    assert_weights(read(from_safetensors, tmp_path / "a.safetensors", "generator"))
    with pytest.raises(RegimeError, match=r"no weights under 'ema'; it holds names that begin with critic, generator"):
        read(from_safetensors, tmp_path / "a.safetensors", "ema")


def test_a_models_own_attribute_called_module_is_kept():
    assert set(unwrap({"module.a": 1, "head": 2}, "x")) == {"module.a", "head"}
    with pytest.raises(RegimeError, match=r"two tensors are named 'a'"):
        unwrap({"a": 1, "_orig_mod.a": 2}, "x")


@pytest.mark.parametrize("payload", [WEIGHTS, {"model": WEIGHTS, "args": argparse.Namespace(lr=1), "config": Config()}])
def test_the_format_before_zip_files(tmp_path, payload):
    path = tmp_path / "step_1.pth"
    torch.save(payload, path, _use_new_zipfile_serialization=False)
    assert from_torch.recognise(path)
    assert_weights(read(from_torch, path))


def test_objects_are_read_by_several_threads_at_once(tmp_path):
    for number in range(20):
        torch.save(
            {"model": WEIGHTS, "args": argparse.Namespace(lr=number), "config": Config()}, tmp_path / f"{number}.pt"
        )
    paths = [tmp_path / f"{number % 20}.pt" for number in range(400)]
    with ThreadPoolExecutor(8) as pool:
        for state in pool.map(lambda path: read(from_torch, path), paths):
            assert_weights(state)


def test_what_a_checkpoint_says_of_itself(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"model": WEIGHTS, "global_step": 30, "epoch": 1.5, "loss": np.float32(0.5), "done": True}, path)
    label = from_torch.peek(path)
    assert label == Label(30, 1.5, {"loss": 0.5})
    state = read(from_torch, path)
    assert state.epoch == 1.5
    assert state.metrics == {"loss": 0.5}


def test_bfloat16_is_kept(tmp_path):
    values = torch.randn(50).bfloat16()
    torch.save({"w": values}, tmp_path / "a.pt")
    save_file({"w": values}, tmp_path / "a.safetensors")
    for found in (read(from_torch, tmp_path / "a.pt"), read(from_safetensors, tmp_path / "a.safetensors")):
        assert found.tensors["w"].dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(found.tensors["w"].astype(np.float32), values.float().numpy())


def test_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(
        {f"_orig_mod.{name}": tensor for name, tensor in WEIGHTS.items()},
        path,
        metadata={"step": "12", "loss": "0.5", "format": "pt"},
    )
    assert from_safetensors.recognise(path)
    assert from_safetensors.peek(path).step == 12
    state = read(from_safetensors, path)
    assert_weights(state)
    assert state.metrics == {"loss": 0.5}


@pytest.mark.parametrize(
    ("function", "argument", "name"),
    [
        (os.system, "touch pwned", r"(posix|os)\.system"),
        (eval, "open('pwned', 'w')", r"(builtins|__builtin__)\.eval"),
        (exec, "open('pwned', 'w')", r"(builtins|__builtin__)\.exec"),
        (subprocess.Popen, ["touch", "pwned"], r"(subprocess|commands)\.Popen"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_pickles_are_refused_unrun(tmp_path, monkeypatch, function, argument, name, zipped):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "step_1.pt"
    torch.save({"model": WEIGHTS, "x": Hostile(function, argument)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(RegimeError, match=rf"step_1.pt: refused: the pickle calls {name}"):
        read(from_torch, path)
    assert not (tmp_path / "pwned").exists()


def test_an_unknown_callable_becomes_a_stub(tmp_path, monkeypatch):
    """Whatever is not known to be hostile is not run either."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "step_1.pt"
    torch.save({"model": WEIGHTS, "x": Hostile(np.save, "pwned.npy")}, path)
    assert_weights(read(from_torch, path))
    assert not list(tmp_path.glob("pwned*"))


@pytest.mark.parametrize(
    ("payload", "error", "message"),
    [
        ([1, 2], RegimeError, "holds a list, not a dict"),
        (nets.make_mlp(), RegimeError, "not a dict of tensors; save model.state_dict"),
        ({"state": {}, "param_groups": []}, NotACheckpoint, "an optimizer state"),
        ({"step": 3}, NotACheckpoint, "no dict of tensors"),
        ({"gen": WEIGHTS, "dis": WEIGHTS}, RegimeError, "several keys .dis, gen.; choose one.*--weights dis"),
        ({"w": torch.eye(2).to_sparse()}, RegimeError, "'w' is sparse"),
        ({"step": torch.tensor(3)}, NotACheckpoint, r"no model weights in it, only step \(int64\[\]\)"),
        ({"loss": torch.tensor(3.0)}, NotACheckpoint, "no model weights in it, only loss"),
        ({"model": {"seen": torch.arange(3)}, "b": {}}, NotACheckpoint, r"only seen \(int64\[3\]\); it holds the keys"),
        ({"ema": WEIGHTS}, NotACheckpoint, "the only weights in it are an average; to read that, give --weights ema"),
        (
            {"mine": WEIGHTS, "mean": torch.ones(2)},
            RegimeError,
            r"no key \(mean\) and more .* \(mine\); .*--weights mine",
        ),
    ],
)
def test_payloads_without_a_state(tmp_path, payload, error, message):
    torch.save(payload, tmp_path / "a.pt")
    with pytest.raises(error, match=message):
        read(from_torch, tmp_path / "a.pt")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files(tmp_path, share):
    torch.save({"model": WEIGHTS}, tmp_path / "a.pt")
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    for path, adapter in ((tmp_path / "a.pt", from_torch), (tmp_path / "a.safetensors", from_safetensors)):
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(RegimeError, match=rf"{path.name}: damaged"):
            read(adapter, path)


PATHS = {"params/Dense_0/kernel": np.ones((2, 3)), "params/Dense_0/bias": np.arange(3)}
ADAM = {"opt_state/0/count": np.array(7), "opt_state/0/mu/Dense_0/kernel": np.ones((2, 3)), "epoch": np.array(2)}


def test_names_in_npz_files_that_are_paths_in_a_tree(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, step=7, **PATHS, **ADAM)
    found = read(from_npz, path)
    assert set(found.tensors) == {"Dense_0.kernel", "Dense_0.bias"}
    np.testing.assert_array_equal(found.tensors["Dense_0.bias"], np.arange(3))
    assert set(read(from_npz, path, "opt_state").tensors) == {"0.count", "0.mu.Dense_0.kernel"}
    assert from_npz.peek(path) == Label(step=7, epoch=2)
    np.savez(path, **{f"state/{name}": array for name, array in {**PATHS, **ADAM, "loss": np.array(0.5)}.items()})
    assert set(read(from_npz, path).tensors) == {"Dense_0.kernel", "Dense_0.bias"}
    assert from_npz.peek(path) == Label(epoch=2, metrics={"loss": 0.5})


def test_an_npz_file_of_an_optimizer_alone_is_no_checkpoint(tmp_path):
    np.savez(tmp_path / "a.npz", **ADAM)
    for function in (from_npz.peek, from_npz.read):
        with pytest.raises(NotACheckpoint, match="no arrays of a model"):
            function(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "arrays",
    [
        {**PATHS, "head": np.ones(2)},
        {**PATHS, "params/Dense_0": np.array(1.0)},
        {"a.weight": np.ones(2), "a.count": np.array(3)},
    ],
)
def test_other_names_in_npz_files_stay_as_they_are(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", step=7, **arrays)
    assert set(read(from_npz, tmp_path / "a.npz").tensors) == arrays.keys() - {"params/Dense_0"}
    assert from_npz.peek(tmp_path / "a.npz").step == 7


def test_peek_reads_no_tensors_of_npz_files(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", step=7, **PATHS, **ADAM)
    read_shapes = []
    made = archives._array
    monkeypatch.setattr(
        archives,
        "_array",
        lambda content, shape, *rest, **more: read_shapes.append(shape) or made(content, shape, *rest, **more),
    )
    assert from_npz.peek(tmp_path / "a.npz").step == 7
    # The numbers step, epoch and opt_state/0/count.
    assert read_shapes == [(), (), ()]


READERS = {
    "accelerate", "dcp", "flax", "folder", "huggingface", "keras", "lightning", "npz", "onnx", "orbax", "safetensors",
    "sklearn", "torch",
}  # fmt: skip


def test_a_broken_adapter_is_left_out_with_a_warning(monkeypatch):
    broken = EntryPoint("mine", "no_such_package.from_mine", registry.GROUP)
    real = list(entry_points(group=registry.GROUP))
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken, *real])
    with pytest.warns(RegimeWarning, match=r"adapter 'mine' .no_such_package.from_mine. is ignored"):
        found = registry.adapters.__wrapped__()
    assert set(found) == {*READERS, "advice", "jax"}


def test_the_adapters_follow_their_protocols():
    assert set(registry.readers()) == READERS
    assert registry.is_model(nets.make_mlp())
    assert not registry.is_model({"weights": 1})
    with pytest.raises(RegimeError, match=r"model of type builtins.dict: no adapter exports it"):
        registry.exporter_for({})


def names(checkpoints):
    return [checkpoint.path.name for checkpoint in checkpoints]


def test_a_directory_with_everything_in_it(tmp_path):
    for step in (2, 10, 1):
        torch.save({"model": WEIGHTS, "step": step}, tmp_path / f"model_{step}.pt")
        torch.save({"state": {}, "param_groups": []}, tmp_path / f"optimizer_{step}.pt")
    torch.save({"model": WEIGHTS, "step": 10}, tmp_path / "last.pt")
    torch.save({"model": WEIGHTS, "step": 7}, tmp_path / "best.pt")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.pt").write_text("x")
    source = open_directory(tmp_path)
    assert source.adapter == "torch"
    assert source.step_kind == "step"
    assert names(source.checkpoints) == ["model_1.pt", "model_2.pt", "best.pt", "model_10.pt"]
    assert source.skipped_by_reason() == {
        "an optimizer state": ["optimizer_1.pt", "optimizer_10.pt", "optimizer_2.pt"],
        "not a checkpoint for adapter torch": ["notes.txt"],
        "a copy of step 10": ["last.pt"],
    }


def test_files_without_a_number_go_where_they_say(tmp_path):
    for step in (1, 2):
        torch.save({"model": WEIGHTS, "step": step}, tmp_path / f"model_{step}.pt")
    torch.save({"model": WEIGHTS, "step": 0}, tmp_path / "init.pt")
    torch.save({"model": WEIGHTS}, tmp_path / "final_model.pt")
    source = open_directory(tmp_path)
    assert names(source.checkpoints) == ["init.pt", "model_1.pt", "model_2.pt"]
    assert source.skipped_by_reason() == {"it does not hold its step, and its name has none": ["final_model.pt"]}


def test_the_kind_with_most_files_is_read(tmp_path):
    for step in range(3):
        save_file(WEIGHTS, tmp_path / f"step_{step}.safetensors")
    torch.save(WEIGHTS, tmp_path / "init.pt")
    source = open_directory(tmp_path)
    assert source.adapter == "safetensors"
    assert names(source.checkpoints) == ["step_0.safetensors", "step_1.safetensors", "step_2.safetensors"]


def test_select(tmp_path):
    for step in range(10):
        torch.save(WEIGHTS, tmp_path / f"step_{step}.pt")
    source = open_directory(tmp_path)
    assert [c.step for c in source.select("2:8", 3).checkpoints] == [2, 5, 8]
    assert [c.step for c in source.select("7:").checkpoints] == [7, 8, 9]
    with pytest.raises(RegimeError, match=r"--every 0"):
        source.select(every=0)
    with pytest.raises(RegimeError, match=r"one checkpoint \(step_3.pt\) to analyze"):
        source.select("3:3").require_two()


def numbered(tmp_path, names):
    for name in names:
        torch.save(WEIGHTS, tmp_path / name)
    return tmp_path


def test_a_pattern_says_where_the_step_stands(tmp_path):
    folder = numbered(tmp_path, ["ckpt_10_v2.pt", "ckpt_9_v2.pt", "ckpt_100_v2.pt", "other_3.pt"])
    source = open_directory(folder, SourceSettings(step_pattern=r"ckpt_(\d+)"))
    assert [checkpoint.step for checkpoint in source.checkpoints] == [9, 10, 100]
    assert source.step_kind == "step"
    assert source.skipped_by_reason() == {"--step-pattern does not match its name": ["other_3.pt"]}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", r"'\(': not a valid regular expression"),
        (r"ckpt_\d+", "has 0 groups; expected one around the step"),
        (r"(c)kpt_(\d+)", "has 2 groups"),
        (r"step(\d+)", "matches no name, for example not ckpt_1"),
        ("(ckpt)", "finds 'ckpt' in ckpt_1.*expected digits"),
        (r"ckpt_\d+_(\d)", "both have step 2 .--step-pattern.; move one"),
    ],
)
def test_patterns_that_do_not_fit(tmp_path, pattern, message):
    folder = numbered(tmp_path, ["ckpt_10_2.pt", "ckpt_11_2.pt"])
    with pytest.raises(RegimeError, match=message):
        open_directory(folder, SourceSettings(step_pattern=pattern))


@pytest.mark.parametrize(
    ("names", "pattern", "steps", "kind"),
    [
        (["ckpt_10.pt", "ckpt_9.pt"], r"ckpt_(?P<epoch>\d+)", [9, 10], "epoch"),
        (["ckpt_10.pt", "ckpt_9.pt"], r"ckpt_(?P<step>\d+)", [9, 10], "step"),
        (["s_2k.pt", "s_500.pt", "s_1.5k.pt", "s_1M.pt"], r"s_([\d.]+[kM]?)\.pt", [500, 1500, 2000, 10**6], "step"),
        (["s_2,000.pt", "s_500.pt", "s_1_000.pt"], r"s_([\d_,]+)", [500, 1000, 2000], "step"),
        (["s_2k.pt", "s_3k.pt"], r"s_(\d+)k", [2, 3], "step"),
        (["s_1.25.pt", "s_2.5.pt"], r"s_(\d+)\.", [1, 2], "step"),
    ],
)
def test_what_a_pattern_may_find(tmp_path, names, pattern, steps, kind):
    source = open_directory(numbered(tmp_path, names), SourceSettings(step_pattern=pattern))
    assert ([checkpoint.step for checkpoint in source.checkpoints], source.step_kind) == (steps, kind)


@pytest.mark.parametrize(
    ("name", "pattern", "message"),
    [
        ("s_20k.pt", r"s_(\d+)", r"finds '20' in s_20k.pt, which is only part of '20k'; put the whole number into"),
        ("s_20k.pt", r"s_(\d)", r"finds '2' in s_20k.pt, which is only part of '20k'"),
        ("s_1,000.pt", r"s_(\d+)", "part of '1,000'"),
        ("s_1,000.pt", r"(\d+)\.pt", "part of '1,000'"),
        ("s-0.25.pt", r"(\d+)\.pt$", "finds '25' in s-0.25.pt, which is only part of '0.25'"),
        ("s-0.25.pt", r"-(\d+)", "finds '0' in s-0.25.pt, which is only part of '0.25'"),
        ("s-0.25.pt", r"-([\d.]+)\.pt", "finds '0.25' in s-0.25.pt; expected digits"),
        ("s-1.2345k.pt", r"-([\d.k]+)\.pt", "finds '1.2345k' in s-1.2345k.pt; expected digits"),
    ],
)
def test_a_pattern_finds_no_part_of_a_number_and_no_decimal(tmp_path, name, pattern, message):
    with pytest.raises(RegimeError, match=message):
        open_directory(numbered(tmp_path, [name]), SourceSettings(step_pattern=pattern))


def test_a_proposed_pattern_works_on_the_same_directory(tmp_path):
    folder = numbered(tmp_path, ["net_3_91.pt", "net_10_90.pt", "net_20_95.pt", "last.pt", "best_net_3_91.pt"])
    torch.save({"state": {}, "param_groups": []}, folder / "optimizer_3_91.pt")
    with pytest.raises(
        RegimeError, match=r"the order of the checkpoints is unclear: .* give different orders"
    ) as found:
        open_directory(folder)
    assert str(found.value).startswith(f"{folder}: ")
    proposed = re.findall(r"--step-pattern '([^']+)' \(3 of 5\)", str(found.value))
    sequences = [
        [c.path.name for c in open_directory(folder, SourceSettings(step_pattern=one)).checkpoints] for one in proposed
    ]
    assert ["net_3_91.pt", "net_10_90.pt", "net_20_95.pt"] in sequences
    assert len(sequences) == 2


def test_a_source_knows_its_other_orders(tmp_path):
    for step, score in enumerate((95, 91, 92, 90)):
        torch.save({"model": WEIGHTS, "step": step}, tmp_path / f"net_{step}_{score}.pt")
    torch.save({"model": WEIGHTS, "step": 5}, tmp_path / "last.pt")
    source = open_directory(tmp_path)
    assert source.step_kind == "step"
    (other,) = source.other_orders
    assert other.reason == "number 2 in the file name"
    backwards = ["net_3_90.pt", "last.pt", "net_1_91.pt", "net_2_92.pt", "net_0_95.pt"]
    assert [path.name for path in other.paths] == backwards
    (other,) = source.select("1:").other_orders
    assert [path.name for path in other.paths] == backwards[:4]
    # Of these two both orders are one.
    assert source.select("1:2").other_orders == ()


def test_a_best_one_beside_numbered_ones_is_a_copy(tmp_path):
    source = open_directory(numbered(tmp_path, ["epoch_1.pth", "epoch_2.pth", "best_acc_epoch_2.pth"]))
    assert source.skipped_by_reason() == {
        "it does not hold its step, and by its name it is a copy": ["best_acc_epoch_2.pth"]
    }


def test_one_that_is_being_written_does_not_hinder_the_order(tmp_path):
    for epoch in range(4):
        torch.save({"model": WEIGHTS, "epoch": epoch}, tmp_path / f"net_{epoch + 1}.pt")
    last = tmp_path / "net_4.pt"
    last.write_bytes(last.read_bytes()[:-200])
    with pytest.warns(RegimeWarning, match="cut off, or still being written; left out"):
        source = open_directory(tmp_path)
    assert (source.step_kind, [checkpoint.step for checkpoint in source.checkpoints]) == ("epoch", [0, 1, 2])
    assert source.skipped_by_reason() == {"cut off, or still being written": ["net_4.pt"]}


@pytest.mark.parametrize(
    ("facts", "step", "epoch"),
    [
        ({"iter_num": 5}, 5, None),
        ({"step_count": 5, "current_epoch": 1.5}, 5, 1.5),
        ({"num_updates": 5, "Epoch": 2}, 5, 2),
        ({"N_steps": 5, "EPOCH": 2}, 5, 2),
        ({"Step": 5}, 5, None),
        ({"iter_num": 6, "global_step": 5}, 5, None),
        ({"step": 5, "Step": 6}, 5, None),
    ],
)
def test_names_of_steps_and_epochs(facts, step, epoch):
    assert label_of({**facts, "loss": 0.5}) == Label(step, epoch, {"loss": 0.5})


def test_what_is_configured_is_no_step():
    assert label_of({"n_steps": 2048, "num_epochs": 90}) == Label(metrics={"n_steps": 2048, "num_epochs": 90})


def test_an_adapter_by_name(tmp_path):
    for step in range(3):
        save_file(WEIGHTS, tmp_path / f"step_{step}.safetensors")
    numbered(tmp_path, ["step_0.pt", "step_1.pt"])
    assert open_directory(tmp_path).adapter == "safetensors"
    source = open_directory(tmp_path, SourceSettings(adapter="torch"))
    assert names(source.checkpoints) == ["step_0.pt", "step_1.pt"]
    with pytest.raises(RegimeError, match=r"--adapter 'torhc': expected one of accelerate, .*nearest: 'torch'"):
        open_directory(tmp_path, SourceSettings(adapter="torhc"))
    with pytest.raises(RegimeError, match=r"no checkpoint found .*expected files of \.onnx"):
        open_directory(tmp_path, SourceSettings(adapter="onnx"))


def test_the_directory_above_or_below_the_right_one(tmp_path):
    folder = tmp_path / "lightning_logs/version_0"
    folder.mkdir(parents=True)
    numbered(folder, ["step_1.pt", "step_2.pt"])
    with pytest.raises(
        RegimeError, match=r"lightning_logs: no checkpoint found, but 2 in .*version_0; give that directory"
    ):
        open_directory(tmp_path / "lightning_logs")
    inner = tmp_path / "run/step1000"
    inner.mkdir(parents=True)
    save_file(WEIGHTS, inner / "model.safetensors")
    with pytest.raises(RegimeError, match=r"step1000: a single checkpoint .a folder with model.safetensors."):
        open_directory(inner)


def test_a_number_in_the_name_is_a_step_if_payloads_say_so(tmp_path):
    for number in range(20):
        torch.save({"model": WEIGHTS, "step": number}, tmp_path / f"ckpt_{number}.pt")
    source = open_directory(tmp_path)
    assert source.step_kind == "step"
    assert source.order == "the number in the name, which the payloads confirm to be the step"


def test_a_probe_beside_the_directories_of_runs_is_no_run(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        numbered(tmp_path / name, ["step_1.pt", "step_2.pt"])
    np.savez(tmp_path / "v16.npz", x=np.ones((4, 3)))
    with pytest.raises(RegimeError, match=r"one file that could be a checkpoint, but 2 in .*one; give that directory"):
        open_directory(tmp_path)
