"""Reading torch's zip files without torch: what is read equals what torch reads, and a hostile file does nothing."""

import argparse
import io
import math
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
import torch
from reading import read
from safetensors.torch import save_file
from torch import nn

from regime_proto.adapters import from_safetensors, mapped
from regime_proto.adapters.from_torch import adapter as from_torch
from regime_proto.adapters.from_torch import zip_file
from regime_proto.schema.errors import RegimeError

MODEL = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(4, 2))
DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.bool,
    torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
]  # fmt: skip
BASE = torch.arange(24.0).reshape(4, 6)


def saved(tmp_path, payload, name="a.pt", **options):
    torch.save(payload, tmp_path / name, **options)
    return tmp_path / name


def assert_same(found, expected):
    """Compare what was read without torch with what torch reads, all the way down."""
    if isinstance(expected, torch.Tensor):
        assert isinstance(found, np.ndarray)
        assert found.shape == tuple(expected.shape)
        assert found.dtype.name == str(expected.dtype).removeprefix("torch.")
        assert not found.flags.writeable
        assert found.tobytes() == bytes(expected.detach().contiguous().view(-1).view(torch.uint8).numpy())
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize(
    "payload",
    [
        MODEL.state_dict(),
        nn.DataParallel(MODEL).state_dict(),
        dict(MODEL.named_parameters()),
        {"model": MODEL.state_dict(), "step": 3, "epoch": 1.5, "loss": 0.25, "done": True, "note": None, "many": 2**40},
        {"w": BASE, "optimizer": torch.optim.Adam(MODEL.parameters()).state_dict(), "shape": torch.Size([4, 6])},
        OrderedDict(b=BASE, a=[1, (2, 3, 4, 5), {"x": -1}, "é" * 300]),
        {"transposed": BASE.t(), "sliced": BASE[1:3, ::2], "expanded": torch.arange(3.0).expand(2, 3), "row": BASE[2]},
        {"scalar": torch.tensor(3), "empty": torch.empty(0), "none": torch.empty(2, 0, 3), "tied": BASE, "w": BASE},
        {str(dtype): torch.tensor([0, 1, 1]).to(dtype) for dtype in DTYPES},
        {f"{number}": torch.full((number % 5,), number) for number in range(600)},
    ],
)
def test_what_is_read_equals_what_torch_reads(tmp_path, payload):
    path = saved(tmp_path, payload)
    assert_same(zip_file.load(path), torch.load(path, weights_only=True))


def test_tensors_view_the_file(tmp_path):
    found = zip_file.load(saved(tmp_path, {"w": BASE, "tied": BASE}))
    assert np.shares_memory(found["w"], found["tied"])
    assert type(found["w"].base).__name__ == "mmap"


def test_safetensors_are_views_of_the_file_in_every_dtype(tmp_path):
    known = {**{str(dtype): torch.tensor([0, 1, 1]).to(dtype) for dtype in DTYPES if "fnuz" not in str(dtype)}}
    del known["torch.complex128"]
    save_file({**known, "scalar": torch.tensor(3), "empty": torch.empty(2, 0), "w": BASE}, tmp_path / "a.safetensors")
    found = read(from_safetensors, tmp_path / "a.safetensors").tensors
    for name, tensor in known.items():
        assert found[name].flags.aligned
        assert found[name].dtype.name == name.removeprefix("torch.")
        assert found[name].tobytes() == bytes(tensor.view(torch.uint8).numpy())
    np.testing.assert_array_equal(found["w"], BASE)
    assert (found["scalar"].shape, found["empty"].shape) == ((), (2, 0))
    assert type(found["w"].base).__name__ == "mmap"


@pytest.mark.parametrize("legacy", [False, True])
def test_both_ways_of_reading_give_the_same_arrays(tmp_path, legacy):
    # The format before zip files knows the dtypes of its time only.
    known = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.int64] if legacy else DTYPES
    weights = {str(dtype): torch.tensor([0, 1, 1]).to(dtype) for dtype in known} | {"t": BASE.t()}
    plain = read(from_torch, saved(tmp_path, weights)).tensors
    unusual = {"model": weights, "x": argparse.Namespace(a=np.arange(3)), "array": np.arange(3)}
    path = saved(tmp_path, unusual, "b.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(zip_file.NotPlain):
        zip_file.load(path)
    other = read(from_torch, path).tensors
    assert list(other) == list(plain)
    for name, array in plain.items():
        assert (other[name].dtype, other[name].tobytes()) == (array.dtype, array.tobytes())


def test_a_sparse_tensor_matters_only_among_the_weights(tmp_path):
    sparse = torch.eye(2).to_sparse()
    path = saved(tmp_path, {"model": {"w": BASE}, "ema": {"w": sparse}})
    np.testing.assert_array_equal(read(from_torch, path).tensors["w"], BASE)
    with pytest.raises(RegimeError, match=r"tensor 'w' is sparse or quantized; expected dense numbers"):
        read(from_torch, saved(tmp_path, {"w": sparse}))


READ = """
import sys
from pathlib import Path
if sys.argv[1] == "without":
    sys.modules["torch"] = None
import regime_proto
from regime_proto.adapters.from_torch import adapter as from_torch
from regime_proto.checkpoints.payload import state_of
from regime_proto.schema.errors import RegimeError
if sys.argv[1] == "without":
    print(regime_proto.convert(sys.argv[2], sys.argv[3]))
for path in sys.argv[4:]:
    try:
        tensors = state_of(from_torch.read(Path(path)), "").tensors
        print(sorted(tensors), sys.modules.get("torch") is not None)
    except RegimeError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def read_apart(mlp_run, tmp_path_factory):
    """What processes with and without torch say of a run with a program, of a plain file and of an unusual one."""
    folder = tmp_path_factory.mktemp("apart")
    plain = saved(folder, {"model": {"w": BASE.bfloat16()}, "step": 3}, "plain.pt")
    unusual = saved(folder, {"model": {"w": BASE}, "args": argparse.Namespace(lr=1)}, "unusual.pt")
    said = {}
    for torch_is in ("there", "without"):
        call = [sys.executable, "-c", READ, torch_is, mlp_run, folder / f"{torch_is}.h5", plain, unusual]
        done = subprocess.run(call, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said[torch_is] = done.stdout.splitlines()
    return said


def test_a_plain_file_is_read_without_torch(read_apart):
    assert read_apart["there"][0] == "['w'] False"
    assert read_apart["without"][1] == "['w'] False"


def test_a_directory_with_a_program_is_converted_without_torch(read_apart):
    assert read_apart["without"][0].endswith("/without.h5")


def test_an_unusual_file_takes_torch(read_apart):
    assert read_apart["there"][1:] == ["['w'] True"]
    [answer] = read_apart["without"][2:]
    assert "unusual.pt: cannot be read without PyTorch" in answer
    assert answer.endswith('pip install "regime-proto[torch]"')


# What follows is written by hand: files that torch does not write.


def archive(path, content, numbers=bytes(24), *, compress=(), **records):
    """Write a zip file as torch does; names of this length align the numbers to four bytes."""
    with zipfile.ZipFile(path, "w") as file:
        for name, data in {
            "data/0": numbers,
            "data.pkl": content,
            "byteorder": b"little",
            "version": b"3\n",
            **records,
        }.items():
            kind = zipfile.ZIP_DEFLATED if name in compress else zipfile.ZIP_STORED
            file.writestr(f"archive/{name}", data, kind)
    return path


class Storage:
    def __init__(self, *pid):
        self.pid = pid


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None


def pickled(payload):
    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(payload)
    return buffer.getvalue()


def tensor(offset=0, size=(2, 3), stride=(3, 1), *, key="0", count=6, kind="storage", dtype=torch.FloatStorage):
    storage = Storage(kind, dtype, key, "cpu", count)
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())


def assert_falls_back(path):
    """Assert that torch is asked, and that what follows is a parameter state or one line."""
    with pytest.raises(zip_file.NotPlain):
        zip_file.load(path)
    try:
        read(from_torch, path)
    except RegimeError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_the_files_written_by_hand_are_sound(tmp_path):
    path = archive(tmp_path / "a.pt", pickled({"w": tensor()}))
    np.testing.assert_array_equal(zip_file.load(path)["w"], np.zeros((2, 3)))
    np.testing.assert_array_equal(torch.load(path)["w"], np.zeros((2, 3)))


@pytest.mark.parametrize(
    "hostile",
    [
        {"offset": 1}, {"offset": -1}, {"offset": 2**62}, {"offset": 2**70}, {"offset": 0.0}, {"offset": None},
        {"size": (3, 3)}, {"size": (-2, 3)}, {"size": (2**40, 2**40)}, {"size": (2**63, 1), "stride": (0, 0)},
        {"size": (2,)}, {"size": (2.0, 3)}, {"size": [2, 3]}, {"size": "23"}, {"size": (True, 3)}, {"size": None},
        {"size": (1,) * 65, "stride": (1,) * 65}, {"size": (tensor(), 3)}, {"size": (0, 3), "offset": 7},
        {"stride": (4, 1)}, {"stride": (-3, 1)}, {"stride": (3, -1)}, {"stride": (2**62, 1)}, {"stride": (2**64, 1)},
        {"stride": (3, 1, 1)}, {"stride": None}, {"stride": (3, tensor())},
        {"count": 7}, {"count": -6}, {"count": 2**62}, {"count": 6.0}, {"count": "6"}, {"count": None},
        {"key": "1"}, {"key": "../data.pkl"}, {"key": 0}, {"key": None}, {"key": "0/"}, {"kind": "module"},
        {"dtype": "float32x"}, {"dtype": "object"}, {"dtype": None}, {"dtype": 3}, {"dtype": []}, {"dtype": tensor()},
        {"dtype": torch.DoubleStorage}, {"dtype": torch.QInt8Storage}, {"dtype": "O"}, {"dtype": torch.UntypedStorage},
    ],
)  # fmt: skip
def test_a_tensor_never_reaches_out_of_its_record(tmp_path, hostile):
    path = archive(tmp_path / "a.pt", pickled({"w": tensor(**hostile)}), more=bytes(2**16))
    with pytest.raises(zip_file.NotPlain):
        zip_file.load(path)


def text(string):
    return b"X" + struct.pack("<I", len(string)) + string


def named(module, name):
    return b"c" + module + b"\n" + name + b"\n"


def call_of(name, module=b"os", argument=b"touch pwned"):
    return {
        "GLOBAL": named(module, name) + text(argument) + b"\x85R",
        "STACK_GLOBAL": text(module) + text(name) + b"\x93" + text(argument) + b"\x85R",
        "INST": b"(" + text(argument) + b"i" + module + b"\n" + name + b"\n",
        "OBJ": b"(" + named(module, name) + text(argument) + b"o",
        "NEWOBJ": named(module, name) + text(argument) + b"\x85\x81",
        "NEWOBJ_EX": named(module, name) + text(argument) + b"\x85}\x92",
    }


DOTTED = [
    (b"collections", b"OrderedDict.__init__.__globals__"),
    (b"torch", b"FloatStorage.__class__"),
    (b"torch._utils", b"_rebuild_tensor_v2.__globals__"),
    (b"torch", b"os.system"),
    (b"torch.serialization", b"os.system"),
    (b"", b"OrderedDict"),
]


@pytest.mark.parametrize("opcode", call_of(b"system"))
@pytest.mark.parametrize(("module", "name"), [(b"os", b"system"), (b"builtins", b"eval"), *DOTTED])
def test_no_opcode_calls_what_is_not_known(tmp_path, monkeypatch, opcode, module, name):
    monkeypatch.chdir(tmp_path)
    argument = b"touch pwned" if module != b"builtins" else b"open('pwned', 'w')"
    content = b"\x80\x02}" + text(b"x") + call_of(name, module, argument)[opcode] + b"s."
    path = archive(tmp_path / "a.pt", content)
    assert_falls_back(path)
    assert_unpickler_refuses(path, content.replace(b"\x80\x02", b"\x80\x04", 1))
    assert not (tmp_path / "pwned").exists()


def assert_unpickler_refuses(path, content):
    """Assert that the unpickler refuses on its own what the look at the opcodes would not have let through."""
    file = mapped.map_file(path)
    try:
        found = zip_file._Unpickler(content, file, zip_file._records(file), "archive/data/").load()
    except Exception as error:
        assert not isinstance(error, AssertionError)  # noqa: PT017
    else:
        pytest.fail(f"read {found!r}")


STATES = {
    "dict": b"}" + text(b"hacked") + b"K\x01s",
    "slots": b"N}" + text(b"hacked") + b"K\x01s\x86",
    "class": b"N}" + text(b"__class__") + named(b"torch", b"Size") + b"s\x86",
    "function": b"N}" + text(b"_function") + named(b"torch", b"Size") + b"s\x86",
    "dtype": b"(K\x01K\x01\x85" + named(b"torch", b"float32") + b"\x89" + text(b"") + b"t",
}
MADE = {
    "OrderedDict": named(b"collections", b"OrderedDict") + b")R",
    "tensor": pickled(tensor())[2:-1],
    "storage": pickled(tensor())[2:].partition(b"Q")[0].replace(named(b"torch._utils", b"_rebuild_tensor_v2"), b"")[2:]
    + b"Q",
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("target", [*zip_file._GLOBALS, *MADE], ids=str)
def test_a_pickle_changes_nothing_for_the_next(tmp_path, state, target):
    plain = saved(tmp_path, MODEL.state_dict(), "plain.pt")
    before = zip_file.load(plain)
    made = MADE[target] if target in MADE else named(target[0].encode(), target[1].encode())
    content = b"\x80\x02}" + text(b"x") + made + STATES[state] + b"bs."
    path = archive(tmp_path / "a.pt", content)
    if target == "OrderedDict":
        assert type(zip_file.load(path)["x"]).__slots__ == ()
        assert not hasattr(zip_file.load(path)["x"], "hacked")
    else:
        with pytest.raises(zip_file.NotPlain):
            zip_file.load(path)
    after = zip_file.load(plain)
    assert_same(after, torch.load(plain))
    assert [type(value) for value in before.values()] == [type(value) for value in after.values()]
    assert not any(hasattr(known, "hacked") for known in zip_file._GLOBALS.values())


@pytest.mark.parametrize("opcode", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"])
def test_extensions_registered_elsewhere_are_not_found(tmp_path, monkeypatch, opcode):
    import copyreg

    monkeypatch.setitem(copyreg._inverted_registry, 1, ("os", "system"))
    content = b"\x80\x02}" + text(b"x") + opcode + b"s."
    path = archive(tmp_path / "a.pt", content)
    assert_unpickler_refuses(path, content)
    # Once another pickle has used it, C's unpickler takes it from a cache and asks nobody.
    monkeypatch.setitem(copyreg._extension_cache, 1, print)
    assert_falls_back(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02}",
        b"\x80\x02}q\x00.}",
        b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"}.",
        b"\x80\x02}r" + struct.pack("<I", 2**31) + b".",
        b"\x80\x02}p" + b"9999999999\n.",
        b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"a.",
        b"\x80\x02\x8d" + struct.pack("<Q", 2**60) + b"a.",
        b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"a.",
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02})" + b"\x85" * 400_000 + b"K\x01s.",
        b"\x80\x02" + b"h\x07" + b".",
        b"\x80\x02" + b"]" * 3 + b"R.",
        b"\x80\x02" + named(b"torch", b"Size") + named(b"torch", b"Size") + b"Q.",
    ],
    ids=range(16),
)
def test_a_pickle_that_means_harm_to_the_unpickler_is_not_read(tmp_path, content):
    path = archive(tmp_path / "a.pt", content)
    with pytest.raises(zip_file.NotPlain):
        zip_file.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"compress": ("data.pkl",)},
        {"compress": ("data/0",)},
        {"byteorder": b"big"},
        {"constants.pkl": b""},
    ],
)
def test_archives_that_torch_has_to_read(tmp_path, change):
    assert_falls_back(archive(tmp_path / "a.pt", pickled({"w": tensor()}), **change))


def test_one_record_of_a_name_and_one_folder(tmp_path):
    path = archive(tmp_path / "a.pt", pickled({"w": tensor()}))
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("archive/data.pkl", pickled({"v": tensor()}))
    assert_falls_back(path)
    with zipfile.ZipFile(archive(path, pickled({"w": tensor()})), "a") as file:
        file.writestr("other/data.pkl", b"")
    assert_falls_back(path)


@pytest.mark.parametrize(
    ("at", "number"), [(20, 2**31), (24, 2**31), (20, 9999), (24, 9999), (42, 2**31), (42, 2**32 - 1), (42, 60)]
)
def test_records_that_do_not_lie_in_the_file(tmp_path, at, number):
    """Sizes and offsets in the central directory are changed: packed and full size of the numbers, and their place."""
    path = archive(tmp_path / "a.pt", pickled({"w": tensor(count=6 if number != 9999 else 2499)}))
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\1\2") + at, number)
    if at in (20, 24):
        struct.pack_into("<I", content, content.index(b"PK\1\2") + 44 - at, number)
    path.write_bytes(content)
    with pytest.raises(zip_file.NotPlain):
        zip_file.load(path)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = saved(tmp_path, {"model": {"w": BASE}, "step": 3})
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(zip_file.NotPlain):
            zip_file.load(path)
    for length in range(1, len(content), len(content) // 10):
        path.write_bytes(content[:length])
        with pytest.raises(RegimeError, match=r"a.pt: damaged"):
            read(from_torch, path)


def test_a_safetensors_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"w": BASE, "b": torch.ones(3)}, path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(RegimeError, match=r"a.safetensors: damaged"):
            read(from_safetensors, path)


def test_a_safetensors_header_that_lies_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    good = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    for change in (
        {"shape": [3]}, {"shape": [-2]}, {"shape": [2**62, 2**62]}, {"data_offsets": [0, 9]}, {"data_offsets": [8, 0]},
        {"data_offsets": [-8, 0]}, {"data_offsets": [0, 2**62]}, {"dtype": "F31"}, {"dtype": ["F32"]}, {"dtype": "F4"},
    ):  # fmt: skip
        header = repr({"w": {**good, **change}}).replace("'", '"').encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
        with pytest.raises(RegimeError, match=r"a.safetensors: damaged"):
            read(from_safetensors, path)


@pytest.mark.parametrize("number", [500, pytest.param(3000, marks=pytest.mark.slow)])
def test_changed_bytes_are_survived(tmp_path, number):
    """Whatever byte is changed, every number of what is read can be touched."""
    path = saved(tmp_path, {"model": MODEL.state_dict(), "step": 3})
    content = path.read_bytes()
    start = content.index(b"\x80\x02")
    places = [*range(start, content.index(b"PK\x03\x04", start)), *range(content.index(b"PK\1\2"), len(content))]
    generator = random.Random(0)
    read = 0
    for place in generator.choices(places, k=number):
        changed = bytearray(content)
        changed[place] = generator.choice([generator.randrange(256), changed[place] ^ 1, 0, 255])
        path.write_bytes(changed)
        try:
            payload = zip_file.load(path)
        except zip_file.NotPlain:
            continue
        read += 1
        for value in payload.get("model", {}).values() if isinstance(payload, dict) else ():
            if isinstance(value, np.ndarray):
                value.tobytes()
    assert 0 < read < number


def test_a_view_stays_inside_its_part(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(100)))
    file = mapped.map_file(tmp_path / "a")
    u8 = np.dtype("uint8")
    np.testing.assert_array_equal(mapped.view(file, u8, (2, 2), within=(10, 20), strides=(4, 1)), [[10, 11], [14, 15]])
    assert mapped.view(file, u8, (), within=(99, 100)) == 99
    for shape, within in [((11,), (10, 20)), ((10,), (95, 105)), ((), (100, 100)), ((3, 4), (0, 11)), ((1,), (-5, 5))]:
        with pytest.raises(ValueError, match=r"a tensor (extends|of shape)"):
            mapped.view(file, u8, shape, within=within)
    assert mapped.dtype_named("bfloat16") == ml_dtypes.bfloat16
    assert math.prod(mapped.view(file, u8, (3, 0), within=(100, 100)).shape) == 0
