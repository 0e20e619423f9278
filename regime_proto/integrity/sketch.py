"""Keeps a few hundred weights of every state, enough to compute the length of a path through them in any order."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np

from regime_proto.checkpoints.deferred import loaded
from regime_proto.checkpoints.source import Checkpoint, State
from regime_proto.schema.dtypes import is_floating
from regime_proto.schema.types import Array

# Elements of a sketch; fewer if the sketches of all states would exceed 32 MB.
ELEMENTS, FEWEST_ELEMENTS = 1024, 64
ALL_ELEMENTS = 2**23
# Running statistics follow the data, not the optimizer, and have a different scale.
_STATISTICS = ("running_mean", "running_var", "moving_mean", "moving_variance")


def counted_names(floating: Collection[str], trainable: Collection[str] | None = None) -> list[str]:
    """Return the floating tensors whose changes count: the trainable ones, if known, else all but running statistics.

    Parameters
    ----------
    floating : collection of str
    trainable : collection of str, optional
        The trainable tensors according to a program, under its names.
    """
    known = [name for name in floating if trainable is not None and name in trainable]
    return known or [name for name in floating if not name.endswith(_STATISTICS)]


@dataclass(frozen=True)
class _Part:
    """The elements of one tensor in a sketch."""

    name: str
    shape: tuple[int, ...]
    flat: Array
    within: slice

    def take(self, array: Array) -> Array:
        array = loaded(array)
        taken = array.take(self.flat) if array.flags.c_contiguous else array[np.unravel_index(self.flat, self.shape)]
        return np.asarray(taken.real if array.dtype.kind == "c" else taken)


class Sketches:
    """Sketches of the states that are read.

    The first state determines the elements that are kept: a fixed choice over all counted tensors, in proportion to
    the root of their size. If another state lacks a tensor in that shape, its elements are NaN in the sketch.

    Parameters
    ----------
    trainable : collection of str, optional
        See `counted_names`.
    """

    def __init__(self, trainable: Collection[str] | None = None) -> None:
        self._trainable = trainable
        self._parts: list[_Part] | None = None
        self._kept: dict[Checkpoint, Array] = {}
        # The interval at which chosen elements are kept.
        self._stride = 1
        self._lock = Lock()

    def add(self, checkpoint: Checkpoint, tensors: Mapping[str, Array]) -> None:
        """Keep the sketch of a state."""
        if self._parts is None:
            self._parts = self._chosen(tensors)
        sketch = np.full(self._parts[-1].within.stop if self._parts else 0, np.nan, np.float32)
        with np.errstate(over="ignore"):
            for part in self._parts:
                array = tensors.get(part.name)
                if array is not None and array.shape == part.shape:
                    sketch[part.within] = part.take(array)
        self.put(checkpoint, sketch)

    def put(self, checkpoint: Checkpoint, sketch: Array) -> None:
        """Keep the sketch of a state that another process computed."""
        with self._lock:
            self._kept[checkpoint] = sketch[:: self._stride].copy()
            if (
                len(self._kept) * len(sketch) > self._stride * ALL_ELEMENTS
                and self._stride < ELEMENTS // FEWEST_ELEMENTS
            ):
                self._stride *= 2
                self._kept = {known: kept[::2].copy() for known, kept in self._kept.items()}

    def take(self, checkpoint: Checkpoint) -> Array | None:
        """Return the sketch of a state and forget it; None if there is none."""
        with self._lock:
            return self._kept.pop(checkpoint, None)

    def reading(self, read: Callable[[Checkpoint], State]) -> Callable[[Checkpoint], State]:
        """Return a function that reads like `read` and keeps a sketch; no other call may run during the first."""

        def sketching(checkpoint: Checkpoint) -> State:
            state = read(checkpoint)
            # A checkpoint that is read in parts is read many times.
            if not self.hold([checkpoint]):
                self.add(checkpoint, state.tensors)
            return state

        return sketching

    def hold(self, checkpoints: Sequence[Checkpoint]) -> bool:
        """Whether there is a sketch of each of these checkpoints."""
        return all(checkpoint in self._kept for checkpoint in checkpoints)

    def of(self, checkpoints: Sequence[Checkpoint]) -> tuple[list[Checkpoint], Array]:
        """Return those of the checkpoints that can be compared, and their sketches.

        Returns
        -------
        checkpoints : list of Checkpoint
        sketches : (checkpoint, element) float32
            Finite; elements that most states lack are left out.
        """
        known = [checkpoint for checkpoint in checkpoints if checkpoint in self._kept]
        if not known:
            return [], np.empty((0, 0), np.float32)
        table = np.stack([self._kept[checkpoint] for checkpoint in known])
        finite = np.isfinite(table)
        usual = 2 * finite.sum(axis=0) > len(known)
        whole = finite[:, usual].all(axis=1)
        return [one for one, sound in zip(known, whole, strict=True) if sound], table[whole][:, usual]

    def _chosen(self, tensors: Mapping[str, Array]) -> list[_Part]:
        floating = [name for name, array in tensors.items() if array.size and is_floating(array.dtype.name)]
        names = counted_names(floating, self._trainable)
        names = sorted(names, key=lambda name: (-tensors[name].size, name))[:ELEMENTS]
        roots = np.sqrt([tensors[name].size for name in names])
        random = np.random.default_rng(0)
        parts: list[_Part] = []
        start = 0
        for name, share in zip(names, roots / roots.sum() if len(roots) else (), strict=True):
            size = tensors[name].size
            count = 1 + int(share * (ELEMENTS - len(names)))
            flat = np.unique(random.integers(0, size, count))
            parts.append(_Part(name, tensors[name].shape, flat, slice(start, start + len(flat))))
            start += len(flat)
        return parts
