"""Many small runs: seconds and memory to convert all of them in one call, and to compare their trajectories.

Each run is an MLP 20-32-16-4 of 100 checkpoints in safetensors files, 26 probe samples. Every figure comes from a
process of its own; memory is the peak of resident memory, read every 20 ms, of the process and of the largest child.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from models import describe_machine, print_head, print_row
from trajectory import REGIME, watch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from small_runs import SAMPLES, WIDTHS, write_runs

BOUND_SECONDS = 60


def measured(title, count, *command, cache):
    """Run a command with records of its own, and print a row."""
    os.environ["XDG_CACHE_HOME"] = str(cache)
    done = watch(REGIME, *command)
    if not done.succeeded:
        sys.exit(f"{title}: failed")
    each = 1000 * done.wall / count
    figures = f"{done.wall:.1f}", f"{done.cpu:.1f}", f"{each:.1f}", f"{done.peak:.0f}", f"{done.child_peak:.0f}"
    print_row([title, *figures])
    return done.wall


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--states", type=int, default=100, help="checkpoints of each run")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to work, on a disk with room for some gigabytes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        measure(Path(scratch), options)


def measure(folder, options):
    begin = time.perf_counter()
    runs = write_runs(folder / "runs", options.runs, states=options.states)
    print(describe_machine("onnxruntime", "h5py"))
    shape = "-".join(map(str, WIDTHS))
    print(
        f"{options.runs:,} runs of {options.states} checkpoints, MLP {shape}, {SAMPLES} samples; written in "
        f"{time.perf_counter() - begin:.0f} s.\n"
    )
    print_head(["command", "seconds", "processor seconds", "ms per run", "peak, MB", "peak of a child, MB"])
    trajectories, known, unknown = folder / "trajectories", folder / "known", folder / "unknown"
    convert = ["convert", *runs, "--quiet", "--output-dir"]
    several = [*convert, trajectories, "--workers", options.workers]
    measured(f"convert, {options.workers} runs at once", options.runs, *several, cache=known)
    measured("convert, all are there already", options.runs, *several, cache=known)
    # What is done for all of a kind takes its time only once.
    few = runs[: max(2, options.runs // 10)]
    one = ["convert", *few, "--quiet", "--workers", 1, "--output-dir", folder / "others"]
    measured(f"convert {len(few)}, one after the other", len(few), *one, cache=folder / "other")
    files = sorted(trajectories.glob("*.h5"))
    compare = ["compare", *files, "--quiet", "--to", "csv", "-o", folder / "table.csv", "--overwrite"]
    first = measured("compare, made on this machine", options.runs, *compare, cache=known)
    second = measured("compare, of unknown origin", options.runs, *compare, cache=unknown)
    shutil.rmtree(unknown)
    few = ["compare", *files[: options.runs // 10], *compare[1 + len(files) :]]
    measured(f"compare {options.runs // 10}, of unknown origin", options.runs // 10, *few, cache=unknown)
    verdict = "yes" if max(first, second) < BOUND_SECONDS else "**no**"
    print(f"\nA comparison within {BOUND_SECONDS} s: {verdict}.")


if __name__ == "__main__":
    main()
