"""Computes the chosen quantities, one state after another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import TypeVar

import numpy as np

from regime_proto.quantities import base
from regime_proto.quantities.base import FROZEN, MASKS, WEIGHTS, Network, Quantity, State, sums_of
from regime_proto.schema import layout
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

T = TypeVar("T")


@dataclass(frozen=True)
class Measures:
    """The quantities that are measured for a run.

    Parameters
    ----------
    quantities : tuple of Quantity
    network : Network
    """

    quantities: tuple[Quantity, ...]
    network: Network

    @property
    def keep_first(self) -> bool:
        """Whether states are compared with the first one, so that a copy of it is needed."""
        return bool(self.needs("first"))

    @property
    def keep_first_masks(self) -> bool:
        """Whether the masks of the first state are needed too."""
        return MASKS in self.needs("first")

    def needs(self, *against: str) -> set[str]:
        """Return the needs of the quantities against these observations, by default of all; see `base.NEEDS`."""
        return {need for one in self.quantities if not against or one.against in against for need in one.needs}

    @property
    def frozen_against(self) -> tuple[str, ...]:
        """The observations that the function of a state is compared with, with gates frozen."""
        return tuple(dict.fromkeys(one.against for one in self.quantities if FROZEN in one.needs))

    def row(self, current: State, others: Mapping[str, State | None], where: str) -> dict[str, Array]:
        """Return the values of one observation, by quantity.

        Parameters
        ----------
        current : State
        others : mapping of str to State, optional
            The reference states by name: ``previous``, None if there is no previous state or it is unknown; ``first``
            and ``last`` if a quantity needs them.
        where : str
            The place that errors name.

        Raises
        ------
        RegimeError
            A quantity fails; the message names it.
        """
        return {
            quantity.name: self.values(quantity, current, others.get(quantity.against), where)
            for quantity in self.quantities
        }

    @property
    def terms(self) -> tuple[Quantity, ...]:
        """The quantities that follow from sums over the elements of each tensor."""
        return tuple(quantity for quantity in self.quantities if quantity.term is not None)

    @property
    def computed(self) -> "Measures":
        """The other quantities, which need whole states."""
        return replace(self, quantities=tuple(one for one in self.quantities if one.term is None))

    @property
    def need_weights(self) -> bool:
        """Whether any of these quantities needs the weights."""
        return any(WEIGHTS in quantity.needs for quantity in self.quantities)

    def finished(self, sums: Array, where: str) -> dict[str, Array]:
        """Return the values of `terms` from their sums, (tensor, quantity) float64."""
        return {
            quantity.name: self.checked(quantity, guarded(quantity, partial(quantity.finish, column), where), where)
            for quantity, column in zip(self.terms, sums.T, strict=True)
        }

    def values(self, quantity: Quantity, current: State, other: State | None, where: str) -> Array:
        """Return the values of one quantity; NaN if there is no state to compare with."""
        if quantity.against and other is None:
            return self.unknown(quantity)

        def computed() -> object:
            if quantity.term is not None:
                held = None if other is None else other.weights
                return quantity.finish(sums_of(quantity, current.weights, held, list(self.network.tensors)))
            assert quantity.compute is not None  # noqa: S101
            return quantity.compute(current, other, self.network)

        return self.checked(quantity, guarded(quantity, computed, where), where)

    def checked(self, quantity: Quantity, found: object, where: str) -> Array:
        """Return the result of a quantity as the array that is stored.

        Raises
        ------
        RegimeError
            The result has the wrong shape, or does not hold numbers.
        """
        try:
            values = np.asarray(found, np.float64)
        except (TypeError, ValueError):
            raise RegimeError(f"{where}: {_fails(quantity)} (it does not return numbers)") from None
        if values.shape != self.shape(quantity):
            expected = f"{list(self.shape(quantity))}, for ({', '.join(quantity.dims)})"
            raise RegimeError(
                f"{where}: {_fails(quantity)} (it returns an array of shape {list(values.shape)}, expected {expected})"
            )
        return values

    def shape(self, quantity: Quantity) -> tuple[int, ...]:
        """Return the shape of the values of one observation."""
        return tuple(self.network.sizes[name] for name in quantity.dims)

    def unknown(self, quantity: Quantity) -> Array:
        """Return the values of an observation for which the quantity is unknown."""
        return np.full(self.shape(quantity), np.nan)


def guarded(quantity: Quantity, call: Callable[[], T], where: str) -> T:
    """Call the function that computes a quantity.

    Raises
    ------
    RegimeError
        The call fails; the message names the quantity, and the line of its code.
    """
    try:
        return call()
    except Exception as error:
        # Anybody may be the author of a quantity, so any error may come.
        raise RegimeError(f"{where}: {_fails(quantity)} ({described(error)})") from error


def described(error: Exception) -> str:
    """Return in one line what code of a quantity raised, and the innermost line of that code."""
    place = _place(error.__traceback__)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{place and f', in {place}'}"


def _place(trace: TracebackType | None) -> str:
    """Return file and line of the innermost frame in the package that the quantity belongs to; empty if none ran."""
    frames: list[tuple[str, str]] = []
    while trace is not None:
        names = trace.tb_frame.f_globals
        module = str(names.get("__name__", ""))
        if frames or not _is_engine(module):
            frames.append((module.partition(".")[0], f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"))
        trace = trace.tb_next
    return next((place for package, place in reversed(frames) if package == frames[0][0]), "")


def _is_engine(module: str) -> bool:
    """Whether a module calls quantities, and is not one."""
    package, _, _ = __name__.rpartition(".")
    is_ours = module.startswith(f"{package.partition('.')[0]}.")
    return is_ours and (module in (__name__, base.__name__) or not module.startswith(f"{package}."))


def term_columns(
    quantities: Sequence[Quantity],
    current: Mapping[str, Array],
    others: Mapping[str, Mapping[str, Array]],
    names: Sequence[str],
    where: str,
) -> Array:
    """Return the sums of the quantities' terms, (tensor, quantity) float64.

    Parameters
    ----------
    quantities : sequence of Quantity
        Each has a term.
    current : mapping of str to array
        The weights, or the parts of them that this process holds.
    others : mapping of str to mappings of str to array
        ``previous`` and ``first``; empty if unknown, and the sums are then NaN.
    names : sequence of str
    where : str
        The place that errors name.

    Raises
    ------
    RegimeError
        A quantity fails; the message names it.
    """
    columns = np.full((len(names), len(quantities)), np.nan)
    for column, quantity in zip(columns.T, quantities, strict=True):
        other = others.get(quantity.against)
        if not quantity.against or other:
            column[:] = guarded(quantity, partial(sums_of, quantity, current, other, names), where)
    return columns


def _fails(quantity: Quantity) -> str:
    return f"quantity {quantity.name} fails; leave it out of --measure, or fix its code"


def stored_bytes(quantities: Sequence[Quantity | layout.Quantity], sizes: dict[str, int]) -> int:
    """Return the uncompressed size of one observation of these quantities, in bytes."""
    return 8 * sum(int(np.prod([sizes[name] for name in quantity.dims])) for quantity in quantities)
