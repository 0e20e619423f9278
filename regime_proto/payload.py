"""What a checkpoint holds, and which part of it is the model's state: the one funnel behind every adapter."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from regime_proto.names import unwrap
from regime_proto.schema.errors import RegimeError
from regime_proto.source import Array, State

TOP = ""
"""The key of tensors that lie in a checkpoint under no key."""

_STEP_NAMES = ("global_step", "step", "iteration", "iter", "num_updates", "it")
_EPOCH_NAMES = ("epoch", "epochs")
# In the order of preference; weights averaged over time (EMA) are another sequence.
MODEL_KEYS = (
    "model_state_dict", "state_dict", "model", "model_state", "net", "network", "module", "weights", "params",
)  # fmt: skip
_OPTIMIZER = ("optim", "opt_state")
_NOT_WEIGHTS = ("ema", "sched", "scaler", "loop", "callback", "rng")
DEEPEST = 4
"""How many dicts within one another are looked at for tensors."""


class NotACheckpoint(RegimeError):
    """A file of the run that holds no model weights; the message says what it is."""


class Incomplete(RegimeError):
    """A checkpoint that is still being written, or was cut off."""


class Inconsistent(RegimeError):
    """The parts of a checkpoint do not belong together."""


@dataclass(frozen=True)
class NotDense:
    """Stands for a tensor that cannot be an array: a sparse or a quantized one, or one of a dtype of torch's own."""

    kind: str


@dataclass(frozen=True)
class Payload:
    """What a checkpoint holds.

    Parameters
    ----------
    groups : mapping of str to mapping of str to array
        Tensors, by the key under which they lie: `TOP` where there is none, ``a.b`` for keys within keys. The arrays
        belong to the payload: nobody writes to them afterwards.
    facts : mapping of str to float
        The numbers beside them: step, epoch, metrics.
    """

    groups: Mapping[str, Mapping[str, Array | NotDense]]
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Label:
    """What a checkpoint says of itself.

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
    """Return what the numbers in `facts` say; what is no number is passed over.

    A number under another name than those of steps and epochs is a metric: a loss, a score, a rate.
    """
    numbers = numbers_in(facts)
    step = next((numbers[name] for name in _STEP_NAMES if name in numbers), None)
    epoch = next((numbers[name] for name in _EPOCH_NAMES if name in numbers), None)
    others = (name for name in numbers if name not in (*_STEP_NAMES, *_EPOCH_NAMES))
    metrics = {name: numbers[name] for name in others if _is_text(name)}
    whole = None if step is None or not math.isfinite(step) else int(step)
    return Label(whole, epoch, metrics)


def numbers_in(facts: Mapping[Any, Any]) -> dict[str, float]:
    """Return the entries of `facts` that are numbers."""
    numbers: dict[str, float] = {}
    for name, value in facts.items():
        # A whole number may be larger than any float.
        with contextlib.suppress(OverflowError):
            if _is_number(value):
                numbers[str(name)] = float(value)
    return numbers


def parsed(metadata: Mapping[str, str]) -> dict[str, float]:
    """Return the numbers in metadata of a format that holds strings only."""
    numbers: dict[str, float] = {}
    for name, text in metadata.items():
        with contextlib.suppress(ValueError):
            numbers[name] = float(text)
    return numbers


def payload_of(content: Mapping[Any, Any]) -> Payload:
    """Return nested dicts of arrays and numbers, as frameworks save them, as a payload.

    Raises
    ------
    NotACheckpoint
        It is an optimizer's, or holds no tensors.
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
    """Return the model's state in a payload, under names free of wrapper prefixes.

    Parameters
    ----------
    payload : Payload
    where : str
        Named in errors.
    weights : str, optional
        The key, or the front of the names, of the tensors that are meant; needed for averages (EMA), and where
        there are several models.

    Raises
    ------
    NotACheckpoint
        There are no tensors of a model.
    RegimeError
        More than one entry could be meant, there is none of that name, or a tensor is not dense.
    """
    chosen = _default(payload, where) if weights is None else _named(payload, where, weights)
    for name, tensor in chosen.items():
        if isinstance(tensor, NotDense):
            raise RegimeError(f"{where}: tensor {name!r} is {tensor.kind}; expected dense numbers")
    _require_text(chosen, where)
    label = label_of(payload.facts)
    return State(unwrap(chosen, where), math.nan if label.epoch is None else label.epoch, label.metrics)  # type: ignore[arg-type]


def _is_text(name: str) -> bool:
    """Whether a name can be written in UTF-8, without a character that ends it."""
    return "\0" not in name and (name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name))


def _require_text(names: Iterable[str], where: str) -> None:
    """Raise an error if a name cannot be written into a trajectory."""
    for name in names:
        if not _is_text(name):
            raise RegimeError(f"{where}: the name of tensor {name!a:.100} is no text in UTF-8; rename it")


def _default(payload: Payload, where: str) -> Mapping[str, Array | NotDense]:
    candidates = [key for key in payload.groups if key != TOP and not is_other(key)]
    # Beside dicts of tensors a single one may lie, such as the state of a random number generator.
    top = payload.groups.get(TOP, {})
    top = {name: tensor for name, tensor in top.items() if not candidates or not is_other(name)}
    if not candidates and not top:
        raise NotACheckpoint(f"no tensors of a model in it (keys: {_listed(list(payload.groups))})")
    parents = {key.rsplit(".", depth)[0] for key in candidates for depth in range(key.count(".") + 1)}
    levels = sorted(parents, key=lambda key: key.count("."))
    for name in MODEL_KEYS:
        found = [key for key in levels if key.rpartition(".")[2] == name]
        # What lies deeper is part of something else.
        found = [key for key in found if key.count(".") == found[0].count(".")]
        if found:
            return _only(found, payload, where)
    return top or _only(sorted({key.partition(".")[0] for key in candidates}), payload, where)


def is_optimizer(key: str) -> bool:
    """Whether what lies under a key is an optimizer's state."""
    return key == "opt" or any(word in key.lower() for word in _OPTIMIZER)


def is_other(key: str) -> bool:
    """Whether what lies under a key is no model: an optimizer's state, an average, or the like."""
    return is_optimizer(key) or any(word in key.lower() for word in _NOT_WEIGHTS)


def _only(keys: list[str], payload: Payload, where: str) -> dict[str, Array | NotDense]:
    if len(keys) > 1:
        raise RegimeError(
            f"{where}: weights under several keys ({_listed(keys)}); say which are meant: --weights {keys[0]}"
        )
    return _under(keys[0], payload)


def _named(payload: Payload, where: str, weights: str) -> Mapping[str, Array | NotDense]:
    found = _under(weights, payload)
    if found:
        return found
    keys = list(dict.fromkeys(key.partition(".")[0] for key in payload.groups if key != TOP))
    fronts = sorted({name.partition(".")[0] for tensors in payload.groups.values() for name in tensors})
    held = [f"the keys {_listed(keys)}"] if keys else []
    held += [f"names that begin with {_listed(fronts)}"]
    raise RegimeError(f"{where}: no weights under {weights!r}; it holds {' and '.join(held)}")


def _under(key: str, payload: Payload) -> dict[str, Array | NotDense]:
    """Return the tensors under a key, or whose names begin with it, without it."""
    front = f"{key}."
    return {
        full.removeprefix(front): tensor
        for group, tensors in payload.groups.items()
        for name, tensor in tensors.items()
        if (full := f"{group}.{name}" if group else name).startswith(front)
    }


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")


def _is_number(value: object) -> bool:
    return isinstance(value, Real | np.number) and not isinstance(value, bool | np.bool_)
