"""A process that carries out tasks for another one: ``python -m regime_proto.engine.executors.worker DESCRIPTOR``.

The other end of the connection sends the import path, then what all tasks share, then one task after the other. When
it is closed, be it that the other process has died, the task under way is interrupted as by Ctrl-C, so that it keeps
what it has done.
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
    # Once: what is kept then is not to be interrupted in its turn.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _receive(connection: Connection, waiting: "SimpleQueue[_Call]", main: int) -> None:
    """Pass calls on; when the other end is closed, interrupt the one that is under way."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            waiting.put(connection.recv())
    # A signal also wakes a thread that waits for others.
    signal.pthread_kill(main, signal.SIGTERM)


def main(descriptor: str) -> None:
    """Carry out calls until the connection is closed."""
    # Ctrl-C reaches all processes of a terminal; the one that was started by the user decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupted)
    connection = Connection(int(descriptor))
    # The caller's, by which what it sends is found.
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
