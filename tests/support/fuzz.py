"""Reads spoiled copies of a trajectory, each in a process of its own, as the guard and then the analysis do.

``python fuzz.py FILE FOLDER truncate|mutate COUNT SEED`` prints as JSON how often what happened, the longest time of a
process and the largest memory beyond that of this one.
"""

import collections
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from apart import apart

import regime_proto
from regime_proto.analyzer.analyze import analyze
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.validation.check import limit, problems_of
from regime_proto.schema.validation.guard import MEMORY, SECONDS
from regime_proto.schema.validation.rules import errors


def truncated(content, count):
    for part in range(1, count):
        yield content[: len(content) * part // count]


def mutated(content, count, seed):
    """Some bytes changed, anywhere, or in what holds the structure."""
    random = np.random.default_rng(seed)
    source = np.frombuffer(content, np.uint8)
    for number in range(count):
        copy = source.copy()
        end = len(copy) if number % 2 else min(len(copy), 4096)
        at = random.integers(0, end, random.integers(1, 9))
        copy[at] = random.choice([0, 1, 0x7F, 0x80, 0xFF, *random.integers(0, 256, 8)], len(at))
        yield copy.tobytes()


def check(path):
    limit(MEMORY.value * 2**20, SECONDS.value)
    return "refused" if errors(problems_of(path, whole=False)) else "sound"


def use(path):
    """Analyze without a guard: whatever passed it may not harm the process of the user."""
    limit(MEMORY.value * 2**20, SECONDS.value)
    warnings.simplefilter("ignore")
    try:
        analyze(path, resamples=20)
    except RegimeError:
        return "sound, then a clear error"
    return "sound, analyzed"


def main(source, folder, kind, count, seed):
    content = Path(source).read_bytes()
    path = Path(folder) / "spoiled.h5"
    counts, longest, memory = collections.Counter(), 0.0, 0
    for spoiled in truncated(content, int(count)) if kind == "truncate" else mutated(content, int(count), int(seed)):
        path.write_bytes(spoiled)
        start = time.monotonic()
        checked = apart(lambda: check(path))
        outcome, memory = checked.said, max(memory, checked.memory)
        if outcome == "sound":
            # Taken for one's own, so that no guard stands between.
            regime_proto.schema.validation.trust.record(path)
            used = apart(lambda: use(path))
            outcome, memory = used.said or f"harm: {used.died}", max(memory, used.memory)
        elif outcome is None:
            outcome = f"guarded: {checked.died}"
        longest = max(longest, time.monotonic() - start)
        counts[outcome] += 1
        if outcome.startswith("harm") and len(sys.argv) > 6:
            path.rename(path.with_name(f"harm{sum(counts.values())}.h5"))
    sys.stdout.write(json.dumps({"counts": counts, "longest": longest, "memory": memory}))


if __name__ == "__main__":
    main(*sys.argv[1:6])
