"""The NVIDIA cards that this process may use."""

import os
import subprocess

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The variable that limits the cards CUDA lets a process use; the first one becomes its ``cuda:0``."""
_SECONDS = 30


def visible_cards() -> list[str]:
    """Return the cards in `VISIBLE`; if it is unset, all that the driver lists."""
    chosen = os.environ.get(VISIBLE)
    names = _listed() if chosen is None else [name.strip() for name in chosen.split(",")]
    # CUDA uses the cards before the first invalid entry: -1 hides the rest.
    ends = (number for number, name in enumerate(names) if not name or name.startswith("-"))
    return names[: next(ends, len(names))]


def _listed() -> list[str]:
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.split() if listed.returncode == 0 else []
