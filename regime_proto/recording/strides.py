"""The strides of a recording, and the steps from which they applied."""

import re

STRIDES = "every_strides"
"""Name of the attribute that stores the strides."""

# A trajectory stores them in one attribute, which HDF5 limits to 64 kB.
_MOST = 1000


class Strides:
    """Strides by the step of the observation after which they applied.

    Parameters
    ----------
    text : str
        Strides as stored in a trajectory, such as ``0:4 8:16``, in increasing order of steps. Other forms are ignored.
    until : int, optional
        Step from which the training resumes, if known; later strides are dropped.
    """

    def __init__(self, text: str = "", until: int | None = None) -> None:
        pairs = re.findall(r"(-?\d+):(\d+)", text) if re.fullmatch(r"-?\d+:\d+( -?\d+:\d+)*", text, re.ASCII) else []
        self._held = [(int(step), int(stride)) for step, stride in pairs]
        self._until = until

    @property
    def last(self) -> int | None:
        """The stride that was chosen last."""
        return self._held[-1][1] if self._held else None

    @property
    def text(self) -> str:
        """The strides in the form in which a trajectory stores them."""
        return " ".join(f"{step}:{stride}" for step, stride in self._held)

    def at(self, step: int) -> int | None:
        """Return the stride before an observation; None for the first one, and if no strides were chosen."""
        return next((stride for start, stride in reversed(self._held) if start < step), None)

    def resume(self, step: int) -> bool:
        """Drop the strides from `step` on, the first step of this run; return whether any are left."""
        last = step - 1 if self._until is None else min(step - 1, self._until)
        self._held = [(start, stride) for start, stride in self._held if start <= last]
        return bool(self._held)

    def add(self, step: int, stride: int) -> bool:
        """Add the stride after an observation at `step`; return whether it is a new one."""
        if self.last == stride:
            return False
        self._held.append((step, stride))
        if len(self._held) > _MOST:
            # The first and the newest are kept; the rest follows from the steps of the observations.
            del self._held[1]
        return True
