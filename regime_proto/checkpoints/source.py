"""The result of an adapter: a sequence of checkpoints in step order, and a function to read one."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from regime_proto.schema.errors import RegimeError
from regime_proto.schema.steps import parse_steps
from regime_proto.schema.types import Array, read_only


@dataclass(frozen=True)
class Checkpoint:
    """A saved parameter state, not read yet.

    Parameters
    ----------
    step : int
    path : Path
        A file or a folder, possibly remote; see `locations`.
    """

    step: int
    path: Path


@dataclass(frozen=True)
class Skipped:
    """A file or folder that is not part of the sequence, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class State:
    """A parameter state.

    Parameters
    ----------
    tensors : mapping of str to array
        By their names in the checkpoint. The state holds read-only views of the given arrays, which must not be
        modified afterwards.
    epoch : float
        NaN if unknown.
    metrics : mapping of str to float
    """

    tensors: Mapping[str, Array]
    epoch: float = math.nan
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", {name: read_only(array) for name, array in self.tensors.items()})


@dataclass(frozen=True)
class OtherOrder:
    """A different order of the same checkpoints, given by a different rule.

    Parameters
    ----------
    reason : str
        Where it is taken from, in words.
    paths : tuple of Path
    """

    reason: str
    paths: tuple[Path, ...]


class Copies(Protocol):
    """Local copies of remote checkpoints, each created when it is read."""

    def release(self, path: Path) -> None:
        """Remove the copy of a checkpoint; arrays read from it stay valid."""

    def stop(self) -> None:
        """Cancel the copy in progress: nothing waits for it any more."""


@dataclass(frozen=True)
class Source:
    """A sequence of checkpoints.

    Parameters
    ----------
    adapter : str
        Name of the adapter that reads it.
    recognised : str
        What the adapter recognised it by, in words.
    root : Path
        Its location.
    step_kind : str
        What `Checkpoint.step` counts: ``step``, ``epoch`` or ``ordinal``.
    order : str
        Where the steps were taken from, in words.
    checkpoints : tuple of Checkpoint
        In strictly increasing step order.
    read : callable
        Reads one checkpoint; safe to call from several threads.
    skipped : tuple of Skipped
    metrics : tuple of str
        Names of the metrics stored in the checkpoints.
    other_orders : tuple of OtherOrder
        Orders of the same checkpoints that differ from the chosen one.
    copies : Copies, optional
        The local copies, if reading a checkpoint leaves one.
    read_lazily : callable, optional
        Reads one checkpoint without holding its tensors in memory; see `deferred`. None if
        checkpoints are read whole.
    """

    adapter: str
    recognised: str
    root: Path
    step_kind: str
    order: str
    checkpoints: tuple[Checkpoint, ...]
    read: Callable[[Checkpoint], State]
    skipped: tuple[Skipped, ...] = ()
    metrics: tuple[str, ...] = ()
    other_orders: tuple[OtherOrder, ...] = ()
    copies: Copies | None = None
    read_lazily: Callable[[Checkpoint], State] | None = None

    def select(self, steps: str | None = None, every: int | None = None) -> "Source":
        """Return the source restricted to the steps ``A:B`` (both included) and to every k-th of these."""
        chosen = self.checkpoints
        if steps is not None:
            first, last = parse_steps(steps)
            chosen = tuple(checkpoint for checkpoint in chosen if first <= checkpoint.step <= last)
        if every is not None:
            if every < 1:
                raise RegimeError(f"--every {every}: expected 1 or more")
            chosen = chosen[::every]
        return self._of(chosen)

    def part(self, numbers: range) -> "Source":
        """Return the source restricted to consecutive checkpoints, given by their indices."""
        return self._of(self.checkpoints[numbers.start : max(numbers.start, numbers.stop)])

    def _of(self, chosen: tuple[Checkpoint, ...]) -> "Source":
        return replace(self, checkpoints=chosen, other_orders=self._orders_of(chosen))

    def _orders_of(self, chosen: Sequence[Checkpoint]) -> tuple[OtherOrder, ...]:
        """Return the other orders of some of the checkpoints, if they still differ."""
        taken = tuple(checkpoint.path for checkpoint in chosen)
        kept = set(taken)
        others: dict[tuple[Path, ...], OtherOrder] = {}
        for other in self.other_orders:
            paths = tuple(path for path in other.paths if path in kept)
            others.setdefault(paths, replace(other, paths=paths))
        others.pop(taken, None)
        return tuple(others.values())

    def release(self, checkpoint: Checkpoint) -> None:
        """Remove the copy that reading a checkpoint may have left; its arrays stay valid."""
        if self.copies is not None:
            self.copies.release(checkpoint.path)

    def skipped_by_reason(self) -> dict[str, list[str]]:
        """Return the names of the skipped files, by reason."""
        reasons: dict[str, list[str]] = {}
        for entry in self.skipped:
            reasons.setdefault(entry.reason, []).append(entry.path.name)
        return reasons

    def require_two(self) -> None:
        """Raise an error unless there is a change to measure."""
        if len(self.checkpoints) < 2:
            found = "no checkpoint" if not self.checkpoints else f"one checkpoint ({self.checkpoints[0].path.name})"
            raise RegimeError(
                f"{self.root}: {found} to analyze; expected at least two, to measure a change; "
                "save more often, each under its own name, or widen --steps or lower --every"
            )
