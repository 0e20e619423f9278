"""Time per checkpoint of ``convert``, of a hand-written script, of the bare forward pass and of reading the bytes.

All in one run on the same files, since machines differ from minute to minute: compare the columns of one run.
"""

import argparse
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import nn

from regime_proto.conversion import default_workers, run_plan
from regime_proto.plan import make_plan, write_program

SAMPLES = 26


class Mlp(nn.Sequential):
    def __init__(self):
        layers = []
        for inputs in (784, 1024, 1024):
            layers += [nn.Linear(inputs, 1024), nn.BatchNorm1d(1024), nn.ReLU()]
        super().__init__(*layers, nn.Linear(1024, 10))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        hidden = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(hidden)) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 in its form for 32 × 32 images: a 3 × 3 stem, no pooling before the blocks."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        widths = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
        widths += [(128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)]
        self.blocks = nn.Sequential(*[Block(*width) for width in widths])
        self.head = nn.Linear(512, 10)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


MODELS = {"MLP 784-1024³-10": (Mlp, (784,), 120), "ResNet-18, 32×32": (ResNet18, (3, 32, 32), 24)}


def write_run(folder, make, shape, count):
    """Save a random walk of the weights."""
    torch.manual_seed(0)
    model = make()
    np.savez(folder.parent / "probe.npz", torch.randn(SAMPLES, *shape).numpy())
    for step in range(count):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1e-3 * torch.randn_like(parameter)
        torch.save({"model": model.state_dict(), "step": step}, folder / f"step_{step:05d}.pt")
    write_program(folder, model=make(), probe=folder.parent / "probe.npz")


def naive(folder, make, probe):
    """What a user writes by hand: hooks on the ReLU modules, and differences with torch."""
    model = make().eval()
    masks = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _module, _inputs, output: masks.append(output > 0))
    probe = torch.from_numpy(probe)
    before_masks = before_weights = None
    changes = []
    for path in sorted(folder.glob("*.pt")):
        model.load_state_dict(torch.load(path, weights_only=True)["model"])
        masks.clear()
        with torch.no_grad():
            model(probe)
        weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        if before_masks is not None:
            pattern = [(a != b).float().mean().item() for a, b in zip(masks, before_masks, strict=True)]
            weight = sum((weights[name] - before_weights[name]).abs().sum().item() for name in weights)
            changes.append((weight / sum(w.numel() for w in weights.values()), sum(pattern) / len(pattern)))
        before_masks, before_weights = list(masks), weights
        yield
    return changes


def bare_forward(plan):
    """Run the graph up to the last gate, weights in memory, all cores on one checkpoint."""
    model = plan.program.parse_model()
    last = next(node for node in model.graph if node.name == plan.gates[-1].node)
    model.graph.outputs[:] = [last.outputs[0]]
    RemoveUnusedNodesPass()(model)
    used = {value.name for value in model.graph.inputs if value.uses()}
    for value in [value for value in model.graph.inputs if value.name not in used]:
        model.graph.inputs.remove(value)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = default_workers()
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    checkpoint = plan.source.checkpoints[0]
    weights = plan.program.bind(plan.source.read(checkpoint), str(checkpoint.path))
    feeds = {name: np.ascontiguousarray(array) for name, array in {**weights, **plan.probe}.items() if name in used}
    for _ in plan.source.checkpoints:
        session.run(None, feeds)
        yield


def read_bytes(folder):
    for path in sorted(folder.glob("*.pt")):
        path.read_bytes()
        yield


def per_item(iterator, skip):
    """Return milliseconds per item in steady state: the first `skip` are not counted."""
    start = None
    for count, _ in enumerate(iterator, start=1):
        if count == skip:
            start = time.perf_counter()
    return 1e3 * (time.perf_counter() - start) / (count - skip)


def convert(plan, output, skip):
    """Return milliseconds per checkpoint in steady state, and for the whole call."""
    times = []
    begin = time.perf_counter()
    run_plan(plan, output, progress=lambda _done, _total: times.append(time.perf_counter()))
    whole = time.perf_counter() - begin
    output.unlink()
    return 1e3 * (times[-1] - times[skip - 1]) / (len(times) - skip), 1e3 * whole / len(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the median of each column is printed")
    rounds = parser.parse_args().repeat
    print(
        f"{platform.platform()}, {default_workers()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, {SAMPLES} probe samples"
    )
    print(f"milliseconds per checkpoint, median of {rounds} rounds, files in the page cache\n")
    columns = ["convert", "convert, whole call", "hand-written", "bare forward", "read bytes"]
    print(f"{'model':18}" + "".join(f"{name:>21}" for name in columns) + f"{'hand-written / convert':>24}")
    for name, (make, shape, count) in MODELS.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "checkpoints"
            folder.mkdir()
            write_run(folder, make, shape, count)
            plan = make_plan(folder)
            probe = next(iter(plan.probe.values()))
            skip = max(2, count // 6)
            rows = [
                [
                    *convert(plan, Path(scratch) / "run.h5", skip),
                    per_item(naive(folder, make, probe), skip),
                    per_item(bare_forward(plan), skip),
                    per_item(read_bytes(folder), skip),
                ]
                for _ in range(rounds)
            ]
            middle = np.median(rows, axis=0)
            print(f"{name:18}" + "".join(f"{value:21.2f}" for value in middle) + f"{middle[2] / middle[0]:24.2f}")


if __name__ == "__main__":
    main()
