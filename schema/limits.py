"""Limits on the resources that a file from elsewhere may use. Each can be raised by an environment variable."""

import os
from dataclasses import dataclass

from regime_proto.schema.errors import RegimeError

PREFIX = "REGIME_LIMIT_"


class TooLarge(RegimeError):
    """A file needs more than a limit allows."""


@dataclass(frozen=True)
class Limit:
    """A bound on a resource that reading a file from elsewhere uses.

    Parameters
    ----------
    name : str
        The environment variable is `PREFIX` followed by this name.
    default : int
    unit : str
        The unit of the limit.
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
        """The current limit.

        Raises
        ------
        RegimeError
            The variable does not hold a positive integer.
        """
        text = os.environ.get(self.variable, "")
        if not text:
            return self.default
        if not (text.isascii() and text.isdigit() and 0 < int(text[:20]) < 2**53):
            raise RegimeError(f"{self.variable}={text[:40]}: expected a positive number ({self.unit})")
        return int(text)

    def advice(self, needed: float | None = None) -> str:
        """Return what to do if the file is trusted and needs more.

        Parameters
        ----------
        needed : float, optional
            The amount that is needed, if known; by default, twice the limit is advised.
        """
        enough = 2 * self.value if needed is None else max(self.value + 1, int(-(-needed // 1)))
        return f"if you trust where it comes from, set {self.variable}={enough} ({self.unit})"

    def hold(self, where: object, found: int, what: str) -> None:
        """Raise an error if `found` is above the limit.

        Parameters
        ----------
        where : object
            The place that the error names.
        found : int
        what : str
            The unit of `found`, in words.

        Raises
        ------
        TooLarge
            `found` is above the limit.
        """
        most = self.value
        if found > most:
            raise TooLarge(
                f"{where}: refused: {found:,} {what}; expected at most {most:,}; if you trust this file, set "
                f"{self.variable}={found}"
            )


INFLATION = Limit("INFLATION", 128, "bytes unpacked for every byte stored")
"""The factor by which a file may grow when it is unpacked, or its tensors by repeating their numbers."""
