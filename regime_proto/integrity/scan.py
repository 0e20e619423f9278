"""Streams a sequence of checkpoints into summaries: digests, forms and changes, but only a sketch of the numbers."""

import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from regime_proto.checkpoints.locations import on_disk
from regime_proto.checkpoints.payload import Inconsistent
from regime_proto.checkpoints.source import Checkpoint, Source, State
from regime_proto.checkpoints.tensor_names import unwrap
from regime_proto.integrity.sketch import Sketches
from regime_proto.plugins.protocols import Sharded
from regime_proto.plugins.registry import capable_lineage
from regime_proto.quantities.deltas import non_finite, weight_deltas
from regime_proto.runtime.device import cores
from regime_proto.schema.dtypes import is_floating
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

Progress = Callable[[int, int], None]

_REMEDY = "; save it again or remove it"
# Size in bytes of the types with a signed zero (sign bit set, all others 0). In other types, these bits mean another
# number.
_SIGNED = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e5m2": 1, "float8_e4m3fn": 1, "float8_e4m3": 1,
    "float8_e3m4": 1, "complex64": 4, "complex128": 8,
}  # fmt: skip
# Numbers that are processed while they are in the cache.
_BLOCK = 2**16


@dataclass(frozen=True)
class Form:
    """The dtype and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def floating(self) -> bool:
        """Whether the dtype can be trained."""
        return is_floating(self.dtype)


@dataclass(frozen=True)
class Summary:
    """The summary of a state.

    Parameters
    ----------
    step : int
    digests : mapping of str to bytes
        The digest of dtype, shape and numbers, by tensor; +0 and −0 are the same number.
    forms : mapping of str to Form
    changes : mapping of str to float
        Σ|Δ| from the previous state, for the floating tensors that have the same shape in both.
    non_finite : tuple of str
        The tensors that hold NaN or Inf.
    shards : mapping of str to tuple of str
        The tensors in each file of the checkpoint; empty for a single file.
    """

    step: int
    digests: Mapping[str, bytes]
    forms: Mapping[str, Form]
    changes: Mapping[str, float] = field(default_factory=dict)
    non_finite: tuple[str, ...] = ()
    shards: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def digest(self) -> bytes:
        """The digest of the whole state."""
        return combined(self.digests, self.digests)


@dataclass(frozen=True)
class Unreadable:
    """A checkpoint that could not be read.

    Parameters
    ----------
    step : int
    reason : str
    inconsistent : bool
        Whether its parts do not match.
    """

    step: int
    reason: str
    inconsistent: bool = False


@dataclass(frozen=True)
class Scan:
    """The result of one pass over a sequence.

    Parameters
    ----------
    summaries : list of Summary
        Summaries of the states that could be read, in step order.
    unreadable : list of Unreadable
    size : int
        Total size of the tensors, in bytes.
    sketches : Sketches
        Sketches of the same states.
    """

    summaries: list[Summary]
    unreadable: list[Unreadable]
    size: int
    sketches: Sketches


def combined(digests: Mapping[str, bytes], names: Iterable[str]) -> bytes:
    """Return one digest for several tensors."""
    whole = hashlib.sha256()
    for name in sorted(names):
        whole.update(name.encode() + b"\0" + digests[name])
    return whole.digest()[:16]


def scan(source: Source, *, trainable: Collection[str] | None = None, progress: Progress | None = None) -> Scan:
    """Read every checkpoint once; at most two states are in memory at a time.

    Parameters
    ----------
    source : Source
    trainable : collection of str, optional
        Names of the tensors that count in sketches, if known.
    progress : callable, optional
        Called with the number of checkpoints that are done, and the total number.
    """
    summaries: list[Summary] = []
    unreadable: list[Unreadable] = []
    sketches = Sketches(trainable)
    size, before = 0, None
    with ThreadPoolExecutor(cores()) as pool:
        for done, checkpoint in enumerate(source.checkpoints, 1):
            try:
                state = source.read(checkpoint)
                shards = _shards(source.adapter, checkpoint, state)
            except (RegimeError, OSError) as error:
                reason = _reason(error, source, checkpoint)
                unreadable.append(Unreadable(checkpoint.step, reason, isinstance(error, Inconsistent)))
            else:
                summary = _summary(checkpoint.step, state, before, summaries, shards, pool)
                sketches.add(checkpoint, state.tensors)
                size += sum(array.nbytes for array in state.tensors.values())
                summaries.append(summary)
                before = state
            source.release(checkpoint)
            if progress is not None:
                progress(done, len(source.checkpoints))
    return Scan(summaries, unreadable, size, sketches)


def _reason(error: Exception, source: Source, checkpoint: Checkpoint) -> str:
    """Return the text of an error without the place and the advice, which a finding gives separately."""
    text = str(error).removeprefix(f"{checkpoint.path}: ").removesuffix(_REMEDY)
    # Only at the start of a path: within an absolute path, a relative root is a part like any other.
    return re.sub(rf"(?<![\w./-]){re.escape(str(source.root))}/", "", text)


def distances(source: Source) -> Callable[[int, int, Sequence[str]], float]:
    """Return a function that reads the states of two steps again, and returns Σ|Δ| over some tensors of both.

    The result is NaN if one of the states can no longer be read.
    """
    by_step = {checkpoint.step: checkpoint for checkpoint in source.checkpoints}

    def distance(step: int, other: int, names: Sequence[str]) -> float:
        try:
            tensors, others = (source.read(by_step[each]).tensors for each in (step, other))
        except (RegimeError, OSError):
            return math.nan
        for each in (step, other):
            source.release(by_step[each])
        return sum(_changes(tensors, others, [name for name in names if name in tensors]).values())

    return distance


def _summary(
    step: int,
    state: State,
    before: State | None,
    summaries: Sequence[Summary],
    shards: Mapping[str, tuple[str, ...]],
    pool: ThreadPoolExecutor,
) -> Summary:
    last = summaries[-1] if summaries else None
    names = sorted(state.tensors, key=lambda name: -state.tensors[name].nbytes)
    count = cores()
    parts = [names[index::count] for index in range(count)]
    digests: dict[str, bytes] = {}
    changes: dict[str, float] = {}
    spoiled: list[str] = []
    earlier = {} if before is None else before.tensors

    def examine(part: Sequence[str]) -> tuple[dict[str, bytes], dict[str, float], list[str]]:
        return _examined(state.tensors, earlier, last, part)

    for part_digests, part_changes, part_spoiled in pool.map(examine, parts):
        digests |= part_digests
        changes |= part_changes
        spoiled += part_spoiled
    forms: Mapping[str, Form] = {name: _form(array) for name, array in state.tensors.items()}
    if last is not None and forms == last.forms:
        # Most states of a run share their forms: keep one copy.
        forms = last.forms
    return Summary(step, digests, forms, changes, tuple(sorted(spoiled)), shards)


def _examined(
    tensors: Mapping[str, Array], earlier: Mapping[str, Array], last: Summary | None, names: Sequence[str]
) -> tuple[dict[str, bytes], dict[str, float], list[str]]:
    """Return digests and changes of some tensors of a state, and the names of those with NaN or Inf."""
    digests = {name: _digest(tensors[name]) for name in names}
    same = [name for name in names if last is not None and last.digests.get(name) == digests[name]]
    changes = _changes(tensors, earlier, sorted(set(names) - set(same)))
    # A finite sum of differences has finite terms, so these tensors need no further check.
    finite = {name for name, change in changes.items() if math.isfinite(change)} | set(same)
    floating = [name for name in names if _form(tensors[name]).floating]
    spoiled = [name for name in same if last is not None and name in last.non_finite]
    wide = {name: _real(tensors[name]) for name in floating if name not in finite}
    spoiled += non_finite(wide, list(wide))
    return digests, changes | {name: 0.0 for name in same if name in floating}, spoiled


def _changes(tensors: Mapping[str, Array], earlier: Mapping[str, Array], names: Sequence[str]) -> dict[str, float]:
    """Return Σ|Δ| of the floating tensors that have the same shape in both states."""
    chosen = [
        name
        for name in names
        if name in earlier
        and earlier[name].shape == tensors[name].shape
        and _form(tensors[name]).floating
        and _form(earlier[name]).floating
    ]
    state, previous = ({name: _real(side[name]) for name in chosen} for side in (tensors, earlier))
    # A complex tensor may be real in the other state.
    chosen = [name for name in chosen if state[name].shape == previous[name].shape]
    l1, _ = weight_deltas(state, previous, chosen)
    return dict(zip(chosen, l1.tolist(), strict=True))


def _digest(array: Array) -> bytes:
    digest = hashlib.sha256(repr((array.dtype.name, array.shape)).encode())
    flat = np.ascontiguousarray(array).reshape(-1)
    width = _SIGNED.get(array.dtype.name)
    if width is None:
        digest.update(flat.view(np.uint8).data)
        return digest.digest()[:16]
    words = flat.view(f"i{width}")
    for start in range(0, len(words), _BLOCK):
        digest.update(_without_negative_zeros(words[start : start + _BLOCK]).data)
    return digest.digest()[:16]


def _without_negative_zeros(words: Array) -> Array:
    """Return the bits of numbers, as signed integers, with −0 replaced by +0; as an integer, −0 is the smallest."""
    least = np.iinfo(words.dtype).min
    return np.where(words == least, np.zeros((), words.dtype), words) if words.min() == least else words


def _form(array: Array) -> Form:
    return Form(array.dtype.name, array.shape)


def _real(array: Array) -> Array:
    """Return complex numbers as pairs of real numbers."""
    if array.dtype.kind != "c":
        return array
    real: np.dtype[Any] = np.zeros(0, array.dtype).real.dtype
    return np.ascontiguousarray(array).reshape(-1).view(real)


def _shards(adapter: str, checkpoint: Checkpoint, state: State) -> dict[str, tuple[str, ...]]:
    sharded = capable_lineage(adapter, Sharded)
    if sharded is None:
        return {}
    with on_disk(checkpoint.path) as path:
        held = sharded.shards(path)
    files = unwrap({name: file for file, names in held.items() for name in names}, str(checkpoint.path))
    found: dict[str, list[str]] = {file: [] for file in held}
    for name, file in files.items():
        inner = _name_in(state, name)
        if inner is not None:
            found[file].append(inner)
    return {file: tuple(names) for file, names in found.items() if names}


def _name_in(state: State, name: str) -> str | None:
    """Return a tensor's name in the state, without the key of the chosen weights at its start."""
    while name and name not in state.tensors:
        name = name.partition(".")[2]
    return name or None
