"""The names of devices, as users write them."""

import re

from regime_proto.schema.errors import RegimeError

WORDS = ("auto", "cpu", "cuda")
CARD = "cuda:N"
"""The form of a name that selects one of several cards; N counts from 0."""


def is_device(name: object) -> bool:
    """Whether something is the name of a device, whether or not this machine has it."""
    return isinstance(name, str) and (name in WORDS or card_of(name) is not None)


def card_of(name: str) -> int | None:
    """Return the index of the card that a name selects, 0 for ``cuda`` alone; None for other devices."""
    found = re.fullmatch(r"cuda(?::([0-9]{1,4}))?", name)
    return int(found[1] or 0) if found else None


def require_device(name: object) -> None:
    """Raise a RegimeError if something is not the name of a device."""
    if not is_device(name):
        raise RegimeError(f"device {name!r}: expected {', '.join(WORDS)}, or {CARD}, for example cuda:1")
