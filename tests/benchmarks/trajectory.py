"""What the trajectory file costs: appending to a long run, analyzing and validating 10 GB, opening.

Each figure comes from a process of its own; memory is the peak of resident memory, read every 20 ms, of the process
and of the child that it starts.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
from long_runs import APPENDED, LARGE, PERIOD, SMALL, write_run
from memory import INTERVAL, MEGABYTE, status_bytes
from models import describe_machine, print_head, print_row

from regime_proto.schema import hdf5, layout
from regime_proto.schema.validation.check import ROW_BYTES_PER_SECOND
from regime_proto.schema.validation.guard import BYTES_PER_SECOND, SECONDS

REGIME = Path(sys.executable).with_name("regime")
TASKS = Path(__file__).with_name("long_runs.py")


@dataclass(frozen=True)
class Watched:
    """A process that has ended: its output, its wall and processor seconds, and peaks of memory in MB."""

    text: str
    succeeded: bool
    wall: float
    cpu: float
    peak: float
    child_peak: float

    @property
    def found(self):
        return json.loads(self.text)


def watch(*command):
    """Run a command to its end."""
    begin, before = time.perf_counter(), processor_seconds()
    peak = child_peak = 0
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, status_bytes(process.pid, "VmHWM"))
            child_peak = max([child_peak, *(status_bytes(child, "VmHWM") for child in children(process.pid))])
            time.sleep(INTERVAL)
        text = process.stdout.read()
    wall, cpu = time.perf_counter() - begin, processor_seconds() - before
    return Watched(text, process.returncode == 0, wall, cpu, peak / MEGABYTE, child_peak / MEGABYTE)


def processor_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def children(process):
    """Return the children that a process has, without those that are only its own image before they start."""
    try:
        tasks = Path(f"/proc/{process}/task").glob("*/children")
        found = [child for task in tasks for child in task.read_text().split()]
        own = Path(f"/proc/{process}/cmdline").read_bytes()
        return [child for child in found if Path(f"/proc/{child}/cmdline").read_bytes() != own]
    except (FileNotFoundError, ProcessLookupError):
        return []


def run_task(name, path):
    return watch(sys.executable, TASKS, name, path)


def measure_appending(folder):
    steps = hdf5.row_bytes(SMALL, layout.STEP) + hdf5.row_bytes(SMALL, layout.MASK_STEP)
    done = run_task("append", folder / "run.h5")
    found = done.found
    print(
        f"{APPENDED:,} observations of {steps / 1e3:.0f} kB, {found['bytes'] / MEGABYTE:.0f} MB stored; 1 % of the "
        f"units flip per step; a segment is written every {PERIOD}.\n"
    )
    print_head(["observations up to", "µs per append, median", "mean, writing included"])
    for end, (median, mean) in found["pace"].items():
        print_row([f"{int(end):,}", f"{median:.1f}", f"{mean:.0f}"])
    print(
        f"\nAppending {found['total']:.1f} s, final join {found['join']:.1f} s; peak of the writer {done.peak:.0f} MB, "
        f"of the child that joins {done.child_peak:.0f} MB.\n"
    )


def measure_reading(files):
    print_head(
        [
            "file",
            "stored MB",
            "analyze, s",
            "peak MB",
            "its check, peak MB",
            "`regime validate`",
            "s",
            "CPU s",
            "limit of CPU s",
            "peak MB",
            "its check, peak MB",
        ]
    )
    for title, path in files.items():
        forget_checked()
        analyzed, validated = run_task("analyze", path), watch(REGIME, "validate", path)
        limit = SECONDS.value + path.stat().st_size / BYTES_PER_SECOND + inflated_bytes(path) / ROW_BYTES_PER_SECOND
        print_row(
            [
                title,
                f"{path.stat().st_size / MEGABYTE:,.1f}",
                f"{analyzed.found:.1f}",
                *[f"{peak:.0f}" for peak in (analyzed.peak, analyzed.child_peak)],
                "valid" if validated.succeeded else "**stopped**",
                *[f"{value:.3g}" for value in (validated.wall, validated.cpu, limit)],
                *[f"{peak:.0f}" for peak in (validated.peak, validated.child_peak)],
            ]
        )


def inflated_bytes(path):
    with h5py.File(path) as file:
        return sum(stored.nbytes for stored in file.values())


def measure_opening(files):
    print_head(["file", "checked in a child, ms", "the same check in process, ms", "trusted, ms"])
    for title, path in files.items():
        print_row([title, *[f"{1e3 * seconds:.4g}" for seconds in run_task("opening", path).found]])


def forget_checked():
    """Let no file count as checked before; the records of this run lie in a folder of its own."""
    for record in (Path(os.environ["XDG_CACHE_HOME"]) / "regime-proto" / "checked").glob("*"):
        record.unlink()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000, help="of the large files, whose every 10,000 are 1 GB")
    steps = parser.parse_args().steps
    print(describe_machine("h5py", "numpy", "xarray"), f"HDF5 {h5py.version.hdf5_version}.\n")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        measure_appending(folder)
        size = steps * sum(hdf5.row_bytes(LARGE, name) for name in layout.GROWING) / 1e9
        runs = {
            "100 observations": (SMALL, 100, 0.01),
            f"{size:.1f} GB, 0.01 % flip": (LARGE, steps, 1e-4),
            f"{size:.1f} GB, 1 % flip": (LARGE, steps, 1e-2),
        }
        files = {}
        for number, (title, run) in enumerate(runs.items()):
            files[title] = folder / f"{number}.h5"
            write_run(files[title], *run)
        measure_reading(files)
        print()
        measure_opening(files)


if __name__ == "__main__":
    main()
