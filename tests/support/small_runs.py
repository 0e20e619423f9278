"""Many small runs: an MLP whose weights go a random step each time, written as bytes, without a framework."""

import itertools
import json
import math

import numpy as np

from regime_proto.conversion.plan import program_files

WIDTHS = (20, 32, 16, 4)
SAMPLES = 26


def make_model():
    """Return the network, for `regime_proto.conversion.plan`."""
    from torch import nn

    layers = []
    for inputs, outputs in itertools.pairwise(WIDTHS):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def probe():
    return np.random.default_rng(0).standard_normal((SAMPLES, WIDTHS[0])).astype(np.float32)


def write_runs(folder, count, *, states, names=None, self_describing=True):
    """Write runs into a new folder; return their directories.

    Parameters
    ----------
    folder : Path
    count : int
    states : int
        Checkpoints of each.
    names : sequence of str, optional
        Of the directories, paths below the folder.
    self_describing : bool
        Whether each directory holds the program and the probe.
    """
    roots = [folder / name for name in names or [f"run_{number:04d}" for number in range(count)]]
    for number, root in enumerate(roots):
        root.mkdir(parents=True)
        write_walk(root, states, seed=number)
    if self_describing:
        contents = program_files(roots[0], model=make_model(), probe=probe())
        for root in roots:
            for path, content in contents.items():
                (root / path.name).write_bytes(content)
    return roots


def write_walk(root, states, *, seed):
    """Write the checkpoints of a run, as safetensors files: steps that become shorter, an epoch every tenth."""
    shapes = {}
    for number, (inputs, outputs) in enumerate(itertools.pairwise(WIDTHS)):
        shapes |= {f"{2 * number}.weight": (outputs, inputs), f"{2 * number}.bias": (outputs,)}
    random = np.random.default_rng(seed)
    size = sum(map(math.prod, shapes.values()))
    steps = random.standard_normal((states, size), np.float32)
    steps *= 0.03 * np.exp(-np.arange(states, dtype=np.float32) / (0.3 * states))[:, None]
    steps[0] = 0.2 * random.standard_normal(size, np.float32)
    for step, weights in enumerate(np.cumsum(steps, axis=0, dtype=np.float32)):
        (root / f"step_{step}.safetensors").write_bytes(_header(shapes, step) + weights.tobytes())


def _header(shapes, step):
    header, start = {"__metadata__": {"step": str(step), "epoch": str(step / 10)}}, 0
    for name, shape in shapes.items():
        stop = start + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
