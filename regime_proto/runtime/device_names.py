"""The names of devices, as users write them."""

import re

from regime_proto.schema.errors import RegimeError

WORDS = ("auto", "cpu", "cuda")
CARD = "cuda:N"
"""How a name that chooses one of several cards is written: N counts from 0."""


def is_device(name: object) -> bool:
    """Whether something is the name of a device; whether this machine has it is another question."""
    return isinstance(name, str) and (name in WORDS or card_of(name) is not None)


def card_of(name: str) -> int | None:
    """Return the number of the card that a name means, 0 for ``cuda`` alone; None for other devices."""
    found = re.fullmatch(r"cuda(?::([0-9]{1,4}))?", name)
    return int(found[1] or 0) if found else None


def require_device(name: object) -> None:
    """Raise a RegimeError unless something is the name of a device."""
    if not is_device(name):
        raise RegimeError(f"device {name!r}: expected {', '.join(WORDS)}, or {CARD}, for example cuda:1")
