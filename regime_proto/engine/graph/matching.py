"""Brings the names in a checkpoint to those of a program: prefixes of trainers, weights saved in two parts."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from regime_proto.source import Array, widest


@dataclass(frozen=True)
class _Parts:
    """A weight that is saved as two tensors."""

    first: re.Pattern[str]
    second: str
    whole: str
    join: Callable[[Array, Array], Array]


def matched(tensors: Mapping[str, Array], known: Collection[str]) -> Mapping[str, Array]:
    """Return `tensors` under the names that a program knows, as far as they can be brought to them.

    Parameters
    ----------
    tensors : mapping of str to array
    known : collection of str
        Names and aliases of the program's tensors.
    """
    if all(name in known for name in tensors):
        return tensors
    return _joined(_without_prefix(tensors, known), known)


def _without_prefix(tensors: Mapping[str, Array], known: Collection[str]) -> Mapping[str, Array]:
    """Take off the attribute under which a trainer keeps the model (``model.``), if every tensor has it."""
    names = [*tensors, *_wholes(tensors)]
    if not names or any(name in known for name in names):
        return tensors
    for dot in [index for index, letter in enumerate(names[0]) if letter == "."]:
        prefix = names[0][: dot + 1]
        if all(name.startswith(prefix) for name in names) and any(name.removeprefix(prefix) in known for name in names):
            return {name.removeprefix(prefix): array for name, array in tensors.items()}
    return tensors


def _joined(tensors: Mapping[str, Array], known: Collection[str]) -> Mapping[str, Array]:
    """Compute the weights that the program has whole and the checkpoint in two parts."""
    joined = dict(tensors)
    for whole, (first, second, join) in _wholes(tensors).items():
        if whole in known and first not in known:
            joined[whole] = join(joined.pop(first), joined.pop(second))
    return joined


def _wholes(tensors: Collection[str]) -> dict[str, tuple[str, str, Callable[[Array, Array], Array]]]:
    """Return the weights that are saved in two parts: the names of these, and what joins them."""
    found = {}
    for name in tensors:
        for parts in _PARTS:
            match = parts.first.fullmatch(name)
            if match is not None and match.expand(parts.second) in tensors:
                found[match.expand(parts.whole)] = name, match.expand(parts.second), parts.join
    return {whole: parts for whole, parts in found.items() if whole not in tensors}


def _normalized(norm: Array, direction: Array) -> Array:
    """Return g · v / ‖v‖ (Salimans and Kingma, 2016); the norm is over the axes along which there is one g."""
    norm, direction = widest(norm), widest(direction)
    axes = tuple(axis for axis in range(direction.ndim) if norm.ndim == 0 or norm.shape[axis] == 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled: Array = direction * (norm / np.sqrt(np.square(direction).sum(axis=axes, keepdims=True)))
    return scaled


def _pruned(weights: Array, mask: Array) -> Array:
    """Return weights of which the mask leaves out some."""
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
