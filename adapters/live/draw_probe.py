"""Draws a probe from what yields validation samples."""

import contextlib
import inspect
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from regime_proto.program.probe import COUNTED, Probe
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array
from regime_proto.schema.words import counted

# What a batch holds for the loss, and models take to compute it.
_TARGETS = ("label", "labels", "label_ids", "targets", "start_positions", "end_positions")
_MASK = "attention_mask"
_WHERE = "the loader"


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Put the random states of the host back, torch's too: whatever reads data or exports a model may draw numbers."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    # Its data loaders are used with other frameworks too.
    torch = sys.modules.get("torch")
    with contextlib.nullcontext() if torch is None else torch.random.fork_rng([]):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def draw(forward: Callable[..., Any] | Sequence[str], loader: Any, samples: int, seed: int) -> Probe:
    """Draw samples at random, without replacement, from a data loader over a dataset; else take the first ones.

    Parameters
    ----------
    forward : callable or sequence of str
        What the samples are passed to, or the names of the inputs.
    loader : object
        With `dataset` and `collate_fn`, as a DataLoader of torch has them; or any iterable of batches.
    samples : int
    seed : int

    Raises
    ------
    RegimeError
        There are fewer samples, or none that `forward` takes.
    """
    arguments = _arguments(forward)
    dataset = getattr(loader, "dataset", None)
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        batch = _from_dataset(dataset, getattr(loader, "collate_fn", None), samples, seed)
        return _probe(_inputs(batch, arguments))
    batches = []
    found = 0
    for batch in loader:
        batches.append(_inputs(batch, arguments))
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
        raise RegimeError(
            f"{_WHERE}: holds {counted(found, 'sample')}, and the probe needs {samples}; lower batch_size"
        )


def _arguments(forward: Callable[..., Any] | Sequence[str]) -> dict[str, bool]:
    """Return the names of what may be passed, and of each whether it must be."""
    if not callable(forward):
        return dict.fromkeys(forward, True)
    return {
        argument.name: argument.default is argument.empty
        for argument in inspect.signature(forward).parameters.values()
        if argument.kind in (argument.POSITIONAL_ONLY, argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY)
    }


def _inputs(batch: Any, arguments: Mapping[str, bool]) -> dict[str, Array]:
    """Return the arrays of a batch that the model takes, by argument."""
    if isinstance(batch, Mapping):
        names = [name for name in arguments if name not in _TARGETS]
        taken = {name: _array(batch[name]) for name in names if name in batch}
        if not taken:
            raise RegimeError(
                f"{_WHERE}: its batches hold {', '.join(map(str, batch))}, and the model takes {', '.join(names)}; "
                "give the probe as arrays"
            )
        return taken
    parts = list(batch) if isinstance(batch, list | tuple) else [batch]
    if parts and isinstance(parts[0], Mapping | list | tuple):
        # Several inputs, before the targets.
        return _inputs(parts[0], arguments)
    # Targets follow the inputs.
    required = sum(arguments.values()) or 1
    return {name: _array(part) for name, part in zip(list(arguments)[:required], parts, strict=False)}


def _array(value: Any) -> Array:
    try:
        array = np.asarray(value.cpu() if hasattr(value, "cpu") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RegimeError(f"{_WHERE}: {type(value).__name__} is no array ({error}); give the probe as arrays") from None
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        raise RegimeError(
            f"{_WHERE}: {array.dtype}{list(array.shape)} is no batch of numbers; give the probe as arrays"
        )
    return array


def _probe(arrays: Mapping[str, Array]) -> Probe:
    """Return a probe; tokens that are masked do not count."""
    named = dict(arrays)
    mask = named.get(_MASK)
    if mask is not None and mask.ndim == 2 and not mask.all():
        named[COUNTED] = mask.astype(bool)
    return Probe(tuple(named.values()), tuple(named), _WHERE)
