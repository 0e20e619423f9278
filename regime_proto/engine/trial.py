"""Runs an untrusted program in a separate process first.

A graph of a few kilobytes can loop for years or request terabytes. A graph that this machine has
neither exported nor run before is therefore run once in a child process with limits on time and
memory, by ``python -m regime_proto.engine.trial``. A graph that passes is remembered by its hash.
The weights in this run are random; its behaviour with other weights remains unknown.
"""

import hashlib
import importlib
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from regime_proto.checkpoints.opening import read_whole
from regime_proto.engine.part_graphs import PartGraph, ShapedLane
from regime_proto.engine.session import BRIEFLY, MaskSession
from regime_proto.program.gates import Gate, find_gates
from regime_proto.program.partition import Cutting
from regime_proto.program.probe import Probe, ProbeError
from regime_proto.program.probe_advice import declared, described
from regime_proto.program.program import Program, ProgramError
from regime_proto.runtime.device import find_device
from regime_proto.runtime.memory import available_bytes
from regime_proto.schema import records
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.limits import Limit
from regime_proto.schema.types import Array
from regime_proto.schema.validation.check import limit
from regime_proto.schema.validation.guard import run_child

SECONDS = Limit("PROGRAM_SECONDS", 10, "seconds of processor time, and more for large weights and probes")
MEBIBYTES = Limit(
    "PROGRAM_MIB", 768, "MiB of memory in addition to the libraries, and more for large weights and probes"
)

# Allowance per byte of weights or probe: large models take long, and convolutions need many times
# the size of their input.
_SECONDS_PER_BYTE, _SECONDS_PER_PROBE_BYTE = 1 / 4e6, 1 / 4e5
_BYTES_PER_BYTE, _BYTES_PER_PROBE_BYTE = 6, 200

TRUST = "REGIME_TRUST_PROGRAMS"
"""The environment variable that, if set to 1, trusts every program."""

_MODULE = "regime_proto.engine.trial"
# The function that loads a program from a file written by `regime program`.
PROGRAM_FILES = f"{_MODULE}:load"
_FAILED = 3
# Bytes of weights above which they are drawn part by part.
_LARGEST_WHOLE = 2**31
_KIND = "programs"
MAX_RECORDS = 4096
# A file system may be slow; the limit on processor time does not include waiting.
_WAITING = 20


def require_runnable(path: Path, probe: Probe, make: str, *, weights: int = 0) -> None:
    """Run the graph in a file once in a child process, unless it is known or the user trusts all programs (`TRUST`).

    Parameters
    ----------
    path : Path
        An untrusted graph.
    probe : Probe
    make : str
        ``"module:function"``, which creates a `Program` from path and probe in the child process.
    weights : int
        Bytes of a checkpoint, if the file itself holds no weights.

    Raises
    ------
    ProgramError
        The child process exceeded a limit, or crashed.
    """
    if os.environ.get(TRUST) == "1":
        return
    try:
        content = read_whole(path)
    except OSError:
        # The next reader of the file reports this.
        return
    record = _record(content, probe)
    if _is_known(record):
        return
    seconds, memory = _limits(len(content) + weights, sum(array.nbytes for array in probe.arrays))
    with tempfile.TemporaryDirectory(prefix="regime-") as folder:
        held = Path(folder, "probe.npz")
        held.write_bytes(_probe_content(probe))
        done = _run([str(path), str(held), make, str(memory), str(seconds)], seconds)
    _require_done(done, path, seconds, memory)
    said = json.loads(done.stdout)
    if "error" in said:
        kind, text = said["error"]
        raise {"ProbeError": ProbeError, "ProgramError": ProgramError}.get(kind, RegimeError)(text)
    if said["was_run"]:
        _remember(record)


def remember(content: bytes, probe: Probe) -> None:
    """Remember that the content of a program file was created here, for such a probe."""
    _remember(_record(content, probe))


def _limits(stored: int, probe: int) -> tuple[float, int]:
    seconds = SECONDS.value + stored * _SECONDS_PER_BYTE + probe * _SECONDS_PER_PROBE_BYTE
    memory = MEBIBYTES.value * 2**20 + stored * _BYTES_PER_BYTE + probe * _BYTES_PER_PROBE_BYTE
    return seconds, min(memory, int(0.9 * available_bytes()))


def _run(arguments: list[str], seconds: float) -> "subprocess.CompletedProcess[str]":
    return run_child([sys.executable, "-P", "-m", _MODULE, *arguments], waiting=_WAITING * (seconds + 10))


def _require_done(done: "subprocess.CompletedProcess[str]", path: Path, seconds: float, memory: int) -> None:
    if done.returncode == 0:
        return
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        reason = f"one run needs more than {seconds:.0f} s of processor time; {SECONDS.advice()}"
    elif done.returncode == _FAILED:
        reason = f"one run needs more than {memory / 2**20:.0f} MiB of memory; {MEBIBYTES.advice()}"
    elif done.returncode < 0:
        reason = f"it crashes ONNX Runtime (signal {-done.returncode}); do not use it"
    else:
        said = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        reason = f"it cannot be run ({said[0][:200]}); export it again"
    raise ProgramError(f"{path}: refused: {reason}")


def _record(content: bytes, probe: Probe) -> str:
    """Return a key for the content, the form of a probe, and the runtime."""
    form = [[array.dtype.str, array.shape] for array in probe.arrays]
    said = json.dumps([onnxruntime.__version__, probe.names, form, hashlib.sha256(content).hexdigest()])
    return hashlib.sha256(said.encode()).hexdigest()


def _is_known(record: str) -> bool:
    return records.read(_KIND, record) is not None


def _remember(record: str) -> None:
    with suppress(OSError, RuntimeError):
        records.write(_KIND, record, "", most=MAX_RECORDS)


def _probe_content(probe: Probe) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, np.array(json.dumps([probe.where, probe.names])), *probe.arrays, allow_pickle=False)
    return buffer.getvalue()


def _held_probe(path: Path) -> Probe:
    with np.load(path, allow_pickle=False) as held:
        said, *arrays = (held[f"arr_{number}"] for number in range(len(held.files)))
    where, names = json.loads(str(said))
    return Probe(tuple(arrays), None if names is None else tuple(names), where)


def load(path: Path, probe: Probe) -> Program:  # noqa: ARG001
    """Read a program file; a `make` function for `require_runnable`."""
    return Program.load(path)


def require_taken(program: Program, bound: Mapping[str, Array], where: str) -> None:
    """Raise a `ProbeError` unless a bound probe fits the declared inputs of a program."""
    for name, expected in program.inputs.items():
        if name not in bound:
            raise ProbeError(f"{where}: no array for input {name!r}; expected {expected}")
        found = bound[name]
        if name in program.fixed and found.ndim == 0 and found.item() != program.fixed[name]:
            raise ProbeError(
                f"{where}: {name} is {found.item()}, but the program was created for "
                f"{program.fixed[name]:g}; for a different value, export the program again with "
                "--model and --probe"
            )
        if found.shape != expected.shape or found.dtype.name != expected.dtype:
            advice = declared(name, found, expected.dtype, expected.shape)
            raise ProbeError(
                f"{where}: {name} is {described(found)}, but the program expects {expected}; "
                f"{f'{advice}; ' if advice else ''}for a different probe, export the program "
                "again with --model and --probe"
            )


def run_once(program: Program, probe: Probe) -> None:
    """Run a program from random weights to the masks of its gates.

    Raises
    ------
    RegimeError
        The program fails on the probe.
    """
    arrays = probe.bind(program.probe_inputs)
    require_taken(program, arrays, probe.where)
    device = find_device("cpu")
    gates = [gate for gate in find_gates(program) if gate.trackable]
    if not gates:
        return
    if 4 * sum(math.prod(entry.shape) for entry in program.weight_inputs.values()) > _LARGEST_WHOLE:
        _run_in_parts(program, gates, arrays)
        return
    weights = _drawn_weights(program, program.weight_inputs)
    dtypes = {name: array.dtype for name, array in weights.items()}
    session = MaskSession(program, gates, arrays, device, dtypes=dtypes, running=BRIEFLY)
    session.run({name: device.place(array) for name, array in weights.items()})


def _run_in_parts(program: Program, gates: Sequence[Gate], probe: Mapping[str, Array]) -> None:
    """Run a program with only some weights in memory at a time."""
    device = find_device("cpu")
    graph = PartGraph(program, gates, device, dtypes={}, cutting=Cutting(_LARGEST_WHOLE // 2))
    lane = ShapedLane(graph, graph.begin(probe))
    for index in range(len(graph)):
        weights = _drawn_weights(program, graph.weights(index))
        lane.run(index, graph.session(index), {name: device.place(array) for name, array in weights.items()})
        lane.planes.clear()


def _drawn_weights(program: Program, names: Iterable[str]) -> dict[str, Array]:
    entries = {name: program.weight_inputs[name] for name in names}
    return {name: _drawn(entry.shape, np.dtype(entry.dtype)) for name, entry in entries.items()}


def _drawn(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    drawn = np.random.default_rng(0).standard_normal(shape, np.float32)
    # Small, so that deep networks do not overflow.
    return (0.05 * drawn).astype(dtype)


def main(path: str, probe: str, make: str, memory: str, seconds: str) -> int:
    """Create a program and run it; print whether it was run, or a RegimeError."""
    module, _, name = make.partition(":")
    function: Callable[[Path, Probe], Program] = getattr(importlib.import_module(module), name)
    held = _held_probe(Path(probe))
    limit(int(memory), float(seconds))
    try:
        program = function(Path(path), held)
        # Weights larger than any available checkpoint are refused when one is read.
        is_credible = sum(4 * math.prod(entry.shape) for entry in program.weight_inputs.values()) <= int(memory) // 3
        if is_credible:
            run_once(program, held)
    except MemoryError:
        return _FAILED
    except RegimeError as error:
        return _FAILED if _is_memory(error) else _say(error=[type(error).__name__, str(error)])
    except Exception as error:
        if _is_memory(error):
            return _FAILED
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}")
        return 1
    return _say(was_run=is_credible)


def _say(**said: object) -> int:
    sys.stdout.write(json.dumps(said))
    return 0


def _is_memory(error: Exception) -> bool:
    """Whether the text of an error means that memory ran out."""
    return re.search("bad.alloc|fail(ed|ure) to al|out of memory|allocate", str(error).lower()) is not None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
