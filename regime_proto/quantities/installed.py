"""Finds the quantities, built in or third-party, through the entry-point group ``regime_proto.quantities``."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.metadata import entry_points

from regime_proto.quantities.base import (
    FINGERPRINT,
    FROZEN,
    INTERIOR,
    MASKS,
    OUTPUTS,
    PREACTIVATIONS,
    WEIGHTS,
    Quantity,
)
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.layout import BY_NAME, WEIGHT_DISTANCE
from regime_proto.schema.nearest import did_you_mean
from regime_proto.schema.types import as_tuple

GROUP = "regime_proto.quantities"

GROUPS: dict[str, Callable[[Quantity], bool]] = {
    "all": lambda _: True,
    "weights": lambda quantity: quantity.needs == (WEIGHTS,),
    "patterns": lambda quantity: set(quantity.needs) <= {MASKS, PREACTIVATIONS, INTERIOR},
    "function": lambda quantity: (
        not {OUTPUTS, FINGERPRINT, FROZEN}.isdisjoint(quantity.needs)
        # Between neighbouring observations, the part due to patterns is of second order.
        and not (FROZEN in quantity.needs and quantity.against == "previous")
    ),
}
"""Names that select several quantities at once."""


@cache
def known_quantities() -> dict[str, Quantity]:
    """Return the quantities by name. A quantity that cannot be used is left out, with a warning."""
    found: dict[str, Quantity] = {}
    # Those of this distribution come first, so that no other quantity can take one of their names.
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (not _is_ours(entry.value), entry.name)):
        try:
            quantity = entry.load()
            _check(quantity, found, is_ours=_is_ours(entry.value))
            found[quantity.name] = quantity
        except Exception as error:
            warnings.warn(
                f"quantity {entry.name!r} ({entry.value}) is ignored: {type(error).__name__}: {error}",
                RegimeWarning,
                stacklevel=2,
            )
    return found


def _is_ours(value: str) -> bool:
    return value.startswith("regime_proto.")


def _check(quantity: object, found: dict[str, Quantity], *, is_ours: bool) -> None:
    if not isinstance(quantity, Quantity):
        raise TypeError(f"expected a regime_proto.quantities.base.Quantity, found {type(quantity).__name__}")
    if quantity.name in GROUPS or quantity.name in found or (not is_ours and quantity.name in BY_NAME):
        raise ValueError(f"the name {quantity.name!r} is already taken")
    if not is_ours and quantity.is_built_in:
        raise ValueError("found neither compute nor term; expected one of them")


def asked_for(measure: str | Iterable[str], *, distance: bool) -> tuple[str, ...]:
    """Return the names in ``measure=``, and the one that ``distance=True`` adds."""
    names = as_tuple(measure, "measure")
    return (*names, WEIGHT_DISTANCE.name) if distance else names


def possible(
    names: Sequence[str],
    obstacle: Callable[[Quantity], str],
    *,
    tell: str = "",
    among: Sequence[Quantity] | None = None,
) -> tuple[Quantity, ...]:
    """Choose quantities; those of a group are left out if they cannot be measured.

    Parameters
    ----------
    names : sequence of str
        As in `choose`.
    obstacle : callable
        Returns why a quantity cannot be measured, in words; an empty text if it can.
    tell : str, optional
        The start of the warning about quantities that are left out; without it, there is no warning.
    among : sequence of Quantity, optional
        The quantities of these names that are still possible; by default all of them.

    Raises
    ------
    RegimeError
        A name is unknown, or a quantity that was requested by its own name cannot be measured.
    """
    chosen = choose(names) if among is None else among
    reasons = {quantity.name: reason for quantity in chosen if (reason := obstacle(quantity))}
    for name, reason in reasons.items():
        if name in names:
            raise RegimeError(f"--measure {name}: {reason}")
    for reason in dict.fromkeys(reasons.values()) if tell else ():
        left_out = [name for name, why in reasons.items() if why == reason]
        warnings.warn(f"{tell}: {', '.join(left_out)}: {reason}", RegimeWarning, stacklevel=3)
    return tuple(quantity for quantity in chosen if quantity.name not in reasons)


def choose(names: Iterable[str]) -> tuple[Quantity, ...]:
    """Return the quantities of these names, without those that every trajectory holds.

    Parameters
    ----------
    names : iterable of str
        Names of quantities, or of `GROUPS`.

    Raises
    ------
    RegimeError
        A name is unknown.
    """
    return tuple(quantity for quantity in named(names, "--measure ") if not quantity.is_built_in)


def named(names: Iterable[str], option: str = "") -> tuple[Quantity, ...]:
    """Return the quantities of these names, or of these `GROUPS`.

    Parameters
    ----------
    names : iterable of str
    option : str
        Where the names were given, for error messages.

    Raises
    ------
    RegimeError
        A name is unknown.
    """
    known = known_quantities()
    chosen: set[str] = set()
    for name in names:
        if name in GROUPS:
            chosen |= {quantity.name for quantity in known.values() if GROUPS[name](quantity)}
        elif name in known:
            chosen.add(name)
        else:
            words = [*known, *GROUPS]
            raise RegimeError(
                f"{option}{name!r}: no such quantity{did_you_mean(name, words)}; `regime quantities` lists all"
            )
    return tuple(quantity for quantity in known.values() if quantity.name in chosen)
