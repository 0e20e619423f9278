"""A conversion, a process of its own; prints, as JSON, when each observation was written (`time.perf_counter`).

The noise floor is not measured: that is no part of a steady state. Whole calls are timed with it.
"""

import argparse
import json
import time
from pathlib import Path

from regime_proto.conversion.plan import make_plan
from regime_proto.conversion.run import run_plan
from regime_proto.conversion.settings import ConversionSettings


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    settings, times = ConversionSettings(noise="none"), []
    plan = make_plan(options.folder, settings)
    run_plan(plan, options.output, settings, progress=lambda _done, _total: times.append(time.perf_counter()))
    print(json.dumps(times))


if __name__ == "__main__":
    main()
