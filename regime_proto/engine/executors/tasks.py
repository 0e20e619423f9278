"""Calls that any process can carry out, and what carries them out."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from regime_proto.schema.errors import RegimeError

Result = TypeVar("Result")

MOST_REPEATS = 3
"""How often a task is repeated when the process that carries it out dies."""


@dataclass(frozen=True)
class Task(Generic[Result]):
    """A call that can be repeated anywhere.

    Parameters
    ----------
    call : callable
        Of a module, so that a worker finds it by name.
    arguments : tuple
    label : str
        What it does, for messages.
    """

    call: Callable[..., Result]
    arguments: tuple[Any, ...]
    label: str


Results = Generator[tuple[int, Result | RegimeError], None, None]
"""The number and the result of each task; of one that failed, the error."""


class Executor(Protocol):
    """What carries out tasks, several at once."""

    def results(self, tasks: Sequence[Task[Result]], shared: object) -> Results[Result]:
        """Yield the number and the result of each task as they finish; of one that failed, the error.

        Parameters
        ----------
        tasks : sequence of Task
        shared : object
            The first argument of all calls, which each process is sent once.
        """


class InThisProcess:
    """One task after the other."""

    def results(self, tasks: Sequence[Task[Result]], shared: object) -> Results[Result]:
        """Yield the number and the result of each task; see `Executor`."""
        for number, task in enumerate(tasks):
            try:
                yield number, task.call(shared, *task.arguments)
            except RegimeError as error:
                yield number, error
