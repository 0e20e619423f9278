"""Runs what may crash, wait for ever or take all memory in a forked process."""

import json
import os
import resource
import signal
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Took:
    """How a process ended, and what it took.

    Parameters
    ----------
    said : object
        What its function returned; None if it did not come so far.
    died : str
        Else why: the signal, or a traceback.
    seconds : float
        Of the processor.
    memory : int
        Bytes, beyond what it was forked with.
    """

    said: Any
    died: str
    seconds: float
    memory: int


def apart(work, *, waiting=120):
    """Run a function in a forked process, which sets its own limits, for at most so many seconds."""
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            signal.alarm(waiting)
            os.write(writing, _outcome(work))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    _, status, used = os.wait4(child, 0)
    said, died = (None, f"signal {status & 0x7F}") if status or not content else json.loads(content)
    return Took(said, died, used.ru_utime + used.ru_stime, max(used.ru_maxrss * 1024 - before, 0))


def _outcome(work):
    try:
        return json.dumps([work(), ""]).encode()
    except MemoryError:
        return b'[null, "memory"]'
    except BaseException:
        return json.dumps([None, traceback.format_exc()[-3000:]]).encode()
