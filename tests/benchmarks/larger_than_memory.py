"""Peak anonymous memory and time of `regime convert` on a decoder that is larger than memory, part by part.

A decoder like Llama with ReLU, as transformers saves it in bfloat16, is written shard by shard, never held as a whole;
its second checkpoint is the first with small changes. The conversion is a process of its own, whose anonymous memory is
read every 20 ms: pages of mapped files are not in it, since the system takes them back when it wants to. The files are
then read once from the disk and dropped, as a bound of the time, and deleted.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
from memory import INTERVAL, status_bytes
from models import describe_machine, print_head, print_row

VOCABULARY, LARGEST_VOCABULARY_SHARE = 32_000, 4
SHARD_BYTES = 4 * 10**9
# Widths, for each of which the feed-forward is 11/4 as wide; a layer then holds 12.25 d² weights.
WIDTHS = (512, 1024, 2048, 4096, 8192)
MOST_LAYERS = 48
CHUNK = 2**22
GIGABYTE = 1e9
COLUMNS = [
    "weights", "checkpoint", "parts", "peak anonymous", "peak resident", "conversion", "files read once", "trajectory",
]  # fmt: skip


def config(billions):
    """Return the config of a decoder with about so many weights."""
    weights = billions * 1e9
    width = next((width for width in WIDTHS if 12.25 * width**2 * MOST_LAYERS >= weights), WIDTHS[-1])
    vocabulary = min(VOCABULARY, int(weights / LARGEST_VOCABULARY_SHARE / 2 / width))
    layers = max(1, round((weights - 2 * vocabulary * width) / (12.25 * width**2)))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "relu",
        "hidden_size": width,
        "intermediate_size": width * 11 // 4,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 128,
        "num_key_value_heads": width // 128,
        "vocab_size": vocabulary,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def shapes(made) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the tensors of a decoder, layer after layer."""
    width, wide, vocabulary = made["hidden_size"], made["intermediate_size"], made["vocab_size"]
    yield "model.embed_tokens.weight", (vocabulary, width)
    for layer in range(made["num_hidden_layers"]):
        front = f"model.layers.{layer}"
        yield f"{front}.input_layernorm.weight", (width,)
        yield f"{front}.post_attention_layernorm.weight", (width,)
        for name in "qkvo":
            yield f"{front}.self_attn.{name}_proj.weight", (width, width)
        for name, shape in {"gate": (wide, width), "up": (wide, width), "down": (width, wide)}.items():
            yield f"{front}.mlp.{name}_proj.weight", shape
    yield "model.norm.weight", (width,)
    yield "lm_head.weight", (vocabulary, width)


def shards(made):
    """Return the tensors of each shard."""
    found, held = [[]], 0
    for name, shape in shapes(made):
        size = 2 * math.prod(shape)
        if found[-1] and held + size > SHARD_BYTES:
            found.append([])
            held = 0
        found[-1].append((name, shape))
        held += size
    return found


def numbers(name, shape, step, pool) -> Iterator[bytes]:
    """Yield the numbers of a tensor in bfloat16, chunk after chunk."""
    left = math.prod(shape)
    random = np.random.default_rng(list(name.encode()))
    while left:
        count = min(left, CHUNK)
        values = np.roll(pool, random.integers(CHUNK))[:count] * (0.02 if len(shape) > 1 else 0.1) + (len(shape) == 1)
        if step:
            # As optimizers do it: most numbers move by a unit in the last place, or not at all.
            values = values * np.float32(1 + step * 2**-9)
        yield values.astype(ml_dtypes.bfloat16).tobytes()
        left -= count


def write_checkpoint(folder, made, step, pool):
    """Write a checkpoint as transformers does."""
    folder.mkdir(parents=True)
    found = shards(made)
    weight_map = {}
    for number, tensors in enumerate(found, start=1):
        file = f"model-{number:05}-of-{len(found):05}.safetensors"
        weight_map |= {name: file for name, _ in tensors}
        header, offset = {"__metadata__": {"format": "pt"}}, 0
        for name, shape in tensors:
            stop = offset + 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, stop]}
            offset = stop
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as output:
            output.write(len(text).to_bytes(8, "little") + text)
            for name, shape in tensors:
                output.writelines(numbers(name, shape, step, pool))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(made))


def forget(folder):
    """Let the system drop what it holds of the files."""
    os.sync()
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds_to_read(folder):
    """Return how long it takes to read all files once."""
    forget(folder)
    begin = time.perf_counter()
    buffer = bytearray(2**24)
    for path in sorted(folder.rglob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - begin


def convert(folder, parts):
    """Return the peaks of anonymous and resident memory of a conversion, in bytes, and its seconds."""
    forget(folder)
    regime = Path(sys.executable).with_name("regime")
    command = [regime, "convert", folder / "checkpoints", "--probe", folder / "probe.npz", "-o", folder / "run.h5"]
    anonymous = resident = 0
    begin = time.perf_counter()
    with subprocess.Popen([*command, "--parts", parts, "--quiet"]) as process:
        try:
            while process.poll() is None:
                anonymous = max(anonymous, status_bytes(process.pid, "RssAnon"))
                resident = max(resident, status_bytes(process.pid, "VmHWM"))
                time.sleep(INTERVAL)
        finally:
            process.kill()
    if process.returncode:
        sys.exit(f"{folder}: the conversion failed")
    return anonymous, resident, time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--billions", type=float, default=7.0, help="of weights")
    parser.add_argument("--parts", default="auto", help="as of regime convert")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=32, help="of each sample")
    parser.add_argument("--folder", type=Path, help="where the files are written for a while, twice 2 bytes a weight")
    options = parser.parse_args()
    # An orderly exit removes the temporary folder, which holds gigabytes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(describe_machine("torch", "onnxruntime", "transformers"))
    print_head(COLUMNS)
    made = config(options.billions)
    pool = np.random.default_rng(0).standard_normal(CHUNK, np.float32)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        ids = np.random.default_rng(1).integers(3, made["vocab_size"], (options.samples, options.tokens))
        np.savez(folder / "probe.npz", input_ids=ids)
        for step in (0, 1):
            write_checkpoint(folder / "checkpoints" / f"checkpoint-{step + 1}", made, step, pool)
        weights = sum(math.prod(shape) for _, shape in shapes(made))
        anonymous, resident, seconds = convert(folder, options.parts)
        print_row(
            [
                f"{weights / 1e9:.2f} billion", f"{2 * weights / GIGABYTE:.2f} GB", options.parts,
                f"{anonymous / GIGABYTE:.2f} GB", f"{resident / GIGABYTE:.2f} GB", f"{seconds:.1f} s",
                f"{seconds_to_read(folder):.1f} s", f"{(folder / 'run.h5').stat().st_size / 1e6:.1f} MB",
            ]
        )  # fmt: skip


if __name__ == "__main__":
    main()
