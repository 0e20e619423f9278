"""Which NVIDIA cards this process may use."""

import os
import subprocess

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The variable by which CUDA is told which cards a process may use; the first of them becomes its ``cuda:0``."""
_SECONDS = 30


def visible_cards() -> list[str]:
    """Return the cards, as `VISIBLE` names them: what that says, else all that the driver lists."""
    chosen = os.environ.get(VISIBLE)
    names = _listed() if chosen is None else [name.strip() for name in chosen.split(",")]
    # CUDA takes those before the first that is no card: -1 hides the rest.
    ends = (number for number, name in enumerate(names) if not name or name.startswith("-"))
    return names[: next(ends, len(names))]


def _listed() -> list[str]:
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.split() if listed.returncode == 0 else []
