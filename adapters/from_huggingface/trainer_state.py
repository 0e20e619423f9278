"""Reads the state that the Trainer of transformers stores in its checkpoints, such as ``checkpoint-500/``."""

import re
from pathlib import Path
from typing import Any

from regime_proto.adapters.from_huggingface.config import json_of
from regime_proto.checkpoints.payload import Incomplete, numbers_in

FILE_NAME = "trainer_state.json"

# Trainer.PREFIX_CHECKPOINT_DIR, followed by the step.
_FOLDER = re.compile(r"checkpoint-(\d+)")
_SIGNS = ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state*.pth", "global_step*")
_WHEN = ("step", "epoch")


def facts(folder: Path) -> dict[str, float]:
    """Return step, epoch and the newest value of every score at that step; empty for other folders.

    If the file of the Trainer is missing, the step is determined from the folder's name.

    Raises
    ------
    Incomplete
        The end of the file is missing.
    """
    file = folder / FILE_NAME
    if not file.is_file():
        named = _FOLDER.fullmatch(folder.name)
        return {} if named is None else {"step": float(named[1])}
    state = json_of(file)
    if state is None:
        raise Incomplete(f"{file}: damaged or incomplete (not a JSON object); save it again or remove it")
    numbers = numbers_in(state)
    when = {name: numbers[key] for name, key in (("step", "global_step"), ("epoch", "epoch")) if key in numbers}
    return {**_scores(state.get("log_history"), when.get("step")), **when}


def is_under_way(folder: Path) -> bool:
    """Whether the Trainer is still saving a checkpoint: it writes this file last, also with ``save_only_model``.

    A run from which all of these files were removed counts as complete.
    """
    if _FOLDER.fullmatch(folder.name) is None or (folder / FILE_NAME).is_file():
        return False
    if next(folder.parent.glob(f"checkpoint-*/{FILE_NAME}"), None) is not None:
        return True
    alone = all(other == folder for other in folder.parent.glob("checkpoint-*"))
    return alone and any(next(folder.glob(sign), None) is not None for sign in _SIGNS)


def _scores(history: Any, step: float | None) -> dict[str, float]:
    scores: dict[str, float] = {}
    for entry in history if isinstance(history, list) else ():
        numbers = numbers_in(entry) if isinstance(entry, dict) else {}
        if step is None or numbers.get("step", step) <= step:
            scores |= {name: value for name, value in numbers.items() if name not in _WHEN}
    return scores
