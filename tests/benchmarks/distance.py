"""What ``--distance`` costs: time of whole conversions with and without it, in turns."""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from models import CASES, add_models_option, describe_machine, print_head, print_row, write_run

from regime_proto.conversion.run import run_plan
from regime_proto.quantities.installed import choose


def seconds(plan, output):
    begin = time.perf_counter()
    run_plan(plan, output)
    found = time.perf_counter() - begin
    output.unlink()
    return found


def row(case, rounds):
    with tempfile.TemporaryDirectory() as scratch:
        plan = write_run(Path(scratch) / "checkpoints", case, case.checkpoints)
        plans = [plan, replace(plan, quantities=choose(["weight_distance_l2"]))]
        for each in plans:
            seconds(each, Path(scratch) / "run.h5")
        times = np.array([[seconds(each, Path(scratch) / "run.h5") for each in plans] for _ in range(rounds)])
    without, distance = 1e3 * np.median(times, axis=0) / case.checkpoints
    ratios = times[:, 1] / times[:, 0]
    print_row(
        [
            case.title,
            f"{without:.3g}",
            f"{distance:.3g}",
            f"{np.median(ratios):.2f}",
            f"{ratios.min():.2f} – {ratios.max():.2f}",
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="rounds; medians over them are printed")
    add_models_option(parser)
    options = parser.parse_args()
    print(describe_machine("torch", "onnxruntime"))
    print("\nMilliseconds per checkpoint of whole calls; the ratio is that of one round.\n")
    print_head(["model", "convert", "with --distance", "ratio", "least and most of a round"])
    for name in options.models:
        row(CASES[name], options.repeat)


if __name__ == "__main__":
    main()
