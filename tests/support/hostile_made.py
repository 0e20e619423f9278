"""Hostile and broken checkpoints written by hand: each is a way to crash, to stall, to starve, or to run code.

`MADE` lists them: a name, a function of an empty folder and of the folder with runs of every kind, and the kind whose
library it needs.
"""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
import zlib

import h5py
import numpy as np
import onnx

MADE = []
CODE = "__import__('os').mkdir('pwned')"


def made(function=None, *, needs=None, names=(None,)):
    """Register a case, or one for each of `names`, which the function then takes."""
    if function is None:
        return lambda found: made(found, needs=needs, names=names)
    title = function.__name__.replace("_", "-")
    for name in names:
        if name is None:
            MADE.append((title, function, needs))
        else:
            MADE.append((f"{title}-{name}", lambda folder, base, name=name: function(folder, base, name), needs))
    return function


# What is no file.

RUNS = {
    "torch": "step_3.pt", "torch-objects": "step_3.pth", "torch-old": "step_3.bin", "lightning": "epoch=0-step=3.ckpt",
    "safetensors": "step_3.safetensors", "npz": "step_3.npz", "keras": "step_3.keras",
    "keras-weights": "step_3.weights.h5", "flax": "step_3.msgpack", "sklearn": "step_3.skops", "onnx": "step_3.onnx",
    "exported": "other.pt2", "estimators": "c.pkl",
}  # fmt: skip
THINGS = {
    "pipe": os.mkfifo,
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "random": lambda path: path.symlink_to("/dev/urandom"),
    "loop": lambda path: path.symlink_to(path),
    "folder": lambda path: path.mkdir(),
    "nowhere": lambda path: path.symlink_to("/nowhere"),
    "empty": lambda path: path.touch(),
    "pipe-linked": lambda path: (os.mkfifo(path.parent.parent / "pipe"), path.symlink_to(path.parent.parent / "pipe")),
}


def no_file(kind, name, thing):
    def write(folder, base):
        shutil.copytree(base / kind, folder, dirs_exist_ok=True)
        THINGS[thing](folder / name)

    return write


for _kind, _name in RUNS.items():
    for _thing in THINGS:
        MADE.append((f"no-file-{_kind}-{_thing}", no_file(_kind, _name, _thing), _kind))

PARTS = {
    "dcp": (".metadata", "metadata.json", "__0_0.distcp"),
    "orbax": ("_CHECKPOINT_METADATA", "default/_METADATA", "metrics/metrics", "default/manifest.ocdbt"),
    "sharded": ("model.safetensors.index.json", "model-00001-of-00002.safetensors"),
    "huggingface": ("config.json", "trainer_state.json", "model.safetensors", "tokenizer.json"),
    "accelerate": ("random_states_0.pkl", "model.safetensors", "config.json", "adapter_config.json"),
}


def no_part(kind, name, thing, every):
    def write(folder, base):
        shutil.copytree(base / kind, folder, dirs_exist_ok=True)
        for inner in sorted(path for path in folder.iterdir() if path.is_dir())[: None if every else 1]:
            path = inner / name
            path.parent.mkdir(exist_ok=True)
            path.unlink(missing_ok=True)
            THINGS[thing](path)

    return write


for _kind, _names in PARTS.items():
    for _name in _names:
        for _thing in ("pipe", "zeros", "folder"):
            for _every in (False, True):
                _title = f"no-part-{_kind}-{_name.replace('/', '-')}-{_thing}{'-everywhere' * _every}"
                MADE.append((_title, no_part(_kind, _name, _thing, _every), _kind))


@made(names=("pipe", "zeros", "folder", "nowhere"))
def own_file(folder, base, thing):
    shutil.copytree(base / "torch", folder, dirs_exist_ok=True)
    for name in ("probe.npz", "program.onnx"):
        THINGS[thing](folder / name)


# Pickles.


def text(string):
    content = string.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(content)) + content


def named(name):
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def whole(number):
    size = number.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + number.to_bytes(size, "little", signed=True)


def together(*items):
    return b"(" + b"".join(items) + b"t"


def call(name, *arguments):
    return named(name) + together(*arguments) + b"R"


def storage(count, kind="torch.FloatStorage", key="0"):
    return together(text("storage"), named(kind), text(key), text("cpu"), whole(count)) + b"Q"


def tensor(size, stride, *, offset=0, count=6, kind="torch.FloatStorage"):
    shape, strides = (together(*map(whole, numbers)) for numbers in (size, stride))
    hooks = named("collections.OrderedDict") + b")R"
    return call("torch._utils._rebuild_tensor_v2", storage(count, kind), whole(offset), shape, strides, b"\x89", hooks)


def doubled(levels, width=2):
    """A tuple of the same tuple, many times over: hashing it takes width ** levels."""
    content = b"K\x01\x85q\x01"
    for level in range(1, levels + 1):
        content += b"(" + b"h" + bytes([level % 200]) + (b"h" + bytes([level % 200])) * (width - 1) + b"t"
        content += b"q" + bytes([(level + 1) % 200])
    return content


def deep(levels=200_000):
    return b")" + b"\x85" * levels


PICKLES = {
    "sound": tensor((2, 3), (3, 1)),
    "bytearray": call("builtins.bytearray", whole(3 * 10**9)),
    "bytearray-of-2": call("__builtin__.bytearray", whole(3 * 10**9)),
    "bytearray-inside": call(
        "torch._tensor._rebuild_from_type_v2", named("builtins.bytearray"), named("torch.Tensor"),
        together(whole(3 * 10**9)), b"N",
    ),
    "tensor-of-size": call("torch.FloatTensor", whole(10**10)),
    "tensor-of-sizes": call("torch.Tensor", whole(10**5), whole(10**5)),
    "storage-of-size": call("torch.storage.UntypedStorage", whole(4 * 10**9)),
    "dtype": call("numpy.core.multiarray.scalar", call("numpy.dtype", text("V2000000000"), b"\x89", b"\x88")),
    "dtype-newer": call("numpy._core.multiarray.scalar", call("numpy.dtype", text("U900000000"), b"\x89", b"\x88")),
    "dtype-set": call("numpy.core.multiarray.scalar", call("numpy.dtype", text("V8"), b"\x89", b"\x88")
    + together(whole(3), text("|"), b"N", b"N", b"N", whole(2 * 10**9), whole(1), whole(0)) + b"b"),
    "array": call("numpy.core.multiarray._reconstruct", named("numpy.ndarray"), together(whole(10**10)), text("b")),
    "keys-of-tuples": b"}" + doubled(60) + b"Ns",
    "keys-of-wide-tuples": b"}" + doubled(3, 3000) + b"Ns",
    "keys-again-and-again": b"}(" + doubled(20) + b"N" + b"h\x15N" * 3000 + b"u",
    "set-of-tuples": named("builtins.set") + b"](" + doubled(60) + b"e\x85R",
    "counter-of-tuples": named("collections.Counter") + b"](" + doubled(60) + b"e\x85R",
    "size-of-tuples": b"}" + call("torch.Size", doubled(60)) + b"Ns",
    "deep-key": b"}" + deep() + b"Ns",
    "deep-value": deep(),
    "deep-list": b"]" * 200_000 + b"a" * 199_999,
    "deep-dict": (b"}" + text("a")) * 100_000 + b"}" + b"s" * 100_000,
    "stride-0": tensor((10**12,), (0,)),
    "stride-0-twice": tensor((10**6, 10**6), (0, 0)),
    "stride-0-shared": tensor((2, 3), (3, 1)) + b"0" if False else tensor((3 * 10**7,), (0,)),
    "beyond-storage": tensor((10**9,), (1,)),
    "beyond-storage-by-stride": tensor((2, 2), (10**9, 1)),
    "storage-beyond-file": tensor((2, 3), (3, 1), count=10**10),
    "shape-as-list": call("torch._utils._rebuild_tensor_v2", storage(6), whole(0), b"](" + whole(10**12) + b"e",
                          b"](K\x00e", b"\x89", b"N"),
    "quantized": call("torch._utils._rebuild_qtensor", storage(6, "torch.QInt8Storage"), whole(0),
                      together(whole(10**11)), together(whole(0)), b"N", b"\x89", b"N"),
    "negative": tensor((-1, 3), (3, 1)),
    "values": b"](" + b"N" * 6_000_000 + b"e",
    "dicts": b"](" + b"}" * 5_000_000 + b"e",
    "memo-far": b"Nr\xff\xff\xff\x7f",
    "long": b"\x8b\xff\xff\xff\x7f",
    "text-beyond": b"X\xff\xff\xff\x7f",
    "stack-empty": b"R" * 100,
    "number-long": whole(2 ** (8 * 250)),
    "system": named("os.mkdir") + text("pwned") + b"\x85R",
    "eval": named("builtins.eval") + text(CODE) + b"\x85R",
    "getattr": call("builtins.getattr", named("builtins.list"), text("append")),
    "code-newobj": named("os.mkdir") + text("pwned") + b"\x85\x81",
    "code-stack-global": text("os") + text("mkdir") + b"\x93" + text("pwned") + b"\x85R",
    "code-inst": b"(" + text("pwned") + b"ios\nmkdir\n",
    "code-build": call("argparse.Namespace") + b"}" + text("__class__") + named("os.mkdir") + b"sb",
    "code-apply": call("torch._tensor._rebuild_from_type_v2", named("os.mkdir"), b"N", together(text("pwned")), b"N"),
    "code-dotted": named("torch.serialization.os.mkdir") + text("pwned") + b"\x85R",
    "surrogate": b"}" + text("\ud800") + tensor((2, 3), (3, 1)) + b"s",
    "nul": b"}" + text("a\0b") + tensor((2, 3), (3, 1)) + b"s",
    "escape": b"}" + text("a\x1b[2J\nb") + tensor((2, 3), (3, 1)) + b"s",
}  # fmt: skip


def state(value):
    return b"\x80\x02}(" + text("model") + b"}" + text("w") + tensor((2, 3), (3, 1)) + b"s" + text("x") + value + b"u."


def archive(path, content, *, method=zipfile.ZIP_STORED, **more):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in {
            "data.pkl": content,
            "byteorder": b"little",
            "data/0": bytes(24),
            "version": b"3\n",
            **more,
        }.items():
            file.writestr(f"archive/{name}", data, method if name in ("data.pkl", *more) else zipfile.ZIP_STORED)


@made(names=PICKLES)
def pickled(folder, base, name):
    for step in (1, 2):
        archive(folder / f"step_{step}.pt", state(PICKLES[name]))


@made(names=PICKLES)
def pickled_deflated(folder, base, name):
    for step in (1, 2):
        archive(folder / f"step_{step}.pth", state(PICKLES[name]), method=zipfile.ZIP_DEFLATED)


@made(names=PICKLES)
def pickled_old(folder, base, name):
    """As torch wrote before 1.6: five pickles, then the numbers."""
    front = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    rest = state(PICKLES[name]) + pickle.dumps(["0"], 2) + struct.pack("<q", 6) + bytes(24)
    for step in (1, 2):
        (folder / f"step_{step}.bin").write_bytes(front + rest)


@made(names=PICKLES)
def pickled_in_dcp(folder, base, name):
    """In a part of a distributed checkpoint; its metadata is that of a sound one."""
    shutil.copytree(base / "dcp", folder, dirs_exist_ok=True)
    for file in sorted(folder.rglob("*.distcp")):
        inside = io.BytesIO()
        archive(inside, b"\x80\x02" + PICKLES[name] + b".")
        size = file.stat().st_size
        file.write_bytes(inside.getvalue() + bytes(max(0, size - len(inside.getvalue()))))


@made(names=("bytearray", "keys-of-tuples", "deep-key", "system", "stride-0", "values"))
def pickled_in_program(folder, base, name):
    changed(base / "exported" / "model.pt2", folder / "model.pt2", "sample_inputs/model.pt", lambda _: inner(name))


def inner(name):
    content = io.BytesIO()
    archive(content, state(PICKLES[name]))
    return content.getvalue()


@made(names=("deep-key", "keys-of-tuples", "values", "dicts", "system", "deep-list", "long", "memo-far"))
def pickled_metadata(folder, base, name):
    shutil.copytree(base / "dcp", folder, dirs_exist_ok=True)
    for file in sorted(folder.rglob(".metadata")):
        file.write_bytes(b"\x80\x02" + PICKLES[name] + b".")


@made(names=("data.pkl", "version", "byteorder", ".data/serialization_id"))
def bomb_in_torch(folder, base, name):
    kinds = {"data.pkl": b"\x80\x02](" + b"N" * 100_000_000 + b"e."}
    for step in (1, 2):
        archive(
            folder / f"step_{step}.pt",
            state(b"N"),
            method=zipfile.ZIP_DEFLATED,
            **{name: kinds.get(name, bytes(100_000_000))},
        )


# Archives.


def changed(source, target, name, change):
    """Copy an archive; the entry whose name ends with `name` is changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            content = old.read(info)
            new.writestr(info.filename, change(content) if info.filename.endswith(name) else content)


def npy(shape, dtype="<f4", content=b""):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + content


ARRAYS = {
    "shape": npy((10**12,)),
    "shape-2": npy((10**6, 10**6), content=bytes(100)),
    "shape-negative": npy((-1, 4), content=bytes(100)),
    "axes": npy((1,) * 100, content=bytes(4)),
    "nothing": npy((0, 10**15)),
    "text": npy((), "<U900000000"),
    "void": npy((), "|V2000000000"),
    "objects": npy((2,), "|O", pickle.dumps([1, 2])),
    "code": npy((2,), "|O", b"cos\nmkdir\n(S'pwned'\ntR."),
    "zeros": npy((50_000_000,), content=bytes(2 * 10**8)),
    "header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 10**7) + b"{'descr': " + b"(" * (10**7 - 10),
    "magic": b"\x93NUMPX\x01\x00",
    "deep": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000,
    "empty": b"",
}


@made(names=ARRAYS)
def array_in_npz(folder, base, name):
    for step in (1, 2):
        with zipfile.ZipFile(folder / f"step_{step}.npz", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("w.npy", ARRAYS[name])
            file.writestr("b.npy", npy((3,), content=bytes(12)))
    (folder / "probe.npz").write_bytes((folder / "step_1.npz").read_bytes())


@made(names=[name for name in ARRAYS if name != "zeros"])
def array_alone(folder, base, name):
    (folder / "probe.npy").write_bytes(ARRAYS[name])


@made(names=ARRAYS, needs="sklearn")
def array_in_skops(folder, base, name):
    for step in (1, 2):
        changed(base / "sklearn" / "step_1.skops", folder / f"step_{step}.skops", ".npy", lambda _: ARRAYS[name])


SUFFIXES = (".npz", ".keras", ".skops", ".pt", ".pt2")


@made(names=SUFFIXES)
def entries(folder, base, suffix):
    """Hundreds of thousands of entries, each of which takes memory."""
    name = b"archive/data.pkl"
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0) + name
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0) + name
    count = 700_000
    directory = entry * count
    end_64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), len(local))
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(local) + len(directory), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, 100, 100, 0)
    for step in (1, 2):
        (folder / f"step_{step}{suffix}").write_bytes(local + directory + end_64 + locator + end)


@made(names=SUFFIXES)
def same_entry(folder, base, suffix):
    """Thousands of entries that are the same deflated part of the file."""
    content = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = content.compress(bytes(10**7)) + content.flush()
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(packed), 10**7, 1, 0) + b"a"
    front = local + packed
    names = [b"%05d.npy" % number for number in range(5000)]
    directory = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 0, 0, len(packed), 10**7, 9, 0, 0, 0, 0, 0, 0) + name
        for name in names
    )
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 5000, 5000, len(directory), len(front), 0)
    for step in (1, 2):
        (folder / f"step_{step}{suffix}").write_bytes(front + directory + end)


@made(names=("metadata.json", "config.json", "model.weights.h5"))
def bomb_in_keras(folder, base, name):
    for step in (1, 2):
        changed(
            base / "keras" / "step_1.keras",
            folder / f"step_{step}.keras",
            name,
            lambda content: content + bytes(2 * 10**8),
        )


H5 = {
    "shape": {"shape": (10**6, 10**6), "dtype": "f4", "chunks": (1000, 1000)},
    "contiguous": {"shape": (10**6, 10**6), "dtype": "f4"},
    "deflated": {"data": np.zeros(4 * 10**7, np.float32), "compression": "gzip", "chunks": (10**6,)},
    "void": {"shape": (10,), "dtype": "V10000000"},
    "text": {"shape": (10**6,), "dtype": h5py.string_dtype()},
}


@made(names=H5)
def dataset(folder, base, name):
    for step in (1, 2):
        with h5py.File(folder / f"step_{step}.weights.h5", "w") as file:
            file.create_dataset("layers/dense/vars/0", **H5[name])


@made(names=("storage", "link", "virtual"))
def dataset_elsewhere(folder, base, how):
    pipe = folder.parent / "pipe"
    os.mkfifo(pipe)
    for step in (1, 2):
        with h5py.File(folder / f"step_{step}.weights.h5", "w") as file:
            group = file.create_group("layers/dense/vars")
            if how == "storage":
                group.create_dataset("0", (70,), "f4", external=[(str(pipe), 0, 280)])
            elif how == "link":
                group["0"] = h5py.ExternalLink(str(pipe), "/w")
            else:
                layout = h5py.VirtualLayout((70,), "f4")
                layout[:] = h5py.VirtualSource(str(pipe), "w", (70,))
                group.create_virtual_dataset("0", layout)


# Texts.


def many(text, count, front="[", back="]"):
    return front.encode() + (text.encode() + b",") * count + text.encode() + back.encode()


JSONS = {
    "deep": b"[" * 10**6,
    "deep-objects": b'{"a":' * 10**6,
    "values": many("[]", 9_000_000),
    "objects": many("{}", 9_000_000),
    "large": b'{"a":"' + b"x" * 100_000_000 + b'"}',
    "digits": b'{"step":' + b"9" * 10**6 + b"}",
    "float": b'{"step":1e99999}',
    "surrogate": b'{"\\ud800": "\\udfff"}',
    "not-utf-8": b'{"a\xff": 1}',
    "nan": b'{"step": NaN, "global_step": Infinity}',
    "null": b"null",
    "list": b"[]",
    "empty": b"",
}
DESCRIPTIONS = [
    ("huggingface", "config.json"), ("huggingface", "trainer_state.json"), ("sharded", "model.safetensors.index.json"),
    ("orbax", "default/_METADATA"), ("orbax", "_CHECKPOINT_METADATA"), ("orbax", "metrics/metrics"),
    ("accelerate", "adapter_config.json"), ("dcp", "metadata.json"),
]  # fmt: skip


def description(kind, file, name):
    def write(folder, base):
        shutil.copytree(base / kind, folder, dirs_exist_ok=True)
        for inside in [path for path in folder.iterdir() if path.is_dir()]:
            (inside / file).parent.mkdir(exist_ok=True)
            (inside / file).write_bytes(JSONS[name])

    return write


for _kind, _file in DESCRIPTIONS:
    for _name in JSONS:
        MADE.append((f"json-{_name}-{_kind}-{_file.replace('/', '-')}", description(_kind, _file, _name), _kind))


@made(names=JSONS)
def json_in_safetensors(folder, base, name):
    for step in (1, 2):
        content = JSONS[name][: 100 * 2**20]
        (folder / f"step_{step}.safetensors").write_bytes(struct.pack("<Q", len(content)) + content)


@made(names=("deep", "values", "digits", "null"), needs="sklearn")
def json_in_skops(folder, base, name):
    for step in (1, 2):
        changed(base / "sklearn" / "step_1.skops", folder / f"step_{step}.skops", "schema.json", lambda _: JSONS[name])


@made(names=("deep", "values", "digits", "null"))
def json_in_program(folder, base, name):
    changed(base / "exported" / "model.pt2", folder / "model.pt2", "models/model.json", lambda _: JSONS[name])


@made
def expanded_in_program(folder, base):
    def change(content):
        return content.replace(b'"as_int": 2}, {"as_int": 3}', b'"as_int": 2000000}, {"as_int": 3000000}')

    changed(base / "exported" / "model.pt2", folder / "model.pt2", "model_weights_config.json", change)


HEADERS = {
    "dims": {"dtype": "F32", "shape": [1] * 100_000, "data_offsets": [0, 4]},
    "large": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]},
    "wrapped": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]},
    "negative": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]},
    "nothing": {"dtype": "F32", "shape": [2**40, 0], "data_offsets": [0, 0]},
    "text": {"dtype": "F32", "shape": "11", "data_offsets": [0, 4]},
    "entry": 5,
}


@made(names=HEADERS)
def header_of_safetensors(folder, base, name):
    for step in (1, 2):
        content = json.dumps({"w": HEADERS[name]}).encode()
        (folder / f"step_{step}.safetensors").write_bytes(struct.pack("<Q", len(content)) + content + bytes(4))


CONFIGS = {
    "layers": {"n_layer": 10**6},
    "layers-2": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 10**9},
    "layers-3": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "num_hidden_layers": 5000},
    "width": {"n_embd": 12 * 10**5},
    "vocabulary": {"vocab_size": 10**10},
    "positions": {"n_positions": 10**7},
    "labels": {"num_labels": 10**9},
    "negative": {"n_layer": -5, "n_head": 0},
    "text": {"n_layer": "many"},
    "code": {"auto_map": {"AutoModel": "evil.Evil"}},
    "code-name": {"architectures": ["os.system"]},
    "type": {"model_type": "../../evil"},
    "nested": {"model_type": "llava", "text_config": {"num_hidden_layers": 10**9}},
}


@made(names=CONFIGS, needs="huggingface")
def config(folder, base, name):
    shutil.copytree(base / "huggingface", folder, dirs_exist_ok=True)
    for file in folder.rglob("config.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), **CONFIGS[name]}))
        (file.parent / "evil.py").write_text(CODE)


# Trees of msgpack, protobuf and zarr.


def packed(tree):
    import msgpack

    return msgpack.packb(tree)


def extension(content, code=1):
    return b"\xc9" + struct.pack(">Ib", len(content), code) + content


def numbered(count):
    return b"".join(b"\xce" + struct.pack(">I", number) + b"\x80" for number in range(count))


MSGPACKS = {
    "lists": lambda: b"\x81\xa1a" + (b"\xdd" + struct.pack(">I", 16_000)) * 1000 + bytes(10**5),
    "lists-long": lambda: b"\x81\xa1a" + (b"\xdd" + struct.pack(">I", 2**20)) * 1000 + bytes(2**21),
    "lists-empty": lambda: b"\x81\xa1a\xdd" + struct.pack(">I", 3 * 10**7) + b"\x90" * 3 * 10**7,
    "maps-empty": lambda: b"\x81\xa1a\xdf" + struct.pack(">I", 10**6) + numbered(10**6),
    "deep": lambda: b"\x81\xa1a" * 10**6,
    "deep-in-limit": lambda: b"\x81\xa1a" * 1000 + b"\x01",
    "array-large": lambda: b"\x81\xa1a" + extension(packed([[10**6, 10**6], "float32", b""])),
    "array-nothing": lambda: b"\x81\xa1a" + extension(packed([[10**12, 0], "float32", b""])),
    "array-dtype": lambda: b"\x81\xa1a" + extension(packed([[1], "V2000000000", b""])),
    "array-nested": lambda: b"\x81\xa1a" + extension(b"\x93\xdc\x3f\xff" + b"\xdc\x3f\xff" * 900 + b"\x90" * 10**5),
    "array-axes": lambda: b"\x81\xa1a" + extension(packed([[1] * 10**4, "float32", bytes(4)])),
    "parts": lambda: packed({"__msgpack_chunked_array__": True, "shape": {"0": 10**12}, "chunks": {"0": 1}}),
    "text-beyond": lambda: b"\x81\xa1a\xdb\xff\xff\xff\xff",
    "key": lambda: b"\x82\xa1a\x01\xa1\xff\x02",
}  # fmt: skip


@made(names=MSGPACKS, needs="flax")
def msgpacked(folder, base, name):
    for step in (1, 2):
        (folder / f"step_{step}.msgpack").write_bytes(MSGPACKS[name]())


def field(number, content):
    head, length = (
        bytes([number << 3 | 2]) if number < 16 else bytes([(number << 3 | 2) & 0x7F | 0x80, number >> 4]),
        len(content),
    )
    size = b""
    while length > 0x7F:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return head + size + bytes([length]) + content


def nested_graph(levels):
    content = b""
    for _ in range(levels):
        content = field(1, field(5, field(6, content)))
    return content


PROTOBUFS = {
    "nodes": lambda: field(7, b"\x0a\x00" * 3 * 10**6),
    "nodes-few": lambda: field(7, b"\x0a\x00" * 5 * 10**4),
    "attributes": lambda: field(7, field(1, b"\x2a\x00" * 3 * 10**6)),
    "initializers": lambda: field(7, field(1, b"") + b"\x2a\x00" * 2 * 10**6),
    "inputs": lambda: field(7, field(1, b"\x0a\x00" * 5 * 10**6)),
    "functions": lambda: field(7, field(1, b"")) + b"\xca\x01\x00" * 2 * 10**6,
    "metadata": lambda: field(7, field(1, b"")) + b"\x72\x00" * 2 * 10**6,
    "deep": lambda: field(7, nested_graph(90)),
    "deeper": lambda: field(7, nested_graph(5000)),
    "fields": lambda: b"\x08\x01" * 10**7,
}


@made(names=PROTOBUFS)
def protobuf(folder, base, name):
    for step in (1, 2):
        (folder / f"step_{step}.onnx").write_bytes(b"\x08\x07" + PROTOBUFS[name]())


@made(names=("dims", "negative", "zeros", "pipe", "outside", "long", "code"))
def onnx_tensor(folder, base, name):
    model = onnx.load(base / "onnx" / "step_1.onnx")
    weight = model.graph.initializer[0]
    if name in ("dims", "negative"):
        weight.dims[:] = [10**6, 10**6] if name == "dims" else [-1, 4]
    elif name == "code":
        model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=CODE)
    else:
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        place = {"zeros": "zeros", "pipe": "pipe", "outside": "../../../etc/passwd", "long": "long"}[name]
        weight.external_data.add(key="location", value=place)
        if name == "zeros":
            THINGS["zeros"](folder / "zeros")
        elif name == "pipe":
            os.mkfifo(folder / "pipe")
        elif name == "long":
            (folder / "long").write_bytes(bytes(8))
    for step in (1, 2):
        (folder / f"step_{step}.onnx").write_bytes(model.SerializeToString())


ZARRS = {
    "void": {"dtype": "|V2000000000"},
    "text": {"dtype": "<U500000000"},
    "bytes": {"dtype": "|S2000000000"},
    "fields": {"dtype": [["a", "<f4", [10**9]], ["b", "<f4"]]},
    "shape": {"shape": [10**12, 4]},
    "shape-far": {"shape": [2**62, 2**62]},
    "chunks": {"chunks": [10**6, 10**6]},
    "pieces": {"shape": [10**9, 4], "chunks": [1, 1]},
    "axes": {"shape": [1] * 40, "chunks": [1] * 40},
    "filter": {"filters": [{"id": "delta"}]},
    "deflated": {"compressor": {"id": "gzip", "level": 9}},
    "deflated-zlib": {"compressor": {"id": "zlib", "level": 9}},
    "fill": {"fill_value": "x" * 10**7},
    "driver": {"zarr_format": 99},
    "separator": {"dimension_separator": "/../../"},
}


@made(names=ZARRS, needs="orbax")
def zarr(folder, base, name):
    """A tree of one array, each in a folder of its own as older versions saved it."""
    import gzip

    for step in (1, 2):
        item = folder / str(step) / "default"
        array = item / "params.w"
        array.mkdir(parents=True)
        key = {"key_metadata": [{"key": "params", "key_type": 2}, {"key": "w", "key_type": 2}]}
        value = {"value_metadata": {"value_type": "jax.Array", "skip_deserialize": False, "write_shape": [3, 4]}}
        (item / "_METADATA").write_text(
            json.dumps({"tree_metadata": {"('params','w')": {**key, **value}}, "use_ocdbt": False})
        )
        spec = {"zarr_format": 2, "shape": [3, 4], "chunks": [3, 4], "dtype": "<f4", "order": "C"}
        spec |= {"compressor": None, "fill_value": None, "filters": None}
        (array / ".zarray").write_text(json.dumps({**spec, **ZARRS[name]}))
        content = bytes(48)
        if name == "deflated":
            content = gzip.compress(bytes(3 * 10**8), 6)
        elif name == "deflated-zlib":
            content = zlib.compress(bytes(3 * 10**8), 6)
        (array / "0.0").write_bytes(content)


# Steps and names.

NAMES = {
    "beyond-64": "step_99999999999999999999.{}", "digits": "step_" + "9" * 200 + ".{}", "zero": "step_000000000000.{}",
    "escape": "step_3\x1b[2J.{}", "line": "step_3\n.{}", "right-to-left": "step_3\u202e.{}",
    "unicode-digits": "step_\u0663.{}",
}  # fmt: skip


@made(names=NAMES)
def named_file(folder, base, name):
    shutil.copytree(base / "safetensors", folder, dirs_exist_ok=True)
    shutil.copy(folder / "step_2.safetensors", folder / NAMES[name].format("safetensors"))


@made(names=("safetensors", "torch", "npz", "sharded"))
def named_outside_utf_8(folder, base, kind):
    shutil.copytree(base / kind, folder, dirs_exist_ok=True)
    last = sorted(folder.iterdir())[-1]
    last.rename(folder / f"st\udcffp_{last.name[-20:]}")


STEPS = {
    "far": b"\x8a\x09" + (2**64).to_bytes(9, "little"),
    "farther": whole(2**2000),
    "negative": b"J\xff\xff\xff\xff",
    "infinite": b"G" + struct.pack(">d", float("inf")),
    "large": b"G" + struct.pack(">d", 1e300),
    "none": b"G" + struct.pack(">d", float("nan")),
    "text": text("3"),
}


@made(names=STEPS)
def stepped(folder, base, name):
    for number in (1, 2):
        content = b"\x80\x02}(" + text("model") + b"}" + text("w") + tensor((2, 3), (3, 1)) + b"s"
        step = STEPS[name] if number == 2 else b"K\x01"
        archive(folder / f"{'ab'[number - 1]}.pt", content + text("step") + step + text("\ud800") + b"K\x01u.")


@made(names=("xz", "bz2", "gz", "xz-dictionary"))
def estimator(folder, base, how):
    import bz2
    import gzip
    import lzma

    content = b"\x80\x04" + bytes(10**8)
    if how == "xz-dictionary":
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**30 + 2**29}]
        packed_content = lzma.compress(content[:1000], filters=filters) if hasattr(os, "sysconf") else b""
    else:
        packed_content = {"xz": lzma, "bz2": bz2, "gz": gzip}[how].compress(content)
    (folder / f"a.pkl.{how[:3].rstrip('-')}").write_bytes(packed_content)
