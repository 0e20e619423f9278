"""Runs tasks in local processes: each runs one task at a time, and is replaced if it dies."""

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
# Seconds that a process has to save its results.
_ENDING = 60


class Processes:
    """Local processes.

    Parameters
    ----------
    count : int
        Number of concurrent processes.
    threads : int
        Threads for linear algebra in each process.
    """

    def __init__(self, count: int, *, threads: int = 1) -> None:
        self._count = count
        self._threads = threads

    def results(self, tasks: Sequence[Task[Result]], shared: object) -> Results[Result]:
        """Yield the number and the result of each task as they finish; see `Executor`.

        Tasks that are running when the caller leaves are interrupted, and save their results.

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
    """The processes, with the current task of each."""

    def __init__(self, tasks: Sequence[Task[Any]], shared: object, threads: int) -> None:
        self._tasks = tasks
        self._shared = shared
        self._threads = threads
        self._workers: list[_Worker] = []
        self._waiting = deque(range(len(tasks)))
        self._died: Counter[int] = Counter()
        self.busy: dict[Connection, tuple[_Worker, int]] = {}

    def start(self, count: int) -> None:
        """Start this many processes, and give each a task."""
        self._workers += [_Worker.start(self._threads) for _ in range(count)]
        for worker in self._workers:
            worker.prepare(self._shared)
            self._give(worker)

    def finished(self) -> Iterator[tuple[int, Any]]:
        """Wait for an event, and yield the finished tasks; free processes have then started the next task."""
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
        """Start a process to replace one that died; return an error if its task is given up."""
        self._workers.remove(worker)
        how = worker.end()
        self._died[number] += 1
        is_given_up = self._died[number] > MOST_REPEATS
        if not is_given_up:
            # After all others: a concurrent task may have caused the death.
            self._waiting.append(number)
        if self._waiting:
            new = _Worker.start(self._threads)
            self._workers.append(new)
            new.prepare(self._shared)
            self._give(new)
        label, times = self._tasks[number].label, self._died[number]
        return (
            RegimeError(f"{label}: given up: its process failed {times} times; the last one {how}")
            if is_given_up
            else None
        )

    def _give(self, worker: "_Worker") -> None:
        """Give a process the next task, if there is one; its death is noticed when waiting for its answer."""
        if not self._waiting:
            return
        number = self._waiting.popleft()
        self.busy[worker.connection] = worker, number
        with suppress(OSError):
            worker.connection.send((self._tasks[number].call, self._tasks[number].arguments))

    def close(self) -> None:
        """Let all processes end; running tasks are interrupted."""
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.end()


@dataclass(frozen=True)
class _Worker:
    """A process that runs tasks.

    Parameters
    ----------
    process : subprocess.Popen
    connection : Connection
    errors : file
        The file that receives its standard error.
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
                # Not started with multiprocessing, which would run the caller's script again.
                [sys.executable, "-P", "-m", _MODULE, str(its.fileno())],
                env={**os.environ, "OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count, "MKL_NUM_THREADS": count},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[its.fileno()],
            )
        return cls(process, ours, errors)

    def prepare(self, shared: object) -> None:
        """Send the data shared by all tasks, and wait until the process is ready.

        Raises
        ------
        RegimeError
            The process ended before it was ready.
        """
        ready = False
        with suppress(EOFError, OSError):
            self.connection.send([place or str(Path.cwd()) for place in sys.path])
            self.connection.send(shared)
            ready = self.connection.recv() == READY
        if not ready:
            raise RegimeError(f"a worker process could not be started: it {self.end()}; try --workers 1")

    def end(self) -> str:
        """Wait until the process has ended, and return how; a process that does not react is killed."""
        self.connection.close()
        if self.errors.closed:
            return "ended"
        try:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_ENDING)
        finally:
            # It took too long, or was interrupted again.
            self.process.kill()
            code = self.process.wait()
        with self.errors:
            self.errors.seek(0)
            lines = [line.strip() for line in self.errors.read().decode(errors="replace").splitlines()]
        said = next((f" ({line[:200]})" for line in reversed(lines) if line), "")
        if code == -signal.SIGKILL:
            return "was killed, usually for lack of memory; --workers 1 needs the least"
        return f"died of signal {-code}" if code < 0 else f"ended with exit code {code}{said}"
