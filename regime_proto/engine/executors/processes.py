"""Tasks for processes of this machine: each carries out one at a time, and is replaced when it dies."""

import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import IO, Any

from regime_proto.engine.executors.tasks import MOST_REPEATS, Result, Results, Task
from regime_proto.engine.executors.worker import READY
from regime_proto.schema.errors import RegimeError

_MODULE = "regime_proto.engine.executors.worker"
# Seconds that a process has to keep what it has done.
_ENDING = 60


class Processes:
    """Processes of this machine.

    Parameters
    ----------
    count : int
        How many at once.
    threads : int
        Of the linear algebra of each.
    """

    def __init__(self, count: int, *, threads: int = 1) -> None:
        self._count = count
        self._threads = threads

    def results(self, tasks: Sequence[Task[Result]], shared: object) -> Results[Result]:
        """Yield the number and the result of each task as they finish; see `Executor`.

        What is under way when the caller leaves is interrupted, and keeps what it has done.

        Raises
        ------
        RegimeError
            A process cannot be started.
        """
        pool = _Pool(tasks, shared, self._threads)
        try:
            pool.start(min(self._count, len(tasks)))
            while pool.busy:
                yield from pool.finished()
        finally:
            pool.close()


class _Pool:
    """The processes, and which task each is at."""

    def __init__(self, tasks: Sequence[Task[Any]], shared: object, threads: int) -> None:
        self._tasks = tasks
        self._shared = shared
        self._threads = threads
        self._workers: list[_Worker] = []
        self._waiting = deque(range(len(tasks)))
        self._died: Counter[int] = Counter()
        self.busy: dict[Connection, tuple[_Worker, int]] = {}

    def start(self, count: int) -> None:
        """Start so many processes, and give each a task."""
        self._workers += [_Worker.start(self._threads) for _ in range(count)]
        for worker in self._workers:
            worker.prepare(self._shared)
            self._give(worker)

    def finished(self) -> Iterator[tuple[int, Any]]:
        """Wait until something has happened, and yield what has finished; whoever is free is at the next task then."""
        for connection in wait(list(self.busy)):
            worker, number = self.busy.pop(connection)  # type: ignore[call-overload]
            try:
                result = worker.connection.recv()
            except (EOFError, OSError):
                result = self._replace(worker, number)
            else:
                self._give(worker)
            if result is not None:
                yield number, result

    def _replace(self, worker: "_Worker", number: int) -> RegimeError | None:
        """Start a process in place of one that died; return an error if its task is given up."""
        self._workers.remove(worker)
        how = worker.end()
        self._died[number] += 1
        is_given_up = self._died[number] > MOST_REPEATS
        if not is_given_up:
            # After all others: it may have died of one beside it.
            self._waiting.append(number)
        if self._waiting:
            new = _Worker.start(self._threads)
            self._workers.append(new)
            new.prepare(self._shared)
            self._give(new)
        label, times = self._tasks[number].label, self._died[number]
        return RegimeError(f"{label}: given up: {times} times its process {how}") if is_given_up else None

    def _give(self, worker: "_Worker") -> None:
        """Give a process the next task, if there is one; that it has died is noticed when its answer is waited for."""
        if not self._waiting:
            return
        number = self._waiting.popleft()
        self.busy[worker.connection] = worker, number
        with suppress(OSError):
            worker.connection.send((self._tasks[number].call, self._tasks[number].arguments))

    def close(self) -> None:
        """Let all processes end; those that are at a task are interrupted."""
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.end()


@dataclass(frozen=True)
class _Worker:
    """A process that carries out tasks.

    Parameters
    ----------
    process : subprocess.Popen
    connection : Connection
    errors : file
        What it writes to its standard error.
    """

    process: "subprocess.Popen[bytes]"
    connection: Connection
    errors: IO[bytes]

    @classmethod
    def start(cls, threads: int) -> "_Worker":
        """Start a process."""
        ours, its = Pipe()
        errors = tempfile.TemporaryFile()  # noqa: SIM115
        count = str(threads)
        with its:
            process = subprocess.Popen(  # noqa: S603
                # Not by multiprocessing, which would run the caller's script once more.
                [sys.executable, "-P", "-m", _MODULE, str(its.fileno())],
                env={**os.environ, "OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count, "MKL_NUM_THREADS": count},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[its.fileno()],
            )
        return cls(process, ours, errors)

    def prepare(self, shared: object) -> None:
        """Send what all tasks share, and wait until the process can begin.

        Raises
        ------
        RegimeError
            It ended before that.
        """
        ready = False
        with suppress(EOFError, OSError):
            self.connection.send([place or str(Path.cwd()) for place in sys.path])
            self.connection.send(shared)
            ready = self.connection.recv() == READY
        if not ready:
            raise RegimeError(f"a process to measure in could not be started: it {self.end()}; try --workers 1")

    def end(self) -> str:
        """Wait until the process has ended, and say how it did; one that does not react is killed."""
        self.connection.close()
        if self.errors.closed:
            return "ended"
        try:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_ENDING)
        finally:
            # Too late, or interrupted once more.
            self.process.kill()
            code = self.process.wait()
        with self.errors:
            self.errors.seek(0)
            lines = [line.strip() for line in self.errors.read().decode(errors="replace").splitlines()]
        said = next((f" ({line[:200]})" for line in reversed(lines) if line), "")
        if code == -signal.SIGKILL:
            return "was killed, most often for lack of memory; --workers 1 takes the least"
        return f"died of signal {-code}" if code < 0 else f"ended with exit code {code}{said}"
