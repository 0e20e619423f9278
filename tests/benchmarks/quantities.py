"""What quantities cost: `convert` with each, and with each group, as a multiple of a plain conversion.

All in one process, taking turns; the noise floor is not measured. Run it with nothing else running.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from convert_speed import ratio, spread
from models import CASES, describe_machine, print_head, print_row, write_run

import regime_proto
from regime_proto.quantities.installed import GROUPS, known_quantities

CHECKPOINTS = {"mlp": 60, "resnet18": 12}


def names():
    """Return what can be asked for: nothing, the groups, every quantity alone."""
    alone = [name for name, quantity in known_quantities().items() if not quantity.is_built_in]
    return ["", *GROUPS, *sorted(alone)]


def seconds(folder, output, measure):
    for path in folder.glob("*.pt"):
        path.read_bytes()
    begin = time.perf_counter()
    regime_proto.convert(folder, output, measure=measure or (), noise="none")
    taken = time.perf_counter() - begin
    output.unlink()
    return taken


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--models", nargs="*", choices=CHECKPOINTS, default=list(CHECKPOINTS), metavar="NAME")
    options = parser.parse_args()
    print(describe_machine("torch", "onnxruntime"))
    found = {}
    for name in options.models:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_run(folder / "run", CASES[name], CHECKPOINTS[name])
            seconds(folder / "run", folder / "run.h5", "")
            rounds = [
                [seconds(folder / "run", folder / "run.h5", measure) for measure in names()]
                for _ in range(options.repeat)
            ]
        found[name] = np.array(rounds)
    print(f"Median (least – most) of {options.repeat} rounds.\n")
    print_head(["measure", *(f"{CASES[name].title}, {CHECKPOINTS[name]} checkpoints" for name in options.models)])
    print_row(["nothing more", *(f"{spread(found[name][:, 0])} s" for name in options.models)])
    for number, measure in enumerate(names()[1:], start=1):
        print_row([f"`{measure}`", *(ratio(rounds[:, number] / rounds[:, 0]) for rounds in found.values())])


if __name__ == "__main__":
    main()
