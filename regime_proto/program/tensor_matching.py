"""Matches names in a checkpoint to those of a program: prefixes, different separators, weights saved in two parts."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from regime_proto.checkpoints.deferred import deferred, loaded
from regime_proto.schema.dtypes import widest
from regime_proto.schema.types import Array


@dataclass(frozen=True)
class _Parts:
    """A weight that is saved as two tensors."""

    first: re.Pattern[str]
    second: str
    whole: str
    join: Callable[[Array, Array], Array]


Trained = Sequence[tuple[Collection[str], tuple[int, ...]]]
"""The names and the shape of each required tensor."""


def matched(tensors: Mapping[str, Array], known: Collection[str], trained: Trained = ()) -> Mapping[str, Array]:
    """Return `tensors` under the names in a program, as far as they can be matched.

    Either side may have its own prefix, from an attribute that held the model, and ``/`` may
    replace ``.``; in these cases all names must match, and the shapes of `trained` too.

    Parameters
    ----------
    tensors : mapping of str to array
    known : collection of str
        Names and aliases of the program's tensors.
    trained : sequence, optional
    """
    if all(name in known for name in tensors):
        return tensors
    if any(name in known for name in (*tensors, *_wholes(tensors))):
        return _joined(tensors, known)
    for names in _renamings(tensors, known, trained):
        renamed = {name: tensors[held] for held, name in names.items()}
        if _fits(renamed, known, trained):
            return _joined(renamed, known)
    return _joined(_without_prefix(tensors, known), known)


def _renamings(tensors: Collection[str], known: Collection[str], trained: Trained) -> Iterator[dict[str, str]]:
    """Yield the ways to rename `tensors`: remove a prefix, add a different one, and write ``.`` for ``/``.

    Names keep their order and stay distinct, so two ways that both match `trained` agree on every tensor.
    """
    spelled = {_dotted(name): name for name in known}
    held = {name: _dotted(name) for name in tensors}
    if len(spelled) < len(set(known)) or len(set(held.values())) < len(held):
        return
    required = [[_dotted(name) for name in names] for names, _ in trained]
    for front in ("", *_prefixes([[name] for name in held.values()])):
        short = {name: dotted.removeprefix(front) for name, dotted in held.items()}
        for prefix in ("", *_prefixes(required)):
            yield {name: spelled.get(prefix + dotted, prefix + dotted) for name, dotted in short.items()}


def _fits(renamed: Mapping[str, Array], known: Collection[str], trained: Trained) -> bool:
    """Whether all tensors are known under their new names, and all of `trained` exist with their shapes."""
    shapes = {name: array.shape for name, array in renamed.items()}
    for whole, (first, second, _) in _wholes(renamed).items():
        if whole in known and first not in known:
            del shapes[first]
            shapes[whole] = shapes.pop(second)
    return all(name in known for name in shapes) and all(
        any(shapes.get(name) == shape for name in names) for names, shape in trained
    )


def _prefixes(tensors: Sequence[Sequence[str]]) -> list[str]:
    """Return the prefixes, up to a dot, with which at least one name of every tensor begins."""
    names = [] if not tensors else tensors[0]
    prefixes = dict.fromkeys(name[: index + 1] for name in names for index, letter in enumerate(name) if letter == ".")
    return [prefix for prefix in prefixes if all(any(map(_begins(prefix), names)) for names in tensors)]


def _begins(prefix: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(prefix)


def _dotted(name: str) -> str:
    return name.replace("/", ".")


def _without_prefix(tensors: Mapping[str, Array], known: Collection[str]) -> Mapping[str, Array]:
    """Remove the attribute in which a trainer holds the model (``model.``), if any name is then known."""
    names = [*tensors, *_wholes(tensors)]
    for prefix in _prefixes([[name] for name in names]):
        if any(name.removeprefix(prefix) in known for name in names):
            return {name.removeprefix(prefix): array for name, array in tensors.items()}
    return tensors


def _joined(tensors: Mapping[str, Array], known: Collection[str]) -> Mapping[str, Array]:
    """Join weights that the program has whole but the checkpoint in two parts; each is computed on use."""
    joined = dict(tensors)
    for whole, (first, second, join) in _wholes(tensors).items():
        if whole in known and first not in known:
            joined[whole] = _deferred(joined.pop(first), joined.pop(second), join)
    return joined


def _deferred(first: Array, second: Array, join: Callable[[Array, Array], Array]) -> Array:
    """Return a deferred tensor that joins two parts on use."""
    dtypes = (widest(np.empty(0, part.dtype)).dtype for part in (first, second))
    return deferred(second.shape, np.result_type(*dtypes), lambda: join(loaded(first), loaded(second)))


def _wholes(tensors: Collection[str]) -> dict[str, tuple[str, str, Callable[[Array, Array], Array]]]:
    """Return the weights that are saved in two parts: the names of the parts, and the function that joins them."""
    found = {}
    for name in tensors:
        for parts in _PARTS:
            match = parts.first.fullmatch(name)
            if match is not None and match.expand(parts.second) in tensors:
                found[match.expand(parts.whole)] = name, match.expand(parts.second), parts.join
    return {whole: parts for whole, parts in found.items() if whole not in tensors}


def _normalized(norm: Array, direction: Array) -> Array:
    """Return g · v / ‖v‖ (Salimans and Kingma, 2016); the norm runs over the axes along which g has length 1."""
    norm, direction = widest(norm), widest(direction)
    axes = tuple(axis for axis in range(direction.ndim) if norm.ndim == 0 or norm.shape[axis] == 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled: Array = direction * (norm / np.sqrt(np.square(direction).sum(axis=axes, keepdims=True)))
    return scaled


def _pruned(weights: Array, mask: Array) -> Array:
    """Return pruned weights, multiplied by their mask."""
    return np.asarray(widest(weights) * widest(mask))


_PARTS = (
    _Parts(
        re.compile(r"((?:.*\.)?)parametrizations\.(\w+)\.original0"),
        r"\1parametrizations.\2.original1",
        r"\1\2",
        _normalized,
    ),
    _Parts(re.compile(r"(.+)_g"), r"\1_v", r"\1", _normalized),
    _Parts(re.compile(r"(.+)_orig"), r"\1_mask", r"\1", _pruned),
)
