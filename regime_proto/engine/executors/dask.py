"""Runs tasks on the workers of a Dask cluster: repeated if a worker dies, cancelled when the caller leaves."""

import importlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regime_proto.engine.executors.tasks import Result, Results, Task
from regime_proto.runtime.cards import VISIBLE
from regime_proto.runtime.device import cores
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.words import counted, few

_LOCAL = re.compile(r"local(?::([1-9][0-9]*))?")
# Seconds to wait for a scheduler, and for its first worker.
_CONNECTING, _FIRST_WORKER = 10, 60
_NEEDED = 'using a scheduler needs Dask: pip install "regime-proto[cluster]"'


@dataclass(frozen=True)
class Worker:
    """A process that runs tasks.

    Parameters
    ----------
    address : str
    threads : int
        Number of tasks that it runs at once.
    memory : int
        Bytes that it may use; 0 if there is no limit.
    """

    address: str
    threads: int
    memory: int


class Cluster:
    """The workers of a Dask cluster.

    Parameters
    ----------
    client : distributed.Client
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def workers(self) -> list[Worker]:
        """The workers that are connected now."""
        described = self._client.scheduler_info(n_workers=-1)["workers"]
        return [Worker(address, one["nthreads"], int(one["memory_limit"] or 0)) for address, one in described.items()]

    def ask(self, call: Callable[..., Result], *arguments: Any) -> dict[str, Result | BaseException]:
        """Return the result or the error of a call on every worker, by address."""
        answers: dict[str, Result | BaseException] = self._client.run(call, *arguments, on_error="return")
        return answers

    def carry_out(self, tasks: Sequence[Task[Result]], shared: object) -> Iterator[tuple[int, Result]]:
        """Yield the number and the result of each task as they finish; see `results`.

        Raises
        ------
        RegimeError
            A task failed, or was repeated three times because workers died. Running tasks are cancelled.
        """
        results = self.results(tasks, shared)
        with closing(results):
            for number, result in results:
                if isinstance(result, RegimeError):
                    raise result
                yield number, result

    def results(self, tasks: Sequence[Task[Result]], shared: object) -> Results[Result]:
        """Yield the number and the result of each task as they finish; see `tasks.Executor`.

        Raises
        ------
        RegimeError
            The scheduler is gone.
        """
        distributed = _distributed()
        # As the result of a task, it is computed again if its worker dies; scattered data would be lost.
        placed = self._client.submit(_given, shared, pure=False)
        futures = [self._client.submit(task.call, placed, *task.arguments, pure=False) for task in tasks]
        numbers = {future.key: number for number, future in enumerate(futures)}
        finished = distributed.as_completed(futures)
        try:
            for future in finished:
                task = tasks[numbers[future.key]]
                result: Result | RegimeError
                try:
                    result = future.result()
                except distributed.KilledWorker as error:
                    result = RegimeError(
                        f"{task.label}: given up after several workers died while running this or "
                        f"a concurrent task, most recently {error.last_worker.address}; the usual "
                        "cause is lack of memory: give workers more memory or fewer threads; "
                        "results of other tasks are kept"
                    )
                except RegimeError as error:
                    result = error
                except distributed.client.FutureCancelledError:
                    raise RegimeError(
                        f"{task.label}: the scheduler is gone, or dropped this task; run the same "
                        "command again to resume"
                    ) from None
                # Its memory is no longer needed.
                future.release()
                yield numbers[future.key], result
        finally:
            self._client.cancel([future for future in futures if not future.done()])


def _given(shared: object) -> object:
    return shared


@contextmanager
def connected(where: str, cards: Sequence[str] = ()) -> Iterator[Cluster]:
    """Connect to a cluster for the duration of the context.

    Parameters
    ----------
    where : str
        The address of a scheduler, its scheduler file, or ``local[:N]``: N local processes, which
        end with the context. Without N, one process per card, or, if there are no cards, per core.
    cards : sequence of str
        The NVIDIA cards for local processes, each of which uses one; see `runtime.cards.visible_cards`.

    Raises
    ------
    RegimeError
        Dask is not installed, no scheduler answers, or there is no worker.
    """
    distributed = _distributed()
    # The code that waits for workers and connections reports their failures.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    local = _LOCAL.fullmatch(where)
    if local is not None:
        count = int(local[1] or len(cards) or cores())
        with (
            distributed.SpecCluster(
                scheduler={"cls": distributed.Scheduler, "options": {"host": "127.0.0.1", "dashboard": False}},
                workers={number: _process(number, cards) for number in range(count)},
                silence_logs=logging.CRITICAL,
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            client.wait_for_workers(count)
            yield Cluster(client)
        return
    with _connection(where) as client:
        try:
            client.wait_for_workers(1, timeout=_FIRST_WORKER)
        except TimeoutError:
            raise RegimeError(
                f"--scheduler {where}: no worker connected within {_FIRST_WORKER} s; start some: dask worker {where}"
            ) from None
        yield Cluster(client)


def _process(number: int, cards: Sequence[str]) -> dict[str, Any]:
    """Return the specification of a local Dask worker, with its own card if there is one for each."""
    # Mapped checkpoint pages count as a worker's memory; with a limit it would be paused or killed for them.
    options: dict[str, Any] = {"nthreads": 1, "memory_limit": 0, "host": "127.0.0.1", "silence_logs": logging.CRITICAL}
    if cards:
        options["env"] = {VISIBLE: cards[number % len(cards)]}
    return {"cls": _distributed().Nanny, "options": options}


def _distributed() -> Any:
    try:
        return importlib.import_module("distributed")
    except ModuleNotFoundError:
        raise RegimeError(_NEEDED) from None


def _connection(where: str) -> Any:
    # Dask is untyped.
    connect: Any = _distributed().Client
    is_file = where.endswith(".json") or Path(where).is_file()
    if is_file and not Path(where).is_file():
        raise RegimeError(
            f"--scheduler {where}: no such file; expected the file written by dask scheduler --scheduler-file"
        )
    try:
        if is_file:
            return connect(scheduler_file=where, timeout=_CONNECTING)
        return connect(where, timeout=_CONNECTING)
    except (OSError, ValueError, TimeoutError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RegimeError(
            f"--scheduler {where}: no scheduler answers ({reason}); expected the address of a "
            "scheduler, such as tcp://HOST:8786, its scheduler file, or local:N"
        ) from None


def require_alike(answers: "dict[str, dict[str, str] | BaseException]", ours: dict[str, str]) -> None:
    """Raise an error unless all workers have the same versions as this process.

    Parameters
    ----------
    answers : mapping
        By address: versions by name, or the error raised by the query.
    ours : mapping
    """
    wrong: dict[str, list[str]] = {}
    for address, found in answers.items():
        if isinstance(found, BaseException):
            wrong.setdefault(f"cannot run regime ({type(found).__name__}: {found})", []).append(address)
            continue
        for name, version in ours.items():
            if found.get(name) != version:
                wrong.setdefault(f"{name} {found.get(name)}, but here {version}", []).append(address)
    if wrong:
        what, where = next(iter(wrong.items()))
        raise RegimeError(
            f"{counted(len(where), 'worker')} of {len(answers)} ({few(where)}): {what}; install the same versions there"
        )
