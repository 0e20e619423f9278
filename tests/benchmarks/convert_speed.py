"""Time per checkpoint of ``convert``, of a hand-written script, of TorchLens, of the bare forward pass and of reading.

All in one run on the same files, since machines differ from minute to minute: compare the columns of one run.
"""

import argparse
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
import torchlens
from models import CASES, add_models_option, describe_machine, print_head, print_row, write_run
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import nn
from torchlens.backends.torch.wrappers import unwrap_torch

from regime_proto.conversion.run import run_plan
from regime_proto.runtime.device import cores

TORCHLENS_CHECKPOINTS = 4
COLUMNS = [
    "model",
    "gates / hooks",
    "convert",
    "convert, whole call",
    "hand-written",
    "TorchLens",
    "bare, all cores on one",
    "bare, one thread per core",
    "read bytes",
    "hand-written / convert",
    "convert / best bare",
    "convert / bare, all cores on one",
]


def steady(times, skip):
    """Return milliseconds per item from the times at which items were done, without the first `skip`."""
    return 1e3 * (times[-1] - times[skip - 1]) / (len(times) - skip)


def per_item(iterator, skip):
    return steady([time.perf_counter() for _ in iterator], skip)


def convert(plan, output, skip):
    """Return milliseconds per checkpoint in steady state, and for the whole call."""
    times = []
    begin = time.perf_counter()
    run_plan(plan, output, progress=lambda _done, _total: times.append(time.perf_counter()))
    whole = time.perf_counter() - begin
    output.unlink()
    return steady(times, skip), 1e3 * whole / len(times)


def changes(masks, before_masks, weights, before_weights):
    """Return mean |Δw| and the mean share of units that flipped, as one writes it with torch."""
    pattern = [(a != b).float().mean().item() for a, b in zip(masks, before_masks, strict=True)]
    weight = sum((weights[name] - before_weights[name]).abs().sum().item() for name in weights)
    return weight / sum(tensor.numel() for tensor in weights.values()), sum(pattern) / len(pattern)


def follow(model, paths, observe):
    """Load each checkpoint into `model`, observe its masks, and compare neighbours."""
    names = [name for name, _ in model.named_parameters()]
    before = None
    for path in paths:
        state = torch.load(path, weights_only=True)["model"]
        model.load_state_dict(state)
        with torch.no_grad():
            current = observe(), {name: state[name] for name in names}
            if before is not None:
                changes(current[0], before[0], current[1], before[1])
        before = current
        yield


def hooked(model, probe):
    """Return what a user writes by hand: a forward pass with a hook on every ReLU module."""
    masks = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _module, _inputs, output: masks.append(output > 0))

    def observe():
        masks.clear()
        model(probe)
        return list(masks)

    return observe


def traced(model, probe, gates):
    """Return the same with the faster of TorchLens' two ways, which keeps values and no graph."""

    def observe():
        recording = torchlens.fastlog.record(model, probe, save=torchlens.func("relu"))
        masks = [record.ram_payload > 0 for record in recording]
        if len(masks) != gates:
            raise ValueError(f"{len(masks)} outputs for {gates} gates")
        return masks

    return observe


def hand_written(case, paths, skip):
    model = case.make().eval()
    return per_item(follow(model, paths, hooked(model, case.probe())), skip)


def with_torchlens(case, paths, gates):
    """Return milliseconds per checkpoint, or why TorchLens did not do it."""
    model = case.make().eval()
    try:
        return per_item(follow(model, paths[:TORCHLENS_CHECKPOINTS], traced(model, case.probe(), gates)), skip=2)
    except Exception as error:
        # Whatever another library raises belongs in the table.
        return f"{type(error).__name__}: {str(error)[:80]}".replace("\n", " ").replace("|", "/")
    finally:
        # TorchLens leaves torch's functions wrapped, which would slow the hand-written script of the next model.
        unwrap_torch()


def count_hooks(case):
    """Return how many masks the hooks see in one forward pass."""
    model = case.make().eval()
    with torch.no_grad():
        return len(hooked(model, case.probe())())


def last_gates(graph, names):
    """Return the gates that no other gate depends on."""
    last, needed = [], set()
    for node in reversed(graph):
        if node.name in names and node not in needed:
            last.append(node)
        if node.name in names or node in needed:
            needed.update(node.predecessors())
    return last


def pruned(plan):
    """Return the graph up to the last gates, without the inputs that this leaves unused."""
    model = plan.program.parse_model()
    ends = last_gates(model.graph, {gate.node for gate in plan.gates})
    model.graph.outputs[:] = [node.outputs[0] for node in ends]
    RemoveUnusedNodesPass()(model)
    for value in [value for value in model.graph.inputs if not value.uses()]:
        model.graph.inputs.remove(value)
    return model


def bare_session(model, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Errors only: it warns of each CastLike, a function with no kernel of its own, that it cannot fold.
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


class Bare:
    """The forward pass alone, its weights in memory."""

    def __init__(self, plan):
        model = pruned(plan)
        first = plan.source.checkpoints[0]
        arrays = {**plan.program.bind(plan.source.read(first), str(first.path)), **plan.probe}
        self.feeds = {value.name: np.ascontiguousarray(arrays[value.name]) for value in model.graph.inputs}
        self.cores = cores()
        self.wide = bare_session(model, self.cores)
        self.narrow = bare_session(model, 1)

    def all_cores_on_one(self, count, skip):
        return per_item((self.wide.run(None, self.feeds) for _ in range(count)), skip)

    def one_thread_per_core(self, count):
        """Return milliseconds per pass, with as many passes at once as there are cores."""
        each = -(-count // self.cores)

        def run(_):
            for _ in range(each):
                self.narrow.run(None, self.feeds)

        with ThreadPoolExecutor(self.cores) as pool:
            list(pool.map(lambda _: self.narrow.run(None, self.feeds), range(self.cores)))
            begin = time.perf_counter()
            list(pool.map(run, range(self.cores)))
            return 1e3 * (time.perf_counter() - begin) / (each * self.cores)


def measure(case, plan, folder, rounds):
    """Return the median of each column of times, TorchLens apart since it may fail."""
    paths = sorted((folder / "checkpoints").glob("*.pt"))
    count = len(paths)
    skip = max(cores(), count // 6)
    bare = Bare(plan)
    rows = []
    for _ in range(rounds):
        rows.append(
            [
                *convert(plan, folder / "run.h5", skip),
                hand_written(case, paths, skip),
                bare.all_cores_on_one(count, skip),
                bare.one_thread_per_core(count),
                per_item((path.read_bytes() for path in paths), skip),
            ]
        )
    # Slow, hence once.
    return np.median(rows, axis=0), with_torchlens(case, paths, len(plan.gates))


def digits(value):
    """Return three digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def row(case, rounds):
    """Print a model's row; return how many times as long the hand-written script takes."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        plan = write_run(folder / "checkpoints", case, case.checkpoints)
        times, lens = measure(case, plan, folder, rounds)
    convert, whole, naive, wide, narrow, read = times
    print_row(
        [
            case.title,
            f"{len(plan.gates)} / {count_hooks(case)}",
            *[digits(value) for value in (convert, whole, naive)],
            lens if isinstance(lens, str) else digits(lens),
            *[digits(value) for value in (wide, narrow, read)],
            *[f"{value:.2f}" for value in (naive / convert, convert / min(wide, narrow), convert / wide)],
        ]
    )
    return naive / convert


def main():
    # A Python branch on the attention mask; it does not change with the weights.
    warnings.filterwarnings("ignore", message="TorchLens observed .* scalar escape")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the median of each column is printed")
    add_models_option(parser)
    options = parser.parse_args()
    print(describe_machine("torch", "onnxruntime", "transformers", "torchlens"))
    print(
        f"Milliseconds per checkpoint, median of {options.repeat} rounds (TorchLens: one), "
        "`.pt` files in the page cache.\n"
    )
    print_head(COLUMNS)
    ratios = [row(CASES[name], options.repeat) for name in options.models]
    print(f"\nhand-written / convert, geometric mean: {np.exp(np.mean(np.log(ratios))):.2f}")


if __name__ == "__main__":
    main()
