"""Draws a probe from what yields validation samples."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from regime_proto.schema.errors import RegimeError

from regime_proto.probe import COUNTED, Probe
from regime_proto.source import Array

# What a batch holds for the loss, and models take to compute it.
_TARGETS = ("label", "labels", "label_ids", "targets", "start_positions", "end_positions")
_MASK = "attention_mask"
_WHERE = "the loader"


def draw(forward: Callable[..., Any], loader: Any, samples: int, seed: int) -> Probe:
    """Draw samples at random, without replacement, from a data loader over a dataset; else take the first ones.

    Parameters
    ----------
    forward : callable
        What the samples are passed to.
    loader : object
        With `dataset` and `collate_fn`, as a DataLoader of torch has them; or any iterable of batches.
    samples : int
    seed : int

    Raises
    ------
    RegimeError
        There are fewer samples, or none that `forward` takes.
    """
    dataset = getattr(loader, "dataset", None)
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        batch = _from_dataset(dataset, getattr(loader, "collate_fn", None), samples, seed)
        return _probe(_inputs(batch, forward))
    batches = []
    found = 0
    for batch in loader:
        batches.append(_inputs(batch, forward))
        found += len(next(iter(batches[-1].values())))
        if found >= samples:
            break
    _require(found, samples)
    names = list(batches[0])
    return _probe({name: np.concatenate([batch[name] for batch in batches])[:samples] for name in names})


def _from_dataset(dataset: Any, collate: Callable[[Sequence[Any]], Any] | None, samples: int, seed: int) -> Any:
    _require(len(dataset), samples)
    chosen = np.sort(np.random.default_rng(seed).choice(len(dataset), samples, replace=False))
    items = [dataset[int(index)] for index in chosen]
    if collate is not None:
        return collate(items)
    raise RegimeError(f"{_WHERE}: has a dataset and no collate_fn; give the probe as arrays")


def _require(found: int, samples: int) -> None:
    if found < samples:
        raise RegimeError(f"{_WHERE}: holds {found} samples, and the probe needs {samples}; lower batch_size")


def _inputs(batch: Any, forward: Callable[..., Any]) -> dict[str, Array]:
    """Return the arrays of a batch that `forward` takes, by argument."""
    arguments = [
        argument
        for argument in inspect.signature(forward).parameters.values()
        if argument.kind in (argument.POSITIONAL_ONLY, argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY)
    ]
    if isinstance(batch, Mapping):
        names = [argument.name for argument in arguments if argument.name not in _TARGETS]
        taken = {name: _array(batch[name]) for name in names if name in batch}
        if not taken:
            raise RegimeError(
                f"{_WHERE}: its batches hold {', '.join(map(str, batch))}, and the model takes {', '.join(names)}; "
                "give the probe as arrays"
            )
        return taken
    parts = list(batch) if isinstance(batch, list | tuple) else [batch]
    # Targets follow the inputs.
    required = sum(argument.default is argument.empty for argument in arguments) or 1
    return {argument.name: _array(part) for argument, part in zip(arguments[:required], parts, strict=False)}


def _array(value: Any) -> Array:
    try:
        return np.asarray(value.cpu() if hasattr(value, "cpu") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RegimeError(f"{_WHERE}: {type(value).__name__} is no array ({error}); give the probe as arrays") from None


def _probe(arrays: Mapping[str, Array]) -> Probe:
    """Return a probe; tokens that are masked do not count."""
    named = dict(arrays)
    mask = named.get(_MASK)
    if mask is not None and mask.ndim == 2 and not mask.all():
        named[COUNTED] = mask.astype(bool)
    return Probe(tuple(named.values()), tuple(named), _WHERE)
