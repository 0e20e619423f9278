"""Speed of ``regime convert``: whole calls and steady state, against a script by hand, TorchLens and bare passes.

All in one run on the same files, every figure from fresh processes that take turns: this machine's speed differs from
minute to minute, so compare the columns of one run. Run it with nothing else running.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from by_hand import follow, hooked
from models import CASES, add_models_option, describe_machine, print_head, print_row, write_run

HERE = Path(__file__).parent
# Checkpoints of a whole call: what people have.
WHOLE = {"mlp": 24, "lenet5": 24, "resnet18": 24, "resnet34": 24, "gpt2": 10, "vit_s": 12}
TORCHLENS_CHECKPOINTS = 4
CORES = 2
STEADY_COLUMNS = [
    "model",
    "checkpoints",
    "convert",
    "by hand",
    "TorchLens",
    "bare, all cores on one",
    "bare, one thread per core",
    "by hand / convert",
    "convert / better bare",
]


def process(folder, *command):
    """Return the seconds that a process takes, from start to end, and what it prints; the run is in the page cache."""
    for path in folder.glob("*.pt"):
        with path.open("rb") as file:
            while file.read(2**24):
                pass
    begin = time.perf_counter()
    done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True, cwd=HERE)
    return time.perf_counter() - begin, done.stdout


def steady(times):
    """Return milliseconds per checkpoint after the first sixth."""
    skip = max(CORES, len(times) // 6)
    return 1e3 * (times[-1] - times[skip - 1]) / (len(times) - skip)


def linked(folder, source, count):
    """Make a run of the first checkpoints of another."""
    folder.mkdir()
    for path in [*sorted(source.glob("*.pt"))[:count], source / "program.onnx", source / "probe.npz"]:
        (folder / path.name).symlink_to(path)
    return folder


def round_of(name, few, many, scratch):
    """Return one round: whole seconds and steady milliseconds of both, and the two bare passes."""
    regime = Path(sys.executable).with_name("regime")
    count = len(list(many.glob("*.pt")))
    whole, _ = process(few, regime, "convert", few, "-o", scratch / "few.h5", "--quiet")
    by_hand, times_by_hand = process(few, sys.executable, "by_hand.py", name, few, count)
    _, times = process(many, sys.executable, "converting.py", many, scratch / "many.h5")
    if count > WHOLE[name]:
        _, times_by_hand = process(many, sys.executable, "by_hand.py", name, many, count)
    _, bare = process(many, sys.executable, "bare_passes.py", many, min(count, 40))
    for path in scratch.glob("*.h5"):
        path.unlink()
    return [whole, by_hand, steady(json.loads(times)), steady(json.loads(times_by_hand)), *json.loads(bare)]


def traced(model, probe, gates):
    """Return an observation by the faster of TorchLens' two ways, which keeps values and no graph."""
    import torchlens

    def observe():
        recording = torchlens.fastlog.record(model, probe, save=torchlens.func("relu"))
        masks = [record.ram_payload > 0 for record in recording]
        if len(masks) != gates:
            raise ValueError(f"{len(masks)} outputs for {gates} gates")
        return masks

    return observe


def with_torchlens(case, folder, gates):
    """Return milliseconds per checkpoint, or why TorchLens did not do it."""
    # A Python branch on the attention mask; it does not change with the weights.
    warnings.filterwarnings("ignore", message="TorchLens observed .* scalar escape")
    model, times = case.make().eval(), []
    paths = sorted(folder.glob("*.pt"))[:TORCHLENS_CHECKPOINTS]
    try:
        for _ in follow(model, paths, traced(model, case.probe(), gates)):
            times.append(time.perf_counter())
    except Exception as error:
        # Whatever another library raises belongs in the table.
        return f"{type(error).__name__}: {str(error)[:80]}".replace("\n", " ").replace("|", "/")
    return digits(steady(times))


def count_hooks(case):
    """Return how many masks the hooks see in one forward pass."""
    import torch

    model = case.make().eval()
    with torch.no_grad():
        return len(hooked(model, case.probe())())


def digits(value):
    """Return three digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def spread(values, show=digits):
    """Return a median, with the least and the most."""
    return f"{show(np.median(values))} ({show(min(values))} – {show(max(values))})"


def ratio(values):
    return spread(values, "{:.2f}".format)


def measure(name, rounds, *, lens):
    """Measure a model in some rounds; return its rows of both tables, and the two median ratios."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        count = max(case.checkpoints, WHOLE[name])
        plan = write_run(scratch / "many", case, count)
        few = linked(scratch / "few", scratch / "many", WHOLE[name])
        # Whatever is written once, caches of compiled modules among them, is written before.
        round_of(name, few, scratch / "many", scratch)
        found = np.array([round_of(name, few, scratch / "many", scratch) for _ in range(rounds)])
        said = with_torchlens(case, scratch / "many", len(plan.gates)) if lens else "–"
    whole, whole_by_hand, converting, by_hand, wide, narrow = found.T
    best = np.minimum(wide, narrow)
    of_whole_calls = [
        case.title, f"{len(plan.gates)} / {count_hooks(case)}", str(WHOLE[name]), spread(whole), spread(whole_by_hand),
        ratio(whole_by_hand / whole),
    ]  # fmt: skip
    in_steady_state = [
        case.title, str(count), spread(converting), spread(by_hand), said, spread(wide), spread(narrow),
        ratio(by_hand / converting), ratio(converting / best),
    ]  # fmt: skip
    return of_whole_calls, in_steady_state, [np.median(whole_by_hand / whole), np.median(by_hand / converting)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="rounds")
    parser.add_argument("--no-torchlens", action="store_true")
    add_models_option(parser)
    options = parser.parse_args()
    print(describe_machine("torch", "onnxruntime", "transformers", "torchlens"))
    print(f"Median (least – most) of {options.repeat} rounds of fresh processes; `.pt` files in the page cache.\n")
    rows = []
    for name in options.models:
        rows.append(measure(name, options.repeat, lens=not options.no_torchlens))
        print(name, *rows[-1][0][3:], "|", *rows[-1][1][2:], file=sys.stderr, flush=True)
    print("Whole calls, from the start of the process to its end, in seconds:\n")
    print_head(["model", "gates / hooks", "checkpoints", "regime convert", "by hand", "by hand / convert"])
    for whole, _, _ in rows:
        print_row(whole)
    print("\nSteady state, milliseconds per checkpoint:\n")
    print_head(STEADY_COLUMNS)
    for _, each, _ in rows:
        print_row(each)
    means = np.exp(np.log(np.array([ratios for _, _, ratios in rows])).mean(axis=0))
    print(f"\nby hand / convert, geometric means: whole calls {means[0]:.2f}, steady state {means[1]:.2f}")


if __name__ == "__main__":
    main()
