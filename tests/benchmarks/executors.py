"""Two processes against one with two threads: shards, and the workers of a Dask cluster; and what its client costs.

Run it with nothing else running. All processes are on one machine, so the network is not in these numbers.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import distributed
import numpy as np
from convert_speed import ratio, spread
from models import CASES, describe_machine, print_head, print_row, write_run

from regime_proto.conversion.run import convert
from regime_proto.engine.executors.dask import Cluster, Task, connected
from regime_proto.schema.finish import finish
from regime_proto.schema.reader import open_checked
from regime_proto.schema.segments import Segments

PROCESSES = 2
# As many checkpoints as make four segments at least.
CHECKPOINTS = {"mlp": 512, "lenet5": 640, "resnet18": 72, "vit_s": 36}
# The sizes of images of segments, in bytes: from those of small networks to the largest there are.
IMAGES = (1_000, 100_000, 1_000_000, 10_000_000, 30_000_000)
EMPTY_TASKS = 2000


def timed(call, *arguments, **options):
    begin = time.perf_counter()
    call(*arguments, **options)
    return time.perf_counter() - begin


def warm(folder):
    """Bring the files into the page cache."""
    for path in folder.glob("*.pt"):
        path.read_bytes()


def command(*arguments):
    return [str(Path(sys.executable).with_name("regime")), *map(str, arguments), "--quiet"]


def whole(folder, output):
    subprocess.run(command("convert", folder, "-o", output, "--workers", PROCESSES), check=True)


def in_shards(folder, output):
    """Measure each part by a process with one thread, and join them."""
    numbers = range(1, PROCESSES + 1)
    parts = [
        subprocess.Popen(command("convert", folder, "-o", output, "--workers", 1, "--shard", f"{number}/{PROCESSES}"))
        for number in numbers
    ]
    codes = [part.wait() for part in parts]
    if any(codes):
        sys.exit("a part failed")
    subprocess.run(command("merge", f"{output}.segments"), check=True)


def efficiency(name, rounds, client):
    """Print how two processes do against one with two threads."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        write_run(scratch / "run", CASES[name], CHECKPOINTS[name])
        ways = {
            "threads": lambda: timed(convert, scratch / "run", scratch / "threads.h5", workers=PROCESSES),
            "workers": lambda: timed(convert, scratch / "run", scratch / "workers.h5", client=client),
            "command": lambda: timed(whole, scratch / "run", scratch / "command.h5"),
            "shards": lambda: timed(in_shards, scratch / "run", scratch / "shards.h5"),
        }
        found = {way: [] for way in ways}
        for number in range(rounds + 1):
            for way, call in ways.items():
                warm(scratch / "run")
                seconds = call()
                (scratch / f"{way}.h5").unlink()
                # What is written once is written in the first round.
                if number:
                    found[way].append(seconds)
    threads, workers, one, shards = (np.array(found[way]) for way in ways)
    counts = [CASES[name].title, str(CHECKPOINTS[name])]
    print_row(
        [
            *counts,
            *map(spread, (threads, workers)),
            ratio(threads / workers),
            *map(spread, (one, shards)),
            ratio(one / shards),
        ]
    )


def nothing(_shared):
    """Do nothing, on a worker."""


def image(_shared, size):
    """Return what a segment is for those who send it: bytes."""
    return np.random.default_rng(size).bytes(size)


def scheduling(client):
    """Print what a task costs that does nothing."""
    tasks = [Task(nothing, (), "nothing") for _ in range(EMPTY_TASKS)]
    seconds = timed(list, Cluster(client).carry_out(tasks, None))
    print(f"A task that does nothing: {1e3 * seconds / EMPTY_TASKS:.2f} ms ({EMPTY_TASKS} tasks in {seconds:.2f} s).\n")


def writing(client):
    """Print what an image of a segment costs the client: to be brought, and written."""
    print_head(["image", "images", "brought, ms each", "brought and written, ms each"])
    for size in IMAGES:
        count = max(8, min(200, 400_000_000 // size))
        tasks = [Task(image, (size,), "image") for _ in range(count)]

        def bring(tasks=tasks):
            for _ in Cluster(client).carry_out(tasks, None):
                pass

        def bring_and_write(tasks=tasks):
            with tempfile.TemporaryDirectory() as folder, Segments(Path(folder) / "run.h5") as segments:
                for number, content in Cluster(client).carry_out(tasks, None):
                    segments.put(number, content, rows=1)

        times = [1e3 * timed(call) / count for call in (bring, bring_and_write)]
        print_row([f"{size / 1e6:g} MB", str(count), *(f"{each:.1f}" for each in times)])


def joining(name):
    """Print how long it takes to join segments."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run.h5"
        write_run(Path(folder) / "run", CASES[name], CHECKPOINTS[name])
        convert(Path(folder) / "run", output, shard="1/1")
        segments = len(list(Path(f"{output}.segments").glob("0*.h5")))
        seconds = timed(finish, output)
        with open_checked(output) as file:
            observations = len(file["step"])
        size = output.stat().st_size
    print(
        f"{CASES[name].title}: {segments} segments of {observations} observations, {size / 1e6:.1f} MB, "
        f"are joined in {seconds:.2f} s, {1e3 * seconds / observations:.2f} ms an observation."
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="rounds")
    parser.add_argument("--models", nargs="*", choices=CHECKPOINTS, default=list(CHECKPOINTS), metavar="NAME")
    options = parser.parse_args()
    print(describe_machine("torch", "onnxruntime", "distributed"))
    print(f"Median (least – most) of {options.repeat} rounds, in seconds; `.pt` files in the page cache.\n")
    with connected(f"local:{PROCESSES}"):
        client = distributed.Client.current()
        print_head([
            "model", "checkpoints", "`convert`, two threads", "two Dask workers", "threads / workers",
            "`regime convert`", "two shards, `regime merge`", "one / shards",
        ])  # fmt: skip
        for name in options.models:
            efficiency(name, options.repeat, client)
        print()
        scheduling(client)
        writing(client)
    print()
    joining("vit_s")
    print(f"{os.getloadavg()[0]:.1f} processes were busy at the end.")


if __name__ == "__main__":
    main()
