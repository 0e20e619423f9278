"""Peak memory of `regime convert`, for every model and for checkpoints of 3 GB.

The bound of the models holds for resident memory, the mapped checkpoints and the libraries in it; that of the large
checkpoints for anonymous memory, since the system takes pages of mapped files back when it wants to. Both are read
every 20 ms.
"""

import argparse
import json
import math
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from models import CASES, add_models_option, describe_machine, print_head, print_row, write_run
from torch import nn

from regime_proto.conversion.plan import make_plan, write_program
from regime_proto.runtime.device import cores

INTERVAL = 0.02
MEGABYTE = 1e6
CHUNK = 2**24
ALLOWANCE_BYTES = 300e6
BYTES_PER_UNIT = 5
LARGE_WIDTH, LARGE_SAMPLES, LARGE_BOUND_BYTES = 8192, 4, 1.5e9


def status_bytes(process, field):
    """Return a field of a process's status, 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


def peaks(folder):
    """Return the peaks of resident and of anonymous memory of `regime convert`, in bytes."""
    regime = Path(sys.executable).with_name("regime")
    command = [regime, "convert", folder / "checkpoints", "-o", folder / "run.h5", "--quiet"]
    resident = anonymous = 0
    with subprocess.Popen(command) as process:
        try:
            while process.poll() is None:
                resident = max(resident, status_bytes(process.pid, "VmHWM"))
                anonymous = max(anonymous, status_bytes(process.pid, "RssAnon"))
                time.sleep(INTERVAL)
        finally:
            process.kill()
    if process.returncode:
        sys.exit(f"{folder}: the conversion failed")
    return resident, anonymous


def activation_bytes(plan):
    """Return what the gates of one forward pass hold: a float32 and a mask's byte for each unit."""
    names = {gate.node for gate in plan.gates}
    nodes = [node for node in plan.program.parse_model().graph if node.name in names]
    return BYTES_PER_UNIT * sum(math.prod(node.outputs[0].shape.numpy()) for node in nodes)


def row(title, folder, plan, bound):
    size = plan.source.checkpoints[0].path.stat().st_size
    resident, anonymous = peaks(folder)
    limit = bound(size, activation_bytes(plan))
    sizes = [value / MEGABYTE for value in (size, resident, anonymous, limit)]
    held = anonymous if bound is large_bound else resident
    print_row([title, *[f"{value:,.0f}" for value in sizes], "yes" if held <= limit else "**no**"])


def linear_bound(size, activations):
    return (cores() + 1.2) * size + cores() * activations + ALLOWANCE_BYTES


def large_bound(_size, _activations):
    return LARGE_BOUND_BYTES


def make_large(layers):
    """Return square layers on memory that nobody touches: only the graph is wanted."""
    with torch.device("meta"):
        square = [(nn.Linear(LARGE_WIDTH, LARGE_WIDTH), nn.ReLU()) for _ in range(layers)]
    return nn.Sequential(*[module for pair in square for module in pair]).to_empty(device="cpu")


def write_safetensors(path, shapes, step):
    """Write random numbers, the same block again and again; those of neighbouring steps differ by a thousandth."""
    header, offset = {"__metadata__": {"step": str(step)}}, 0
    for name, shape in shapes.items():
        stop = offset + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    scale = np.float32((1 + 1e-3 * step) * LARGE_WIDTH**-0.5)
    block = (np.random.default_rng(0).standard_normal(CHUNK, np.float32) * scale).tobytes()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for left in range(offset, 0, -len(block)):
            file.write(block[:left])


def write_large_run(folder, layers):
    folder.mkdir()
    model = make_large(layers)
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    probe = np.random.default_rng(0).standard_normal((LARGE_SAMPLES, LARGE_WIDTH), np.float32)
    write_program(folder, model=model, probe=probe)
    for step in (1, 2):
        write_safetensors(folder / f"step_{step}.safetensors", shapes, step)
    return make_plan(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=6, help="of each model")
    parser.add_argument("--layers", type=int, default=12, help="of 268 MB in the large checkpoints; 0 leaves them out")
    add_models_option(parser)
    options = parser.parse_args()
    # An orderly exit removes the temporary folders, which hold gigabytes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(describe_machine("torch", "onnxruntime"))
    bound = f"(workers + 1.2) × checkpoint + workers × {BYTES_PER_UNIT} bytes × gate units × samples + 300 MB"
    print(f"Megabytes, {cores()} workers. Bound of the models: {bound}.\n")
    print_head(["model", "checkpoint", "peak resident", "peak anonymous", "bound", "within"])
    for name in options.models:
        with tempfile.TemporaryDirectory() as scratch:
            plan = write_run(Path(scratch) / "checkpoints", CASES[name], options.checkpoints)
            row(CASES[name].title, Path(scratch), plan, linear_bound)
    if options.layers:
        with tempfile.TemporaryDirectory() as scratch:
            plan = write_large_run(Path(scratch) / "checkpoints", options.layers)
            row(f"{options.layers} square layers of {LARGE_WIDTH}, 2 checkpoints", Path(scratch), plan, large_bound)


if __name__ == "__main__":
    main()
