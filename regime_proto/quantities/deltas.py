"""Distance between two states: Σ|Δ| and ΣΔ² per tensor (docs/protocol.md, Eq. 2)."""

import threading
from collections.abc import Mapping, Sequence

import numpy as np

from regime_proto.schema.dtypes import widest
from regime_proto.schema.types import Array

# Long enough that threads rarely release the interpreter, short enough for the third-level cache.
BLOCK = 1_048_576
# BLAS adds this many elements in their own type. The rounding errors average out to about 1e-10.
ROW = 1024
SMALL = 65_536

_held = threading.local()


def weight_deltas(
    state: Mapping[str, Array], previous: Mapping[str, Array], names: Sequence[str]
) -> tuple[Array, Array]:
    """Return the change of every tensor.

    Returns
    -------
    l1, l2 : (tensor,) float64
        Σ|Δ| and √ΣΔ². Differences are computed in float32 or wider, sums in float64.
    """
    sums = state_sums(state, previous, names)
    return sums[:, 0], np.sqrt(sums[:, 1])


def state_sums(state: Mapping[str, Array], other: Mapping[str, Array], names: Sequence[str]) -> Array:
    """Return Σ|Δ| and ΣΔ² of every tensor between two states, (tensor, 2) float64."""
    sums = np.zeros((len(names), 2))
    small = [index for index, name in enumerate(names) if 0 < state[name].size <= SMALL]
    if small:
        sums[small] = small_sums([state[names[index]] for index in small], [other[names[index]] for index in small])
    for index, name in enumerate(names):
        if state[name].size > SMALL:
            sums[index] = delta_sums(state[name], other[name])
    return sums


def small_sums(arrays: Sequence[Array], previous: Sequence[Array]) -> Array:
    """Return Σ|Δ| and ΣΔ² of short, non-empty arrays, (array, 2) float64, computing many at once."""
    sums = np.empty((len(arrays), 2))
    start = 0
    while start < len(arrays):
        stop, size = start + 1, arrays[start].size
        while stop < len(arrays) and size + arrays[stop].size <= BLOCK:
            size += arrays[stop].size
            stop += 1
        sums[start:stop] = _joined_sums(arrays[start:stop], previous[start:stop], size)
        start = stop
    return sums


def _joined_sums(arrays: Sequence[Array], previous: Sequence[Array], size: int) -> Array:
    wide, before = (
        np.concatenate([array.ravel() for array in side], out=out)
        for side, out in zip((arrays, previous), _room(size), strict=True)
    )
    starts = np.cumsum([0, *(array.size for array in arrays[:-1])])
    with np.errstate(invalid="ignore", over="ignore"):
        np.abs(np.subtract(wide, before, out=wide), out=wide)
        l1 = np.add.reduceat(wide, starts)
        return np.stack([l1, np.add.reduceat(np.square(wide, out=wide), starts)], axis=1)


def _room(size: int) -> Array:
    """Return (2, size) float64 to work in. A thread gets the same memory each time: new pages cost more than sums."""
    held: Array | None = getattr(_held, "room", None)
    if held is None or held.shape[1] < size:
        held = _held.room = np.empty((2, size))
    return held[:, :size]


def delta_sums(values: Array, previous: Array, *, update: bool = False) -> tuple[float, float]:
    """Return Σ|Δ| and ΣΔ² of two arrays of the same shape, block by block; half precision is widened in each block.

    With `update`, the values then replace the previous ones, while they are in the cache.
    """
    values, previous = values.reshape(-1), previous.reshape(-1)
    # A second array that is written leaves less room in the cache.
    length = BLOCK // 4 if update else BLOCK
    wide = np.result_type(*(widest(side[:0]) for side in (values, previous)))
    delta = np.empty(min(length, values.size), wide)
    ones = np.ones(ROW, delta.dtype)
    l1 = squares = 0.0
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        for start in range(0, values.size, length):
            block = slice(start, min(start + length, values.size))
            out = delta[: block.stop - start]
            np.abs(np.subtract(widest(values[block]), widest(previous[block]), out=out), out=out)
            block_l1, block_squares = _dots(out, ones), _dots(out)
            if block_l1 and not 1e-30 < block_squares < 1e30:
                # The squares are outside the range of float32.
                difference = values[block].astype(np.float64) - previous[block].astype(np.float64)
                block_squares = float(np.square(difference).sum())
            if update:
                previous[block] = values[block]
            l1 += block_l1
            squares += block_squares
    return l1, squares


def _dots(values: Array, ones: Array | None = None) -> float:
    """Return the sum of values, or of their squares; row sums are added in float64."""
    whole = len(values) - len(values) % ROW
    rows, rest = values[:whole].reshape(-1, ROW), values[whole:].astype(np.float64)
    sums = np.vecdot(rows, rows if ones is None else ones).sum(dtype=np.float64)
    return float(sums + (np.square(rest) if ones is None else rest).sum())


class KeptWeights:
    """A copy of the weights that the current weights of a model in training are compared with.

    Parameters
    ----------
    names : sequence of str
        The tensors, in order.

    Attributes
    ----------
    previous : mapping of str to array
        The state of the last call of `change`; empty before the first call.
    first : mapping of str to array
        A separate copy of the state that later ones are compared with; empty without one.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self.previous: dict[str, Array] = {}
        self.first: Mapping[str, Array] = {}

    def begin(self, state: Mapping[str, Array]) -> None:
        """Compare this state and later ones with this one."""
        self.first = self._copied(state)

    def _copied(self, state: Mapping[str, Array]) -> dict[str, Array]:
        return {name: np.array(state[name], order="C") for name in self._names}

    def change(self, state: Mapping[str, Array]) -> Array:
        """Return the change since the last call, and keep this state instead of the previous one.

        Parameters
        ----------
        state : mapping of str to array
            May be views of live memory: they are not used after the call.

        Returns
        -------
        (tensor, 2) float64
            Σ|Δ| and ΣΔ²; NaN in the first call.
        """
        if not self.previous:
            self.previous = self._copied(state)
            return np.full((len(self._names), 2), np.nan)
        sums = np.zeros((len(self._names), 2))
        small = [index for index, name in enumerate(self._names) if 0 < state[name].size <= SMALL]
        if small:
            arrays, kept = ([side[self._names[index]] for index in small] for side in (state, self.previous))
            sums[small] = small_sums(arrays, kept)
            for values, previous in zip(arrays, kept, strict=True):
                np.copyto(previous, values)
        for index, name in enumerate(self._names):
            if state[name].size > SMALL:
                sums[index] = _replaced(state[name], self.previous[name])
        return sums


def _replaced(values: Array, kept: Array) -> tuple[float, float]:
    if kept.dtype == widest(kept).dtype and values.dtype == kept.dtype:
        return delta_sums(values, kept, update=True)
    sums = delta_sums(values, kept)
    np.copyto(kept, values)
    return sums


def non_finite(state: Mapping[str, Array], names: Sequence[str]) -> list[str]:
    """Return the names of the tensors that hold NaN or Inf."""
    return [name for name in names if not _finite(state[name])]


def _finite(values: Array) -> bool:
    flat = values.reshape(-1)
    return all(bool(np.isfinite(widest(flat[start : start + BLOCK])).all()) for start in range(0, flat.size, BLOCK))
