"""Measures `regime report` on long runs: seconds, memory, and the size of the page; and how long a browser takes."""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import regime_proto

RUNS = {1_000: {"layers": 8, "samples": 26, "units": 512}, 100_000: {"layers": 4, "samples": 8, "units": 128}}
# The peak is that of /proc: what getrusage says may be the parent's, from before the program was replaced.
PAGE = """
import re, sys, time
from pathlib import Path
from regime_proto.report.page import report
start = time.perf_counter()
page = report([sys.argv[1]], resamples=int(sys.argv[3]))
taken = time.perf_counter() - start
print(taken, int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
Path(sys.argv[2]).write_text(page, encoding="utf-8")
"""


def make(path, steps, **options):
    """Write a run; long ones in parts, since a synthetic one is made in memory."""
    time_ = np.linspace(0, 1, steps)
    regime_proto.synthetic.trajectory(
        weights=np.exp(-time_ / 0.3), patterns=np.exp(-time_ / 0.1), steps=steps, noise=0.2,
        observations_per_epoch=steps / 20, path=path, **options,
    )  # fmt: skip


def opening(page):
    """Return the seconds that a browser takes to draw all figures of a page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        start = time.perf_counter()
        tab = browser.new_page()
        tab.goto(page.as_uri())
        while tab.evaluate("document.documentElement.dataset.drawn") is None:
            tab.wait_for_timeout(10)
        taken = time.perf_counter() - start
        browser.close()
    return taken


def main():
    """Print a table."""
    columns = "observations", "layers × units × samples", "file, MB", "resamples", "seconds", "peak memory, MB"
    print(f"| {' | '.join([*columns, 'page, MB', 'browser, s'])} |")
    print("|---" * 8 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for steps, options in RUNS.items():
            run, page = Path(folder) / f"{steps}.h5", Path(folder) / f"{steps}.html"
            make(run, steps, **options)
            for resamples in (200, 0):
                said = subprocess.run(
                    [sys.executable, "-c", PAGE, run, page, str(resamples)], capture_output=True, text=True, check=True
                ).stdout.split()
                shape = f"{options['layers']} × {options['units']} × {options['samples']}"
                print(
                    f"| {steps:,} | {shape} | {run.stat().st_size / 1e6:.1f} | {resamples} | {float(said[0]):.2f} | "
                    f"{float(said[1]):.0f} | {page.stat().st_size / 1e6:.2f} | {opening(page):.2f} |"
                )


if __name__ == "__main__":
    main()
