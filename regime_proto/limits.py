"""How much a file of unknown origin may ask for.

A file is measured against these before it is read. Each can be raised by an environment variable.
"""

import os
from dataclasses import dataclass

from regime_proto.schema.errors import RegimeError

_PREFIX = "REGIME_LIMIT_"

ALWAYS_ALLOWED_BYTES = 2**26
"""What any file may expand to, however small it is."""


class TooLarge(RegimeError):
    """A file asks for more than a limit allows."""


@dataclass(frozen=True)
class Limit:
    """A limit on files.

    Parameters
    ----------
    name : str
        In capitals: the environment variable is ``REGIME_LIMIT_<NAME>``.
    default : int
    """

    name: str
    default: int

    @property
    def variable(self) -> str:
        """The environment variable that overrides the default."""
        return f"{_PREFIX}{self.name}"

    @property
    def value(self) -> int:
        """The limit that holds.

        Raises
        ------
        RegimeError
            The variable is set to something that is no positive whole number.
        """
        text = os.environ.get(self.variable)
        if text is None:
            return self.default
        if not text.isascii() or not text.isdecimal() or not 0 < len(text) < 19:
            raise RegimeError(f"{self.variable}={text[:40]!r}: expected a whole number, for example {self.default}")
        return int(text)

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


DESCRIPTION_BYTES = Limit("DESCRIPTION_BYTES", 2**26)
"""Bytes of a JSON text, and of a pickle without its tensors."""

DESCRIPTION_VALUES = Limit("DESCRIPTION_VALUES", 4_000_000)
"""Values in a JSON text, a msgpack or an ONNX file. The index of a model of 1,000 shards has some 100,000."""

OPCODES = Limit("OPCODES", 1_500_000)
"""Opcodes of a pickle without its tensors. torch writes some 45 a tensor."""

ENTRIES = Limit("ENTRIES", 200_000)
"""Entries of a zip archive. torch writes one a tensor."""

INFLATION = Limit("INFLATION", 100)
"""How many times its size a file may unpack to, or its tensors may have by repeating their numbers."""

LAYERS = Limit("LAYERS", 10_000)
"""A config's numbers of layers, blocks, stages and experts."""

LABELS = Limit("LABELS", 1_000_000)
"""A config's number of classes."""

NODES = Limit("NODES", 100_000)
"""Nodes, initializers and other parts of an ONNX graph, its subgraphs included."""


def hold_inflation(where: object, unpacked: int, stored: int) -> None:
    """Raise an error if a file of `stored` bytes would take `unpacked` bytes of memory, and that is not credible.

    Raises
    ------
    TooLarge
        It is not.
    """
    if unpacked > max(ALWAYS_ALLOWED_BYTES, INFLATION.value * stored):
        times = -(-unpacked // max(stored, 1))
        raise TooLarge(
            f"{where}: refused: {stored:,} that unpack to {unpacked:,} bytes; expected {INFLATION.value} times as many "
            f"at most; if you trust this file, set {INFLATION.variable}={times}"
        )
