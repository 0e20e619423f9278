"""What a checkpoint says of itself, beside its tensors: step, epoch, metrics."""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from regime_proto.ordering import Label

_STEP_NAMES = ("global_step", "step", "iteration", "iter", "num_updates", "it")
_EPOCH_NAMES = ("epoch", "epochs")


@dataclass(frozen=True)
class NotDense:
    """Stands for a tensor that cannot be an array: a sparse or a quantized one, or one of a dtype of torch's own."""

    kind: str


def label_of(payload: Mapping[str, Any]) -> tuple[Label, dict[str, float]]:
    """Return the label and the metrics in the numbers of `payload`.

    A number under another name than those of steps and epochs is a metric: a loss, a score, a rate.
    """
    numbers = {str(name): float(value) for name, value in payload.items() if _is_number(value)}
    step = next((numbers[name] for name in _STEP_NAMES if name in numbers), None)
    epoch = next((numbers[name] for name in _EPOCH_NAMES if name in numbers), None)
    metrics = {name: value for name, value in numbers.items() if name not in (*_STEP_NAMES, *_EPOCH_NAMES)}
    whole = None if step is None or not math.isfinite(step) else int(step)
    return Label(step=whole, epoch=epoch, metrics=tuple(metrics)), metrics


def parsed(metadata: Mapping[str, str]) -> dict[str, object]:
    """Return metadata of a format that holds strings only, with numbers as numbers, and nothing else."""
    numbers: dict[str, object] = {}
    for name, text in metadata.items():
        with contextlib.suppress(ValueError):
            numbers[name] = int(text) if text.lstrip("-").isdecimal() else float(text)
    return numbers


def _is_number(value: object) -> bool:
    return isinstance(value, Real | np.number) and not isinstance(value, bool | np.bool_)
