"""Reads hostile and broken checkpoints of every kind, each in a process of its own with little memory and time.

``python hostile_checkpoints.py FOLDER [EVERY [SEED [NAMED [WITHOUT …]]]]`` reads every EVERY-th of those whose name a
regular expression finds, without some kinds, and prints as JSON what happened: harm is a
crash, a wait, a hunger for memory, an error that nobody foresaw, or code of a file that was run.
"""

import collections
import contextlib
import functools
import importlib
import json
import os
import re
import resource
import shutil
import sys
import warnings
from pathlib import Path

import hostile_kinds
import numpy as np
from apart import apart
from hostile_made import MADE

import regime_proto
from regime_proto.plugins import registry
from regime_proto.plugins.open_directory import AdapterError, open_directory
from regime_proto.program.probe import load_probe
from regime_proto.schema.errors import RegimeError

MEMORY_BYTES = 2**30
# Of all ways of reading a run together; each of them may take 10.
SECONDS = 60
WAITING_SECONDS = 200
MUTATED = 28
WITHOUT_THREADS = ("torch", "torch-objects", "safetensors", "npz", "keras", "flax", "dcp", "sharded")
MARK = "pwned"


def mutated(content, random):
    """Return a content with a few changes of one kind, here and there or in its first or last bytes."""
    spoiled = bytearray(content)
    where = random.integers(3)
    low, high = [(0, len(content)), (0, min(512, len(content))), (max(0, len(content) - 512), len(content))][where]
    how = random.integers(6)
    for _ in range(random.integers(1, 5)):
        at = int(random.integers(low, high))
        some = int(random.integers(1, 64))
        if how == 0:
            spoiled[at] = random.choice([0, 1, 0x7F, 0x80, 0xFF])
        elif how == 1:
            spoiled[at : at + 4] = bytes(random.choice([0, 0x7F, 0xFF], 4).astype(np.uint8))
        elif how == 2:
            del spoiled[at : at + some]
        elif how == 3:
            spoiled[at:at] = spoiled[at : at + some] * int(random.integers(1, 20))
        elif how == 4:
            spoiled[at : at + some] = bytes(some)
        elif len(spoiled) > 1:
            del spoiled[int(random.integers(1, len(spoiled))) :]
    return bytes(spoiled)


def mutations(base, kind, seed):
    """Yield cases: a run of one kind, one file of which is changed."""
    for number in range(MUTATED):

        def write(folder, number=number):
            shutil.copytree(base / kind, folder, dirs_exist_ok=True)
            random = np.random.default_rng([seed, number, *kind.encode()])
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            file = files[random.integers(len(files))]
            file.write_bytes(mutated(file.read_bytes(), random))

        yield f"{kind}-changed-{number}", write


def cases(base, seed=0, without=()):
    """Return all cases: a name, and a function that writes the run into an empty folder."""
    # In a process of its own: the libraries that write start threads, and what forks must have none.
    made_so = apart(lambda: hostile_kinds.main(base, *without), waiting=600)
    assert not made_so.died, made_so.died
    kinds = sorted(path.name for path in base.iterdir())
    made = [
        (name, lambda folder, write=write: write(folder, base))
        for name, write, needs in MADE
        if needs in (None, *kinds)
    ]
    return [*made, *(case for kind in kinds for case in mutations(base, kind, seed))]


def read(root):
    """Read a run by every way that leads to its files; return what was said."""
    said, longest = collections.Counter(), 0.0

    def attempt(function, *arguments):
        nonlocal longest
        before = sum(os.times()[:4])
        outcome_of(function, *arguments)
        longest = max(longest, sum(os.times()[:4]) - before)

    def outcome_of(function, *arguments):
        try:
            function(*arguments)
            said["read"] += 1
        except AdapterError as error:
            raise AssertionError(f"nobody foresaw it: {error}") from error
        except RegimeError as error:
            if "\n" in str(error):
                raise AssertionError(f"more than a line: {str(error)!a}") from error
            said["refused"] += 1
        except OSError:
            said["refused by the system"] += 1

    attempt(open_directory, root)
    attempt(regime_proto.check, root)
    attempt(regime_proto.make_plan if hasattr(regime_proto, "make_plan") else open_directory, root)
    for name, reader in registry.readers().items():
        paths = (
            [path for path in sorted(root.iterdir()) if path.suffix in reader.SUFFIXES]
            if reader.SUFFIXES
            else [path for path in sorted(root.iterdir()) if path.is_dir()]
        )
        for path in paths[:2]:
            for function in (reader.recognise, reader.peek, reader.read):
                attempt(guarded(function, name), path)
    attempt(registry.advice_on, [root, *sorted(root.iterdir())])
    for path in sorted(root.iterdir()):
        if path.suffix in (".npz", ".npy", ".safetensors"):
            attempt(load_probe, path)
        if path.suffix in (".onnx", ".pt2") and path.is_file():
            attempt(export, path)
        if (path / "config.json").exists():
            attempt(registry.adapters()["huggingface"].program_of, path, PROBE)
    return said, longest


PROBE = regime_proto.program.probe.as_probe(np.ones((2, 3), np.float32)) if hasattr(regime_proto, "probe") else None


def export(path):
    registry.exporter_for(path).export(path, PROBE)


def guarded(function, name):
    from regime_proto.plugins.open_directory import _guarded

    return _guarded(function, name)


def limited(root):
    """Read a run in this process, which says nothing and has limits."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    os.chdir(root.parent)
    warnings.simplefilter("ignore")
    size = int(re.search(r"VmSize:\s*(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, size + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    return read(root)


def warm_up(base):
    """Import what the readers import, once for all children."""
    needed = {"orbax": "tensorstore", "huggingface": "transformers"}
    readers = [name for kind, name in needed.items() if (base / kind).exists()]
    for name in ("torch", "onnxruntime", "msgpack", "safetensors", *readers):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name in ("torch_pickle", "torch_export", "huggingface_model", "exported_program"):
        with contextlib.suppress(ImportError):
            importlib.import_module(f"regime_proto.adapters.{name}")
    for kind in WITHOUT_THREADS:
        with contextlib.suppress(Exception):
            read(base / kind)


def main(folder, every="1", seed="0", only="", *without):
    folder = Path(folder)
    chosen = [case for case in cases(folder / "base", int(seed), without) if re.search(only, case[0])][:: int(every)]
    warm_up(folder / "base")
    harm, counts, longest, largest = {}, collections.Counter(), (0.0, ""), (0, "")
    for name, write in chosen:
        root = folder / "case" / "run"
        root.mkdir(parents=True)
        write(root)
        took = apart(functools.partial(limited, root), waiting=WAITING_SECONDS)
        if os.environ.get("HOSTILE_SHOW"):
            sys.stderr.write(
                f"{name:60} {took.seconds:6.2f} s {took.memory >> 20:6} MiB {took.said or took.died[-300:]!r}\n"
            )
        said, seconds = took.said or ((), took.seconds)
        longest, largest = max(longest, (seconds, name)), max(largest, (took.memory, name))
        if any(folder.rglob(MARK)) or Path(MARK).exists():
            harm[name] = "code was run"
        elif took.died:
            harm[name] = took.died
        counts["harm" if name in harm else "+".join(sorted(said))] += 1
        shutil.rmtree(folder / "case", ignore_errors=True)
    sys.stdout.write(
        json.dumps({"cases": len(chosen), "counts": counts, "harm": harm, "longest": longest, "largest": largest})
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
