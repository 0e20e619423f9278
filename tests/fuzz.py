"""Reads spoiled copies of a trajectory, each in a process of its own, as the guard and then the analysis do.

``python fuzz.py FILE FOLDER truncate|mutate COUNT SEED`` prints as JSON how often what happened, the longest time of a
process and the largest memory beyond that of this one.
"""

import collections
import json
import os
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.validation.check import limit, problems_of
from regime_proto.schema.validation.guard import MEMORY, SECONDS
from regime_proto.schema.validation.rules import errors

import regime_proto
from regime_proto.analyzer.analyze import analyze


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


def apart(work):
    """Run `work` in a forked process; return what it said, or how it died."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            os.write(writing, work().encode())
        except MemoryError:
            os.write(writing, b"memory")
        except BaseException:
            os.write(writing, traceback.format_exc().encode()[-3000:])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return said if status == 0 else f"signal {status & 0x7F}"


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
    counts, longest = collections.Counter(), 0.0
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for spoiled in truncated(content, int(count)) if kind == "truncate" else mutated(content, int(count), int(seed)):
        path.write_bytes(spoiled)
        start = time.monotonic()
        outcome = apart(lambda: check(path))
        if outcome == "sound":
            # Taken for one's own, so that no guard stands between.
            regime_proto.schema.validation.trust.record(path)
            outcome = apart(lambda: use(path))
            if outcome not in ("sound, analyzed", "sound, then a clear error"):
                outcome = f"harm: {outcome}"
        elif outcome != "refused":
            outcome = f"guarded: {outcome}"
        longest = max(longest, time.monotonic() - start)
        counts[outcome] += 1
        if outcome.startswith("harm") and len(sys.argv) > 6:
            path.rename(path.with_name(f"harm{sum(counts.values())}.h5"))
    memory = (resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss - own) * 1024
    sys.stdout.write(json.dumps({"counts": counts, "longest": longest, "memory": memory}))


if __name__ == "__main__":
    main(*sys.argv[1:6])
