"""Extracts the model from a nested tree of arrays, the form in which JAX keeps and saves parameters."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from regime_proto.checkpoints.payload import MODEL_KEYS, TOP, NotACheckpoint, Payload, is_other, numbers_in
from regime_proto.schema.dtypes import widest
from regime_proto.schema.types import Array

_PARAMS = "params"
# flax.nnx keeps each array in a variable, and some savers write that extra level.
_VARIABLE = ".value"


def tree_payload(tree: Any) -> Payload:
    """Return a nested tree as a payload that names the model's tensors by their paths (``Dense_0.kernel``).

    If a tree has ``params``, they are the model. Further collections next to them (``batch_stats``)
    belong to the model too; then every name begins with its collection. Any other tree is the model
    as a whole, except for optimizer states and the like. Names omit the keys above the model
    (``model``, ``state``). States of random number generators are left out.

    Parameters
    ----------
    tree : nested dicts, lists and tuples
        Of arrays and numbers.

    Raises
    ------
    NotACheckpoint
        It holds no arrays of a model.
    """
    facts = dict(_numbers(tree))
    others: dict[str, Any] = {}
    parts, ours = _parts(tree)
    while len(ours) == 1 and _leads_to_model(ours[0], parts[ours[0]]):
        others |= {key: part for key, part in parts.items() if key not in ours}
        tree = parts[ours[0]]
        facts |= dict(_numbers(tree))
        parts, ours = _parts(tree)
    others |= {key: part for key, part in parts.items() if key not in ours}
    model = parts[_PARAMS] if ours == [_PARAMS] else {key: parts[key] for key in ours}
    groups = {
        TOP: dict(_tensors(model)),
        **{key: dict(_tensors(part)) for key, part in others.items() if _is_tree(part)},
    }
    if not groups[TOP]:
        raise NotACheckpoint(f"no arrays of a model in it (keys: {', '.join(list(dict(_items(tree)))[:5])})")
    return Payload({key: _without_variables(tensors) for key, tensors in groups.items() if tensors}, numbers_in(facts))


def nested(leaves: Iterable[tuple[Sequence[str], Any]]) -> dict[str, Any]:
    """Return a tree of leaves, each given by its path.

    Raises
    ------
    ValueError
        A path occurs twice, or is a prefix of a different path.
    """
    tree: dict[str, Any] = {}
    for path, leaf in leaves:
        *above, last = path
        level = tree
        for key in above:
            level = level.setdefault(key, {})
            if not isinstance(level, dict):
                raise ValueError(f"{'/'.join(path)!r:.100} is below another array")
        if last in level:
            raise ValueError(f"{'/'.join(path)!r:.100} occurs twice, or has other arrays below it")
        level[last] = leaf
    return tree


def _parts(tree: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the parts with arrays at one level of a tree, and the keys of those that belong to the model."""
    parts = {key: part for key, part in _items(tree) if next(_tensors({key: part}), None) is not None}
    ours = [key for key in parts if not is_other(key)]
    if _PARAMS in ours:
        # Next to params may be collections, random keys, and other weights, such as a target network's.
        ours = [key for key in ours if key == _PARAMS or (_is_tree(parts[key]) and not key.endswith(_PARAMS))]
    return parts, ours


def _leads_to_model(key: str, part: Any) -> bool:
    """Whether the only part of a level is not the model itself but a level above it."""
    inner = [name for name, branch in _items(part) if _is_tree(branch)]
    if key == _PARAMS:
        return _PARAMS in inner
    return bool(inner) and (key in MODEL_KEYS or any(name in MODEL_KEYS for name in inner))


def _tensors(tree: Any, path: str = "") -> Iterator[tuple[str, Array]]:
    """Yield the arrays in a tree by path, including single numbers that are next to arrays."""
    if isinstance(tree, np.ndarray):
        if not _is_random(path, tree):
            yield path, tree
        return
    items = list(_items(tree))
    if any(_is_tree(part) or np.ndim(part) for _, part in items):
        for key, part in items:
            yield from _tensors(part, f"{path}.{key}" if path else key)


def _numbers(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yield the single numbers at one level of a tree, and in branches that hold nothing else."""
    for key, part in _items(tree):
        if isinstance(part, Mapping):
            inner = list(_items(part))
            # Lists are saved as dicts too.
            if not any(_is_tree(value) or np.ndim(value) or name.isdecimal() for name, value in inner):
                yield from _numbers(part)
        elif not _is_tree(part) and np.ndim(part) == 0:
            yield key, _number(part) if isinstance(part, np.ndarray) else part


def _number(array: Array) -> Any:
    # NumPy does not treat bfloat16 values as numbers.
    return (widest(array) if array.dtype.kind == "V" else array)[()]


def _items(tree: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        yield from ((str(key), value) for key, value in tree.items())
    elif isinstance(tree, list | tuple):
        yield from ((str(index), value) for index, value in enumerate(tree))


def _is_tree(part: Any) -> bool:
    return isinstance(part, Mapping | list | tuple)


def _is_random(path: str, array: Array) -> bool:
    """Whether an array is the key or counter of a random number generator (flax.nnx keeps them in the model)."""
    return array.dtype.kind == "u" and any(key.startswith("rng") for key in path.split("."))


def _without_variables(tensors: Mapping[str, Array]) -> dict[str, Array]:
    if all(name.endswith(_VARIABLE) for name in tensors):
        return {name.removesuffix(_VARIABLE): tensor for name, tensor in tensors.items()}
    return dict(tensors)
