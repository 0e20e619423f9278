"""Policies for the observations that keep their masks; flips and deltas are always complete."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from regime_proto.schema.errors import RegimeError

# `auto` keeps all masks if the file is expected to stay below this size, and thins them otherwise.
AUTO_BYTES = 2 * 10**9


@dataclass(frozen=True)
class MaskPolicy:
    """The observations whose masks are stored: number 0, `every`, 2 · `every` and so on.

    Parameters
    ----------
    every : int
        0 for none.
    """

    every: int = 1

    def __str__(self) -> str:
        return {0: "none", 1: "all"}.get(self.every, f"every={self.every}")

    def keeps(self, number: int) -> bool:
        """Whether the masks of observation `number` are stored."""
        return self.every > 0 and number % self.every == 0

    def chosen(self, steps: NDArray[Any], first: int = 0) -> NDArray[Any]:
        """Return those of `steps` that keep their masks; the first step is that of observation number `first`."""
        return steps[-first % self.every :: self.every] if self.every else steps[:0]

    def count(self, observations: int) -> int:
        """Return how many of `observations` observations keep their masks."""
        return -(-observations // self.every) if self.every else 0

    def holds(self, other: "MaskPolicy") -> bool:
        """Whether this policy keeps every observation that `other` keeps."""
        return other.every == 0 or (self.every > 0 and other.every % self.every == 0)


ALL = MaskPolicy()


def parse_policy(text: str) -> MaskPolicy:
    """Return the policy for the text ``all``, ``every=N`` or ``none``.

    Raises
    ------
    RegimeError
        The text has a different form.
    """
    name, _, number = text.partition("=")
    if name == "every" and number.isascii() and number.isdigit() and int(number):
        return MaskPolicy(int(number))
    if text not in ("all", "none"):
        raise RegimeError(f"masks {text!r}: expected all, every=N or none; for a conversion also auto")
    return MaskPolicy(1 if text == "all" else 0)


def policy_of(attributes: Mapping[str, Any]) -> MaskPolicy:
    """Return the policy in the root attributes of a trajectory."""
    return parse_policy(attributes.get("mask_policy", str(ALL)))


def fitting_policy(fixed: int, masks: int) -> MaskPolicy:
    """Return the policy that stays below `AUTO_BYTES`: all masks, or evenly thinned ones.

    Parameters
    ----------
    fixed : int
        Size of the file without masks, in bytes.
    masks : int
        Size of the masks of all observations, in bytes.
    """
    room = max(1, AUTO_BYTES - fixed)
    return MaskPolicy(max(1, -(-masks // room)))
