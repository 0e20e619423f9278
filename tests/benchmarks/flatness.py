"""Whether a long conversion keeps its pace, its open files and its memory: LeNet5, 2,000 checkpoints."""

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from models import CASES, describe_machine, print_head, print_row, write_run

from regime_proto.conversion.run import run_plan

WARM_UP = 10
WINDOW = 200


@dataclass(frozen=True)
class Sample:
    """The state of this process after an observation."""

    seconds: float
    files: int
    resident_bytes: int

    @classmethod
    def take(cls):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(time.perf_counter(), len(list(Path("/proc/self/fd").iterdir())), pages * os.sysconf("SC_PAGE_SIZE"))


def milliseconds(samples, start, stop):
    """Return the time per checkpoint between two counts of checkpoints done."""
    return 1e3 * (samples[stop].seconds - samples[start].seconds) / (stop - start)


def watch(checkpoints):
    """Convert a run; return a sample by the number of checkpoints done."""
    wanted = {WARM_UP, WINDOW, checkpoints - WINDOW, checkpoints}
    samples = {}

    def progress(done, _total):
        if done in wanted:
            samples[done] = Sample.take()

    with tempfile.TemporaryDirectory() as scratch:
        plan = write_run(Path(scratch) / "checkpoints", CASES["lenet5"], checkpoints)
        run_plan(plan, Path(scratch) / "run.h5", progress=progress)
    return samples


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=2000, help=f"more than {WINDOW}")
    count = parser.parse_args().checkpoints
    print(describe_machine("torch", "onnxruntime"))
    print(f"LeNet5, {count} checkpoints.\n")
    samples = watch(count)
    first, last = milliseconds(samples, WARM_UP, WINDOW), milliseconds(samples, count - WINDOW, count)
    print_head(["checkpoints", "ms per checkpoint", "open files at their end", "resident MB at their end"])
    for name, pace, at in ((f"{WARM_UP} to {WINDOW}", first, WINDOW), (f"last {WINDOW}", last, count)):
        print_row([name, f"{pace:.3g}", str(samples[at].files), f"{samples[at].resident_bytes / 1e6:.0f}"])
    print(f"\nlast / first: {last / first:.2f}")


if __name__ == "__main__":
    main()
