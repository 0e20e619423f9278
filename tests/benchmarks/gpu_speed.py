"""Speed on a GPU: ``convert`` and the recorder against the same by hand, on the same card.

``--device cpu`` tries whether all of it runs. Convolutions and products are in float32 in all columns (no TF32), as
``convert`` computes them.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from convert_speed import digits, hooked, per_item, steady
from models import ON_A_GPU, describe_machine, print_head, print_row, write_run
from recording_overhead import TRAININGS, Loop, by_hand, nothing

import regime_proto
from regime_proto.adapters.from_torch.live_masks import repeatable
from regime_proto.conversion.run import run_plan
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.runtime.device import runtime_version

CONVERT = [
    "model",
    "convert",
    "convert, whole call",
    "by hand",
    "copy to the device",
    "read bytes",
    "by hand / convert",
]
RECORD = ["model", "step, ms", "recorder", "hooks by hand"]


def finish(device):
    """Wait until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def converted(plan, output, skip, device):
    """Return milliseconds per checkpoint in steady state, and for the whole call."""
    times, begin = [], time.perf_counter()
    settings = ConversionSettings(device=str(device))
    run_plan(plan, output, settings, progress=lambda _done, _total: times.append(time.perf_counter()))
    whole = time.perf_counter() - begin
    output.unlink()
    return steady(times, skip), 1e3 * whole / len(times)


def followed(model, probe, paths, device):
    """Yield after every checkpoint: its masks and weights are compared with those before, all on the device."""
    observe = hooked(model, probe)
    names = [name for name, _ in model.named_parameters()]
    before = None
    for path in paths:
        state = torch.load(path, weights_only=True, map_location=device)["model"]
        model.load_state_dict(state)
        with torch.no_grad():
            masks, weights = observe(), torch.cat([state[name].flatten() for name in names])
            if before is not None:
                flips = torch.stack([(a ^ b).float().mean() for a, b in zip(masks, before[0], strict=True)])
                torch.stack([(weights - before[1]).abs().mean(), flips.mean()]).cpu()
        before = masks, weights
        yield


def by_torch(model, probe, paths, skip, device):
    """Return milliseconds per checkpoint by hand."""
    # Torch cannot export a model under these settings.
    with repeatable():
        return per_item(followed(model, probe, paths, device), skip)


def copied(path, device, count):
    """Yield after every copy of a state that is in memory to the device; to the CPU, after copying it there."""
    state = torch.load(path, weights_only=True)["model"]
    for _ in range(count):
        _there = {name: torch.empty_like(tensor, device=device).copy_(tensor) for name, tensor in state.items()}
        finish(device)
        yield


def conversion(case, count, rounds, device):
    """Return the cells of a model's row, medians over rounds."""
    with tempfile.TemporaryDirectory() as scratch:
        plan = write_run(Path(scratch) / "checkpoints", case, count)
        paths = sorted((Path(scratch) / "checkpoints").glob("*.pt"))
        skip = max(2, count // 6)
        rows = []
        for _ in range(rounds):
            model, probe = case.make().eval().to(device), case.probe().to(device)
            rows.append(
                [
                    *converted(plan, Path(scratch) / "run.h5", skip, device),
                    by_torch(model, probe, paths, skip, device),
                    per_item(copied(paths[0], device, count), skip),
                    per_item((path.read_bytes() for path in paths), skip),
                ]
            )
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    return [case.title, *map(digits, medians), f"{medians[2] / medians[0]:.2f}"]


def recording(training, rounds, device):
    """Return the cells of a training's row: time per step, and how many times as long the others take."""
    torch.manual_seed(0)
    loops = [Loop(training, training.make().to(device)) for _ in range(3)]
    probe = training.inputs(training.samples, seed=1)
    with tempfile.TemporaryDirectory() as scratch:
        recorder = regime_proto.record(loops[1].model, probe.numpy(), Path(scratch) / "run.h5", engine="native")
        variants = [nothing, recorder.observe, by_hand(loops[2].model, probe.to(device))]
        # The first round warms up.
        _, *times = [
            [_block(loop, after, training.steps, device) for loop, after in zip(loops, variants, strict=True)]
            for _ in range(1 + rounds)
        ]
        recorder.close()
    bare = statistics.median(row[0] for row in times)
    ratios = [statistics.median(row[index] / row[0] for row in times) for index in (1, 2)]
    return [training.title, digits(1e3 * bare), *[f"{ratio:.2f}" for ratio in ratios]]


def _block(loop, after, steps, device):
    loop.inputs = loop.inputs.to(device)
    begin = time.perf_counter()
    # What a loss makes of itself, labels for example, is made there.
    with repeatable(), torch.device(device):
        loop.run(after, steps)
    finish(device)
    return (time.perf_counter() - begin) / steps


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="cuda, cuda:1, or cpu")
    parser.add_argument("--repeat", type=int, default=3, help="rounds; medians are printed")
    parser.add_argument("--models", nargs="*", choices=ON_A_GPU, default=list(ON_A_GPU), metavar="NAME")
    parser.add_argument("--trainings", nargs="*", choices=TRAININGS, default=list(TRAININGS), metavar="NAME")
    parser.add_argument("--checkpoints", type=int, help="of each model; default: 40 to 400")
    options = parser.parse_args()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}; {describe_machine('torch', 'transformers')[:-1]}, {runtime_version()}.")
    print(f"\nMilliseconds per checkpoint, median of {options.repeat} rounds, files in the page cache.\n")
    print_head(CONVERT)
    for model in options.models:
        case = ON_A_GPU[model]
        print_row(conversion(case, options.checkpoints or case.checkpoints, options.repeat, device))
    print(f"\nTime per training step against the bare loop, median of {options.repeat} rounds.\n")
    print_head(RECORD)
    for training in options.trainings:
        print_row(recording(TRAININGS[training], options.repeat, device))


if __name__ == "__main__":
    main()
