"""The strides of a recording, and the steps from which they held."""

import re

STRIDES = "every_strides"
"""The attribute that says them."""

# A trajectory says them in one attribute, which HDF5 limits to 64 kB.
_MOST = 1000


class Strides:
    """Strides by the step of the observation after which they held.

    Parameters
    ----------
    text : str
        As a trajectory has them: ``0:4 8:16``, steps in increasing order. Anything else is ignored.
    until : int, optional
        The step from which the training goes on, if it is known: strides from later ones are dropped.
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
        """What a trajectory says."""
        return " ".join(f"{step}:{stride}" for step, stride in self._held)

    def at(self, step: int) -> int | None:
        """Return the stride that led to an observation; None for the first one, and where nobody chose strides."""
        return next((stride for start, stride in reversed(self._held) if start < step), None)

    def resume(self, step: int) -> bool:
        """Drop what held from `step` on, the first one of this run; return whether anything is left."""
        last = step - 1 if self._until is None else min(step - 1, self._until)
        self._held = [(start, stride) for start, stride in self._held if start <= last]
        return bool(self._held)

    def add(self, step: int, stride: int) -> bool:
        """Note the stride after an observation at `step`; return whether it is a new one."""
        if self.last == stride:
            return False
        self._held.append((step, stride))
        if len(self._held) > _MOST:
            # The first and the newest are kept; the steps of the observations tell the rest.
            del self._held[1]
        return True
