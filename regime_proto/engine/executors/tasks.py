"""Calls that any process can run, and the executor protocol."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from regime_proto.schema.errors import RegimeError

Result = TypeVar("Result")

MOST_REPEATS = 3
"""How often a task is repeated if its process dies."""


@dataclass(frozen=True)
class Task(Generic[Result]):
    """A call that can be repeated in any process.

    Parameters
    ----------
    call : callable
        Defined in a module, so that a worker can find it by name.
    arguments : tuple
    label : str
        Its description in messages.
    """

    call: Callable[..., Result]
    arguments: tuple[Any, ...]
    label: str


Results = Generator[tuple[int, Result | RegimeError], None, None]
"""The index and the result of each task, or its error."""


class Executor(Protocol):
    """Runs tasks, several at once."""

    def results(self, tasks: Sequence[Task[Result]], shared: object) -> Results[Result]:
        """Yield the index and the result, or the error, of each task as it finishes.

        Parameters
        ----------
        tasks : sequence of Task
        shared : object
            The first argument of all calls; it is sent to each process once.
        """


class InThisProcess:
    """Runs one task after another."""

    def results(self, tasks: Sequence[Task[Result]], shared: object) -> Results[Result]:
        """Yield the index and the result of each task; see `Executor`."""
        for number, task in enumerate(tasks):
            try:
                yield number, task.call(shared, *task.arguments)
            except RegimeError as error:
                yield number, error
