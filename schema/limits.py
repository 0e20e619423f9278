"""Limits on what a file from elsewhere may cost; an environment variable raises each of them."""

import os
from dataclasses import dataclass

from regime_proto.schema.errors import RegimeError

PREFIX = "REGIME_LIMIT_"


class TooLarge(RegimeError):
    """A file asks for more than a limit allows."""


@dataclass(frozen=True)
class Limit:
    """One number that bounds what reading a file from elsewhere may take.

    Parameters
    ----------
    name : str
        The environment variable is `PREFIX` and this name.
    default : int
    unit : str
        What is counted.
    """

    name: str
    default: int
    unit: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return PREFIX + self.name

    @property
    def value(self) -> int:
        """The limit now in force.

        Raises
        ------
        RegimeError
            The variable holds no positive integer.
        """
        text = os.environ.get(self.variable, "")
        if not text:
            return self.default
        if not (text.isascii() and text.isdigit() and 0 < int(text[:20]) < 2**53):
            raise RegimeError(f"{self.variable}={text[:40]}: expected a positive number ({self.unit})")
        return int(text)

    def advice(self, needed: float | None = None) -> str:
        """Return what to do for a file that is trusted and needs more.

        Parameters
        ----------
        needed : float, optional
            What is needed, where that is known; else twice as much is advised.
        """
        enough = 2 * self.value if needed is None else max(self.value + 1, int(-(-needed // 1)))
        return f"if you trust where it comes from, set {self.variable}={enough} ({self.unit})"

    def hold(self, where: object, found: int, what: str) -> None:
        """Raise an error if `found` is above the limit.

        Parameters
        ----------
        where : object
            Named in the error.
        found : int
        what : str
            What is counted, in words.

        Raises
        ------
        TooLarge
            It is.
        """
        most = self.value
        if found > most:
            raise TooLarge(
                f"{where}: refused: {found:,} {what}; expected {most:,} at most; if you trust this file, set "
                f"{self.variable}={found}"
            )


INFLATION = Limit("INFLATION", 128, "bytes unpacked for every byte stored")
"""How many times its size a file may unpack to, or its tensors may have by repeating their numbers."""
