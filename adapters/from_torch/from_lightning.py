"""Reads the checkpoints of Lightning (``.ckpt``): torch files that hold the whole state of a trainer."""

from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from regime_proto.adapters.from_torch import adapter as from_torch
from regime_proto.checkpoints.opening import open_file
from regime_proto.checkpoints.payload import Label, Payload, label_of, payload_of

SUFFIXES = (".ckpt",)
REFINES = ("torch",)

# Lightning writes this key early, and torch writes the pickle at the start of a file.
_VERSION = b"pytorch-lightning_version"
_LOOKED_AT = 2**16
# Key under which the callback WeightAveraging stores the trained weights; the usual key then holds their average.
_USUAL, _CURRENT, _AVERAGE = "state_dict", "current_model_state", "average"


sniff = from_torch.sniff


def recognise(path: Path) -> str | None:
    """Recognise a file by Lightning's version in its pickle."""
    if not path.is_file():
        return None
    with open_file(path) as file:
        return "Lightning's version in the file" if _VERSION in file.read(_LOOKED_AT) else None


def peek(path: Path) -> Label:
    """Return step, epoch and the monitored scores."""
    content = from_torch.load(path)
    return label_of({**payload_of(content).facts, **_scores(content)})


def read(path: Path) -> Payload:
    """Read a checkpoint. Returns the trained weights; averages are read on request, with the key ``average``."""
    content = from_torch.load(path)
    payload = payload_of(content)
    groups = dict(payload.groups)
    if _CURRENT in groups and _USUAL in groups:
        groups[_AVERAGE], groups[_USUAL] = groups[_USUAL], groups.pop(_CURRENT)
    return Payload(groups, {**payload.facts, **_scores(content)})


def read_lazily(path: Path) -> Payload:
    """Read a checkpoint as `read` does, but require a file that can be mapped into memory."""
    from_torch.require_mapped(path)
    return read(path)


def _scores(content: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that callbacks monitor, such as ``val_loss``, at the time the checkpoint was saved."""
    callbacks = content.get("callbacks")
    states = callbacks.values() if isinstance(callbacks, Mapping) else ()
    scores: dict[str, float] = {}
    for state in states:
        if isinstance(state, Mapping) and isinstance(state.get("monitor"), str):
            score = state.get("current_score")
            # A number, or a tensor of one element.
            if isinstance(score, Real) or getattr(score, "shape", None) == ():
                scores[state["monitor"]] = float(score)  # type: ignore[arg-type]
    return scores
