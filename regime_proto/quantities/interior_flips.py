"""Units that leave their region between two observations and are back at the second: Eq. 3 does not see them."""

import re
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from regime_proto.quantities.base import INTERIOR, MASKS, Network, Quantity, State
from regime_proto.schema import layout
from regime_proto.schema.flips import units_apart
from regime_proto.schema.types import Array

INTERIOR_POINTS = 3
"""Default number of points between two states."""


def _count(current: State, other: State | None, network: Network) -> Array:
    assert current.masks is not None  # noqa: S101
    assert other is not None  # noqa: S101
    assert other.masks is not None  # noqa: S101
    moved = units_apart(network.layers, current.masks, other.masks)
    left: list[Array] = [np.zeros_like(layer) for layer in moved]
    for masks in current.interior:
        away = units_apart(network.layers, masks, current.masks)
        left = [before | now for before, now in zip(left, away, strict=True)]
    pairs = zip(left, moved, strict=True)
    return np.array([np.bitwise_count(units & ~ends).sum(axis=1, dtype=np.int64) for units, ends in pairs])


def looks_between(quantities: Iterable[Quantity]) -> bool:
    """Whether any of the quantities looks between two states."""
    return any(INTERIOR in one.needs for one in quantities)


def points_of(stored: Iterable[layout.Quantity]) -> int | None:
    """Return the number of points between two states at which the quantities of a file look; None if none does."""
    said = (re.search(r" \(N = (\d+)\)$", one.definition) for one in stored if one.name == QUANTITY.name)
    return next((int(found[1]) for found in said if found), None)


def looking_at(quantities: Iterable[Quantity], points: int) -> tuple[Quantity, ...]:
    """Return the quantities; the definition of each that looks between two states names the number of points."""
    said = f" (N = {points})"
    return tuple(replace(one, definition=one.definition + said) if INTERIOR in one.needs else one for one in quantities)


QUANTITY = Quantity(
    name="interior_flips",
    dims=("layer", "sample"),
    meaning="units that are in the same region at both ends of the step, but in a different one in between",
    definition="sum(region_i = region_(i-1) != region at one of N points w_(i-1) + k / (N + 1) * (w_i - w_(i-1)))",
    against="previous",
    needs=(MASKS, INTERIOR),
    compute=_count,
    curve="sum",
    cost="one pass per point: with 3 points, 3.5 times the time of a plain conversion",
    source="Proposition 1 of the paper",
)
