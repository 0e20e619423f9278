"""Seconds that `regime check` takes for a run, against reading its bytes and hashing them on one thread.

python tests/benchmarks/checking.py --checkpoints 100 --megabytes 10
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from models import describe_machine, print_head, print_row
from safetensors.numpy import save_file

import regime_proto

TENSORS = 20


def write_run(folder, checkpoints, megabytes):
    random = np.random.default_rng(0)
    size = int(megabytes * 1e6 / 4 / TENSORS)
    state = {f"layer.{index}.weight": random.normal(size=size).astype(np.float32) for index in range(TENSORS)}
    for step in range(checkpoints):
        state = {name: tensor + 1e-3 * random.standard_normal(size, dtype=np.float32) for name, tensor in state.items()}
        save_file(state, folder / f"step_{step}.safetensors")


def read(folder):
    for path in folder.iterdir():
        path.read_bytes()


def hash_all(folder):
    for path in folder.iterdir():
        hashlib.sha256(path.read_bytes()).digest()


def check(folder):
    assert regime_proto.check(folder).ok


def seconds(function, folder, repeats):
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function(folder)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=100)
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(describe_machine("numpy", "safetensors"), end="\n\n")
    print_head(["checkpoints", "MB each", "read bytes", "SHA-256, one thread", "regime check", "check / SHA-256"])
    with tempfile.TemporaryDirectory() as folder:
        write_run(Path(folder), options.checkpoints, options.megabytes)
        found = [seconds(function, Path(folder), options.repeats) for function in (read, hash_all, check)]
    ratio = f"{found[2] / found[1]:.2f}"
    print_row([str(options.checkpoints), f"{options.megabytes:g}", *(f"{value:.2f} s" for value in found), ratio])


if __name__ == "__main__":
    main()
