"""Draws a probe from a loader of validation samples."""

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

# Entries of a batch for the loss, which models may accept to compute it.
_TARGETS = ("label", "labels", "label_ids", "targets", "start_positions", "end_positions")
_MASK = "attention_mask"
_WHERE = "the loader"


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Restore random states of the host, also torch's: reading data or exporting a model may draw random numbers."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    # torch's data loaders are used with other frameworks too.
    torch = sys.modules.get("torch")
    with contextlib.nullcontext() if torch is None else torch.random.fork_rng([]):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def draw(forward: Callable[..., Any] | Sequence[str], loader: Any, samples: int, seed: int) -> Probe:
    """Draw samples at random, without replacement, from a data loader with a dataset; otherwise use the first samples.

    Parameters
    ----------
    forward : callable or sequence of str
        The function that receives the samples, or the names of its inputs.
    loader : object
        An object with `dataset` and `collate_fn`, such as a torch DataLoader; or any iterable of batches.
    samples : int
        Number of samples.
    seed : int
        Random seed.

    Returns
    -------
    Probe

    Raises
    ------
    RegimeError
        There are fewer samples, or `forward` does not accept them.
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
    raise RegimeError(f"{_WHERE}: has a dataset but no collate_fn; pass the probe as arrays")


def _require(found: int, samples: int) -> None:
    if found < samples:
        raise RegimeError(
            f"{_WHERE}: holds {counted(found, 'sample')}, but the probe needs {samples}; lower batch_size"
        )


def _arguments(forward: Callable[..., Any] | Sequence[str]) -> dict[str, bool]:
    """Return the names of the arguments, and whether each is required."""
    if not callable(forward):
        return dict.fromkeys(forward, True)
    return {
        argument.name: argument.default is argument.empty
        for argument in inspect.signature(forward).parameters.values()
        if argument.kind in (argument.POSITIONAL_ONLY, argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY)
    }


def _inputs(batch: Any, arguments: Mapping[str, bool]) -> dict[str, Array]:
    """Return the arrays of a batch that the model accepts, by argument."""
    if isinstance(batch, Mapping):
        names = [name for name in arguments if name not in _TARGETS]
        taken = {name: _array(batch[name]) for name in names if name in batch}
        if not taken:
            raise RegimeError(
                f"{_WHERE}: its batches hold {', '.join(map(str, batch))}, but the model expects {', '.join(names)}; "
                "pass the probe as arrays"
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
        raise RegimeError(
            f"{_WHERE}: {type(value).__name__} is not an array ({error}); pass the probe as arrays"
        ) from None
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        raise RegimeError(
            f"{_WHERE}: {array.dtype}{list(array.shape)} is not a batch of numbers; pass the probe as arrays"
        )
    return array


def _probe(arrays: Mapping[str, Array]) -> Probe:
    """Return a probe, in which masked tokens do not count."""
    named = dict(arrays)
    mask = named.get(_MASK)
    if mask is not None and mask.ndim == 2 and not mask.all():
        named[COUNTED] = mask.astype(bool)
    return Probe(tuple(named.values()), tuple(named), _WHERE)
