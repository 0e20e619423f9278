"""How long short commands take, from the start of the process to its end."""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from models import CASES, describe_machine, print_head, print_row, write_run


def seconds(command):
    """Return how long a process takes."""
    begin = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=9, help="rounds, in which the commands take turns")
    options = parser.parse_args()
    regime = Path(sys.executable).with_name("regime")
    with tempfile.TemporaryDirectory() as folder:
        run, trajectory = Path(folder, "run"), Path(folder, "run.h5")
        write_run(run, CASES["lenet5"], 24)
        commands = {
            "regime --help": [regime, "--help"],
            "regime convert, 24 checkpoints of LeNet5": [regime, "convert", run, "-o", trajectory, "--overwrite"],
            "regime analyze, the trajectory of these": [regime, "analyze", trajectory],
            "regime report, of the same": [regime, "report", trajectory, "-o", Path(folder, "run.html"), "--overwrite"],
            "import onnx_ir, and no more": [sys.executable, "-c", "import onnx_ir"],
            "import xarray, and no more": [sys.executable, "-c", "import xarray"],
            "import torch, and no more": [sys.executable, "-c", "import torch"],
        }
        times = [[seconds(command) for command in commands.values()] for _ in range(options.repeat + 1)]
    print(describe_machine("torch", "onnxruntime", "xarray", "pandas"))
    print(f"Median, least and most of {options.repeat} rounds.\n")
    print_head(["command", "seconds", "least", "most"])
    # The first round writes caches.
    for name, found in zip(commands, np.array(times[1:]).T, strict=True):
        print_row([name, *(f"{value:.2f}" for value in (np.median(found), found.min(), found.max()))])


if __name__ == "__main__":
    main()
