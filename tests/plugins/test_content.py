"""Files are recognised by how they begin: with foreign suffixes, with none, and among thousands of others."""

import io
import json
import os
import tarfile
import time
import zipfile

import numpy as np
import onnx
import pytest
import sources
import torch
from commands import assert_one_line, regime
from safetensors.torch import save_file

from regime_proto.adapters import from_folder, from_safetensors
from regime_proto.adapters.from_jax import from_flax
from regime_proto.adapters.from_onnx import adapter as from_onnx
from regime_proto.adapters.from_torch import adapter as from_torch
from regime_proto.checkpoints.locations import first_bytes
from regime_proto.plugins import registry
from regime_proto.plugins.open_directory import NoCheckpoint, open_directory
from regime_proto.plugins.source_settings import SourceSettings
from regime_proto.schema.errors import RegimeError, RegimeWarning

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def named(checkpoints):
    return [checkpoint.path.name for checkpoint in checkpoints]


def save(path, step=0, **options):
    torch.save({"model": WEIGHTS, "step": step}, path, **options)


def save_arrays(path, step):
    with path.open("wb") as file:
        np.savez(file, step=step, **{name: tensor.numpy() for name, tensor in WEIGHTS.items()})


WRITERS = {
    "torch": lambda path, step: save(path, step),
    "torch before zip files": lambda path, step: save(path, step, _use_new_zipfile_serialization=False),
    "safetensors": lambda path, step: save_file(WEIGHTS, path, metadata={"step": str(step)}),
    "npz": save_arrays,
}


@pytest.mark.parametrize("name", ["checkpoint_{}", "{}", "step_{}.pth.tar", "step_{}.tar", "step_{}.th", "net.v2_{}.x"])
@pytest.mark.parametrize("kind", WRITERS)
def test_any_name_will_do(tmp_path, kind, name):
    for step in (1, 10, 2):
        WRITERS[kind](tmp_path / name.format(step), step)
    (tmp_path / "log.txt").write_text("step 1\n")
    source = open_directory(tmp_path)
    adapter = kind.partition(" ")[0]
    assert source.adapter == adapter
    assert len(source.recognised) > 10
    assert named(source.checkpoints) == [name.format(step) for step in (1, 2, 10)]
    assert set(source.read(source.checkpoints[0]).tensors) == set(WEIGHTS)
    assert open_directory(tmp_path, SourceSettings(adapter=adapter)).checkpoints == source.checkpoints
    with pytest.raises(NoCheckpoint, match="no checkpoint found"):
        open_directory(tmp_path, SourceSettings(adapter="onnx"))
    assert f"{adapter} ({source.recognised})" in regime("inspect", tmp_path).output
    assert_one_line(regime("analyze", tmp_path / name.format(1)), "a single checkpoint; give the directory")


def onnx_files(folder, states):
    """Graphs of one product, whose weights alone differ."""
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 2]) for name in "xy"]
    for step in states:
        weight = onnx.numpy_helper.from_array(np.full((2, 2), step, "float32"), "w")
        nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
        graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
        onnx.save(onnx.helper.make_model(graph), folder / f"step_{step}.onnx")


CASES = {
    "onnx": (onnx_files, None),
    "flax": (sources.flax_files, "flax"),
    "keras": (sources.keras_files, "keras"),
    "sklearn": (sources.skops_files, "skops"),
    "lightning": (sources.lightning_files, "lightning"),
}


@pytest.mark.libraries
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("adapter", CASES)
def test_what_other_libraries_write_under_another_name(tmp_path, adapter):
    write, library = CASES[adapter]
    if library is not None:
        pytest.importorskip(library)
    make = sources.plain_mlp if adapter in ("keras", "sklearn") else sources.mlp
    write(tmp_path, sources.states(make))
    usual = open_directory(tmp_path)
    expected = [usual.read(checkpoint).tensors for checkpoint in usual.checkpoints]
    for checkpoint in usual.checkpoints:
        checkpoint.path.rename(tmp_path / f"state_{checkpoint.step}")
    found = open_directory(tmp_path)
    assert found.adapter == adapter
    assert [checkpoint.step for checkpoint in found.checkpoints] == [c.step for c in usual.checkpoints]
    for checkpoint, tensors in zip(found.checkpoints, expected, strict=True):
        for name, array in found.read(checkpoint).tensors.items():
            np.testing.assert_array_equal(array, tensors[name])


def archive(path, *names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"content")


def unrelated(folder, number):
    """Write files of other kinds, whose beginnings look like one thing or another."""
    with tarfile.open(folder / f"dataset_{number}.tar", "w") as tar:
        inner = io.BytesIO()
        torch.save(WEIGHTS, inner)
        info = tarfile.TarInfo("train/model_1.pt")
        info.size = inner.tell()
        inner.seek(0)
        tar.addfile(info, inner)
    archive(folder / f"code_{number}.jar", "META-INF/MANIFEST.MF")
    archive(folder / f"text_{number}.docx", "[Content_Types].xml", "data.pkl")
    (folder / f"log_{number}").write_text("2026-01-01 began\n")
    (folder / f"quoted_{number}.log").write_text('"a", "b"\n')
    (folder / f"protocol_{number}.pb").write_bytes(b"\x08\x01\x12\x30" + bytes(60))
    (folder / f"numbers_{number}.raw").write_bytes(np.linspace(-1, 1, 500, dtype="float32").tobytes())
    (folder / f"map_{number}.mp").write_bytes(b"\x81\xa3lr!\xcb" + bytes(8))
    (folder / f"picture_{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(60))
    (folder / f"pickle_{number}.p").write_bytes(b"\x80\x04\x95" + bytes(60))
    (folder / f"empty_{number}").write_bytes(b"")
    (folder / f"words_{number}.bin2").write_bytes((40).to_bytes(8, "little") + b"{words" + bytes(40))


def test_other_files_are_not_taken_for_checkpoints(tmp_path):
    for number in range(3):
        unrelated(tmp_path, number)
    with pytest.raises(NoCheckpoint, match="no checkpoint found"):
        open_directory(tmp_path)
    for number in range(2):
        save(tmp_path / f"checkpoint_{number}.pth.tar", number)
    source = open_directory(tmp_path)
    assert named(source.checkpoints) == ["checkpoint_0.pth.tar", "checkpoint_1.pth.tar"]
    assert list(source.skipped_by_reason()) == ["not a checkpoint for adapter torch"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_random_bytes_are_nothing(seed):
    generator = np.random.default_rng(seed)
    readers = [reader for reader in registry.readers().values() if isinstance(reader, registry.Sniffing)]
    assert len(readers) == 8
    found = sum(reader.sniff(generator.bytes(64)) for _ in range(4000) for reader in readers)
    assert found == 0
    # Only what comes after the first bytes is random.
    for start in (b"PK\3\4", b"\x80\x02", b"\x82\xa4", b"{", b"\x08\x01"):
        assert not any(reader.sniff(start + generator.bytes(60)) for _ in range(50) for reader in readers)


def test_the_beginnings_that_count():
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    assert from_safetensors.sniff(len(header).to_bytes(8, "little") + header)
    assert not from_safetensors.sniff((2**40).to_bytes(8, "little") + header)
    # So long a header begins as a pickle does.
    assert from_safetensors.sniff((0x280).to_bytes(8, "little") + header)
    assert from_onnx.sniff(b"\x08\x0a\x12\x07pytorch")
    assert not from_onnx.sniff(b"\x08")
    assert from_flax.sniff(b"\x82\xa4step\x05\xa6params\x81\xa1w\xc7\x10\x01")
    assert not from_flax.sniff(b"\x82\xa4step\x05\xa6params\x81\xa1w\xc7\x10\x05")
    for short in (b"", b"P", b"PK\3\4", b"\x80", b"\x81", b"\xdf", b"\x82\xa4"):
        assert not any(r.sniff(short) for r in registry.readers().values() if isinstance(r, registry.Sniffing))


def test_safetensors_whose_header_looks_like_a_pickle(tmp_path):
    """Its length begins with the bytes of a pickle, and its suffix is one of torch's."""
    for step in range(2):
        for pad in range(700):
            save_file(WEIGHTS, tmp_path / f"step_{step}.bin", metadata={"note": "x" * pad})
            if first_bytes(tmp_path / f"step_{step}.bin", 2) == b"\x80\x02":
                break
    assert first_bytes(tmp_path / "step_0.bin", 2) == b"\x80\x02"
    assert open_directory(tmp_path).adapter == "safetensors"


def test_content_counts_where_the_suffix_is_another_adapters(tmp_path):
    for step in range(2):
        save_file(WEIGHTS, tmp_path / f"step_{step}.ckpt")
    assert open_directory(tmp_path).adapter == "safetensors"


def test_suffixes_come_first(tmp_path):
    """What is read today stays what is read, and what is set aside is named."""
    for step in range(3):
        save(tmp_path / f"step_{step}.pt", step)
        save(tmp_path / f"features_{step}.pkl", step)
    source = open_directory(tmp_path)
    assert named(source.checkpoints) == [f"step_{step}.pt" for step in range(3)]
    assert source.skipped_by_reason() == {
        "has a different suffix from step_0.pt": [f"features_{step}.pkl" for step in range(3)]
    }


def test_more_without_a_suffix_than_with_one(tmp_path):
    for step in range(1, 4):
        save(tmp_path / f"checkpoint_{step}", step)
    save(tmp_path / "init.pt", 0)
    assert named(open_directory(tmp_path).checkpoints) == ["init.pt", *(f"checkpoint_{step}" for step in range(1, 4))]


def test_the_last_one_may_still_be_being_written(tmp_path):
    for step in range(3):
        save(tmp_path / f"checkpoint_{step}", step)
    content = (tmp_path / "checkpoint_2").read_bytes()
    for length in (0, 5, len(content) // 2):
        (tmp_path / "checkpoint_2").write_bytes(content[:length])
        with pytest.warns(RegimeWarning, match="checkpoint_2.*: cut off, or still being written; left out"):
            assert named(open_directory(tmp_path).checkpoints) == ["checkpoint_0", "checkpoint_1"]


def test_pipes_are_not_opened(tmp_path):
    """Whoever opened one for reading would wait there for ever."""
    os.mkfifo(tmp_path / "checkpoint_0")
    for step in (1, 2):
        save(tmp_path / f"checkpoint_{step}", step)
    (tmp_path / "checkpoint_0").unlink()
    os.mkfifo(tmp_path / "other_0")
    assert named(open_directory(tmp_path).checkpoints) == ["checkpoint_1", "checkpoint_2"]


@pytest.mark.parametrize("name", ["weights.th", "model.pth.tar", "weights"])
def test_folders_whose_file_has_another_suffix(tmp_path, name):
    for step in (1, 2):
        (tmp_path / f"step{step}").mkdir()
        save(tmp_path / f"step{step}/{name}", step)
        (tmp_path / f"step{step}/notes.txt").write_text("x")
        save(tmp_path / f"step{step}/optimizer.th")
    source = open_directory(tmp_path)
    assert source.adapter == "folder"
    assert source.recognised == f"a folder with {name}"
    assert set(source.read(source.checkpoints[0]).tensors) == set(WEIGHTS)
    save(tmp_path / "step1/another.th")
    assert from_folder.recognise(tmp_path / "step1") is None


def test_thousands_of_other_files_are_looked_at_quickly(tmp_path):
    """Names that differ in more than digits, so that each is a kind of its own."""
    for number in range(3000):
        letters = "".join(chr(97 + int(digit)) for digit in str(number))
        (tmp_path / f"image_{letters}.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(600))
    for step in range(3):
        save(tmp_path / f"step_{step}", step)
    begin = time.process_time()
    assert len(open_directory(tmp_path).checkpoints) == 3
    # Some 60 µs a file; a directory of 10,000 takes less than a second.
    assert time.process_time() - begin < 2


def test_an_adapter_that_fails_on_the_first_bytes_is_left_out(tmp_path, monkeypatch):
    for step in range(2):
        save(tmp_path / f"step_{step}", step)

    def fail(start):
        raise KeyError(start)

    monkeypatch.setattr(from_flax, "sniff", fail)
    with pytest.warns(RegimeWarning, match=r"step_0: adapter 'flax' fails on its first bytes \(KeyError\)"):
        assert open_directory(tmp_path).adapter == "torch"


def test_a_script_of_torch_is_named_whatever_its_suffix(tmp_path):
    archive(tmp_path / "net_1", "net/data.pkl", "net/code/net.py", "net/constants.pkl")
    archive(tmp_path / "net_2", "net/data.pkl", "net/code/net.py", "net/constants.pkl")
    with pytest.raises(RegimeError, match="net_1: a TorchScript file, which holds code; extract its"):
        open_directory(tmp_path)
    assert from_torch.sniff(first_bytes(tmp_path / "net_1", registry.FIRST_BYTES))
