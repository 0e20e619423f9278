"""The contents of a checkpoint, and the part that is the model's state: the common last stage of every adapter."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from regime_proto.checkpoints.source import State
from regime_proto.checkpoints.tensor_names import unwrap
from regime_proto.schema.dtypes import is_floating
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

TOP = ""
"""The key for tensors that a checkpoint stores under no key."""

# In order of preference, in lower or upper case; lower-case n_steps is a length of rollouts.
_STEP_NAMES = ("global_step", "step", "iteration", "iter", "iter_num", "num_updates", "step_count", "N_steps", "it")
_EPOCH_NAMES = ("epoch", "epochs", "current_epoch")
# In order of preference; weights averaged over time (EMA) form a separate sequence.
MODEL_KEYS = (
    "model_state_dict", "state_dict", "model", "model_state", "net", "network", "module", "weights", "params",
)  # fmt: skip
_OPTIMIZER = ("optim", "opt_state")
_AVERAGE = "ema"
_NOT_WEIGHTS = (_AVERAGE, "sched", "scaler", "loop", "callback", "rng")
DEEPEST = 4
"""Depth of nested dicts that are searched for tensors."""
# A single number is not a model.
_FEWEST = 2


class NotACheckpoint(RegimeError):
    """A file of the run that holds no model weights; the message says what it is."""


class Incomplete(RegimeError):
    """A checkpoint that is still being written, or is truncated."""


class Inconsistent(RegimeError):
    """The parts of a checkpoint do not belong together."""


@dataclass(frozen=True)
class NotDense:
    """A placeholder for a tensor that cannot be an array: sparse, quantized, or of a dtype that only torch has."""

    kind: str


@dataclass(frozen=True)
class Payload:
    """The contents of a checkpoint.

    Parameters
    ----------
    groups : mapping of str to mapping of str to array
        Tensors, by their key: `TOP` if there is none, ``a.b`` for nested keys. The payload owns the
        arrays; they must not be modified afterwards.
    facts : mapping of str to float
        The numbers stored next to them: step, epoch, metrics.
    instead : str
        A line that tells the user what to do if the wanted weights are missing; empty if unknown.
    """

    groups: Mapping[str, Mapping[str, Array | NotDense]]
    facts: Mapping[str, float] = field(default_factory=dict)
    instead: str = ""


@dataclass(frozen=True)
class Label:
    """The step, epoch and metrics stored in a checkpoint.

    Parameters
    ----------
    step : int, optional
    epoch : float, optional
    metrics : mapping of str to float
    """

    step: int | None = None
    epoch: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


def label_of(facts: Mapping[str, Any]) -> Label:
    """Return step, epoch and metrics from `facts`; entries that are not numbers are ignored.

    A number whose name is neither a step's nor an epoch's is a metric: a loss, a score, a rate.
    """
    numbers = numbers_in(facts)
    # An exact match is preferred to one that differs in case.
    counts = {_counted_name(name): value for name, value in numbers.items()} | numbers
    step = next((counts[name] for name in _STEP_NAMES if name in counts), None)
    epoch = next((counts[name] for name in _EPOCH_NAMES if name in counts), None)
    others = (name for name in numbers if _counted_name(name) not in (*_STEP_NAMES, *_EPOCH_NAMES))
    metrics = {name: numbers[name] for name in others if _is_text(name)}
    whole = None if step is None or not math.isfinite(step) else int(step)
    return Label(whole, epoch, metrics)


def _counted_name(name: str) -> str:
    return name if name in _STEP_NAMES else name.lower()


def numbers_in(facts: Mapping[Any, Any]) -> dict[str, float]:
    """Return the entries of `facts` that are numbers."""
    numbers: dict[str, float] = {}
    for name, value in facts.items():
        # An integer may be larger than any float.
        with contextlib.suppress(OverflowError):
            if _is_number(value):
                numbers[str(name)] = float(value)
    return numbers


def parsed(metadata: Mapping[str, str]) -> dict[str, float]:
    """Return the numbers in the metadata of a format that stores only strings."""
    numbers: dict[str, float] = {}
    for name, text in metadata.items():
        with contextlib.suppress(ValueError):
            numbers[name] = float(text)
    return numbers


def payload_of(content: Mapping[Any, Any]) -> Payload:
    """Return a payload for nested dicts of arrays and numbers, as frameworks save them.

    Raises
    ------
    NotACheckpoint
        It is an optimizer state, or holds no tensors.
    """
    if "param_groups" in content and "state" in content:
        raise NotACheckpoint("an optimizer state")
    groups = dict(_groups(content))
    if not groups:
        raise NotACheckpoint(f"no dict of tensors in it (keys: {', '.join(map(str, list(content)[:5]))})")
    return Payload(groups, numbers_in(content))


def _groups(content: Mapping[Any, Any], prefix: str = TOP, depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    tensors = {str(name): value for name, value in content.items() if isinstance(value, np.ndarray | NotDense)}
    if tensors:
        yield prefix, tensors
    for key, value in content.items():
        if isinstance(value, Mapping) and depth < DEEPEST:
            yield from _groups(value, f"{prefix}.{key}" if prefix else str(key), depth + 1)


def state_of(payload: Payload, where: str, *, weights: str | None = None) -> State:
    """Return the model's state in a payload, under names without wrapper prefixes.

    Parameters
    ----------
    payload : Payload
    where : str
        Named in errors.
    weights : str, optional
        The key or name prefix of the wanted tensors; `TOP` for those under no key. Needed for
        averages (EMA), and if there are several models.

    Raises
    ------
    NotACheckpoint
        It holds no model weights: no floating-point numbers, or only one.
    RegimeError
        Several entries could be meant, no entry has that name, or a tensor is not dense.
    """
    chosen = _default(payload, where) if weights is None else _named(payload, where, weights)
    if _parameters(chosen) < _FEWEST:
        raise NotACheckpoint(payload.instead or _no_weights(payload, where, chosen))
    for name, tensor in chosen.items():
        if isinstance(tensor, NotDense):
            raise RegimeError(f"{where}: tensor {name!r} is {tensor.kind}; expected dense numbers")
    _require_text(chosen, where)
    label = label_of(payload.facts)
    return State(unwrap(chosen, where), math.nan if label.epoch is None else label.epoch, label.metrics)  # type: ignore[arg-type]


def _is_text(name: str) -> bool:
    """Whether a name can be written in UTF-8, without a null character."""
    return "\0" not in name and (name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name))


def _require_text(names: Iterable[str], where: str) -> None:
    """Raise an error if a name cannot be written into a trajectory."""
    for name in names:
        if not _is_text(name):
            raise RegimeError(f"{where}: the name of tensor {name!a:.100} is not valid UTF-8 text; rename the tensor")


def _default(payload: Payload, where: str) -> Mapping[str, Array | NotDense]:
    candidates = [key for key in payload.groups if key != TOP and not is_other(key)]
    named = _under_a_model_key(candidates, payload, where)
    if named is not None:
        return named
    top = _under_no_key(payload, alone=not candidates)
    fronts = sorted({key.partition(".")[0] for key in candidates})
    # Steps and other single numbers may be saved as tensors too.
    models = [front for front in fronts if _has_arrays(_under(front, payload))] or (fronts if not top else [])
    if not models:
        return top
    if not _has_arrays(top):
        return _only(models, payload, where)
    if _parameters(top) < max(_parameters(_under(front, payload)) for front in models):
        raise RegimeError(
            f"{where}: weights under no key ({_listed(list(top))}) and more weights under keys "
            f"({_listed(models)}); choose with --weights {models[0]}, or --weights '' for those "
            "under no key"
        )
    return top


def _under_a_model_key(candidates: list[str], payload: Payload, where: str) -> Mapping[str, Array | NotDense] | None:
    """Return the tensors under the usual key of a model; None if there is no such key."""
    parents = {key.rsplit(".", depth)[0] for key in candidates for depth in range(key.count(".") + 1)}
    levels = sorted(parents, key=lambda key: key.count("."))
    for name in MODEL_KEYS:
        found = [key for key in levels if key.rpartition(".")[2] == name]
        # Deeper matches are part of something else.
        found = [key for key in found if key.count(".") == found[0].count(".")]
        if found:
            return _only(found, payload, where)
    return None


def _parameters(tensors: Mapping[str, Array | NotDense]) -> int:
    """Return the number of trainable values; a tensor that is not dense counts too, and is refused by name later."""
    return sum(
        _FEWEST if isinstance(tensor, NotDense) else tensor.size
        for tensor in tensors.values()
        if isinstance(tensor, NotDense) or is_floating(tensor.dtype.name)
    )


def _has_arrays(tensors: Mapping[str, Array | NotDense]) -> bool:
    """Whether any of the tensors is a weight other than a single number."""
    return any(
        isinstance(tensor, NotDense) or (tensor.ndim and _parameters({"": tensor})) for tensor in tensors.values()
    )


def _no_weights(payload: Payload, where: str, chosen: Mapping[str, Array | NotDense]) -> str:
    keys = [key for key in payload.groups if key != TOP]
    average = next((key for key in keys if _AVERAGE in key.lower() and not is_optimizer(key)), None)
    if average is not None and not chosen:
        return f"{where}: the only weights in it are an average; to read that, give --weights {average}"
    held = _listed([f"{name} ({_spelled(tensor)})" for name, tensor in chosen.items()]) or "nothing"
    beside = f"; it holds the keys {_listed(keys)}; choose one with --weights KEY" if keys else ""
    return f"{where}: no model weights in it, only {held}{beside}"


def _spelled(tensor: Array | NotDense) -> str:
    return tensor.kind if isinstance(tensor, NotDense) else f"{tensor.dtype.name}{list(tensor.shape)}"


def is_optimizer(key: str) -> bool:
    """Whether a key holds an optimizer state."""
    return key == "opt" or any(word in key.lower() for word in _OPTIMIZER)


def is_other(key: str) -> bool:
    """Whether a key holds something other than a model: an optimizer state, an average, or the like."""
    return is_optimizer(key) or any(word in key.lower() for word in _NOT_WEIGHTS)


def _only(keys: list[str], payload: Payload, where: str) -> dict[str, Array | NotDense]:
    if len(keys) > 1:
        raise RegimeError(
            f"{where}: weights under several keys ({_listed(keys)}); choose one, for example --weights {keys[0]}"
        )
    return _under(keys[0], payload)


def _named(payload: Payload, where: str, weights: str) -> Mapping[str, Array | NotDense]:
    found = payload.groups.get(TOP) if weights == TOP else _under(weights, payload)
    if found:
        return found
    if payload.instead:
        raise RegimeError(payload.instead)
    keys = list(dict.fromkeys(key.partition(".")[0] for key in payload.groups if key != TOP))
    fronts = sorted({name.partition(".")[0] for tensors in payload.groups.values() for name in tensors})
    held = [f"the keys {_listed(keys)}"] if keys else []
    held += [f"names that begin with {_listed(fronts)}"]
    raise RegimeError(f"{where}: no weights under {weights!r}; it holds {' and '.join(held)}")


def _under(key: str, payload: Payload) -> dict[str, Array | NotDense]:
    """Return the tensors under a key, or whose names begin with it, with the key removed."""
    front = f"{key}."
    return {
        full.removeprefix(front): tensor
        for group, tensors in payload.groups.items()
        for name, tensor in tensors.items()
        if (full := f"{group}.{name}" if group else name).startswith(front)
    }


def _under_no_key(payload: Payload, *, alone: bool) -> dict[str, Array | NotDense]:
    """Return the tensors under no key that may be weights."""
    top = payload.groups.get(TOP, {})
    # Next to dicts of tensors there may be a single tensor, such as the state of a random number generator.
    return {name: tensor for name, tensor in top.items() if alone or not is_other(name)}


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")


def _is_number(value: object) -> bool:
    return isinstance(value, Real | np.number) and not isinstance(value, bool | np.bool_)
