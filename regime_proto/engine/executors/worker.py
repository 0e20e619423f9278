"""A process that runs tasks for a parent process: ``python -m regime_proto.engine.executors.worker DESCRIPTOR``.

The parent sends the import path, then the data shared by all tasks, then one task after another. When the connection
closes, even because the parent died, the current task is interrupted as by Ctrl-C, so that it saves its results.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue
from types import FrameType
from typing import Any

READY = "ready"

_Call = tuple[Callable[..., object], tuple[Any, ...]]


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    # Only once: saving the results must not be interrupted.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _receive(connection: Connection, waiting: "SimpleQueue[_Call]", main: int) -> None:
    """Queue incoming calls; when the connection closes, interrupt the current call."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            waiting.put(connection.recv())
    # A signal also wakes a thread that is waiting for other threads.
    signal.pthread_kill(main, signal.SIGTERM)


def main(descriptor: str) -> None:
    """Run calls until the connection closes."""
    # Ctrl-C reaches all processes of a terminal; the one started by the user decides what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupted)
    connection = Connection(int(descriptor))
    # The parent's import path, needed to find the functions it sends.
    sys.path[:] = connection.recv()
    shared = connection.recv()
    connection.send(READY)
    waiting: SimpleQueue[_Call] = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, waiting, threading.get_ident()), daemon=True).start()
    while True:
        call, arguments = waiting.get()
        connection.send(call(shared, *arguments))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        sys.exit(130)
