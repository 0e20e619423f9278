"""Quantities that can be computed from those in a file, without the weights."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from regime_proto.analyzer.series import by_blocks
from regime_proto.quantities.structure import structural_share
from regime_proto.schema.layout import QUANTITY_PREFIX, SAMPLE, TENSOR
from regime_proto.schema.types import Array

EACH = "_each"
"""Suffix of the name of a curve that has a value for every tensor, layer or sample."""

START = "start"
"""Attribute of a curve: the value at the first observation, before the first change."""

_NORM = f"{QUANTITY_PREFIX}weight_norm_l2"
_DELTA = "weight_delta_l2"
_PARTS = ("quantitative_change_l2", "structural_change_l2", "structural_order_l2")


@dataclass(frozen=True)
class Derived:
    """A quantity that is computed from others.

    Parameters
    ----------
    name, meaning, definition, against : str
        As in `schema.layout.Quantity`.
    needs : tuple of str
        The variables from which it is computed.
    network : callable, optional
        Maps the whole trajectory, the chosen part and the indices of the kept observations to (interval,) float64. If
        omitted, the value is the mean over the entries.
    each : callable, optional
        Maps the chosen part and these indices to (interval, entry) float64.
    dim : str
        Dimension of the entries.
    """

    name: str
    meaning: str
    definition: str
    against: str
    needs: tuple[str, ...]
    network: Callable[[xr.Dataset, xr.Dataset, Array], Array] | None = None
    each: Callable[[xr.Dataset, Array], Array] | None = None
    dim: str = TENSOR

    def curves(self, whole: xr.Dataset, chosen: xr.Dataset, kept: Array) -> Iterator[xr.DataArray]:
        """Yield its curves; see `quantity_curves.quantity_curves`."""
        said: dict[str, Any] = {
            "long_name": self.meaning,
            "units": "1",
            "against": self.against,
            "definition": self.definition,
            "curve": "mean" if self.network is None else "",
            "dims": "" if self.each is None else self.dim,
        }
        name = f"{QUANTITY_PREFIX}{self.name}"
        said |= start_of(self.against, lambda rows: self._values(whole, chosen, rows)[0])
        values, each = self._values(whole, chosen, kept)
        yield xr.DataArray(values, dims=("step",), name=name, attrs=said)
        if each is not None:
            yield xr.DataArray(each, dims=("step", self.dim), name=f"{name}{EACH}", attrs=said)

    def _values(self, whole: xr.Dataset, chosen: xr.Dataset, rows: Array) -> tuple[Array, Array | None]:
        """Return the values of the network and of each entry at some observations."""
        each = None if self.each is None else self.each(chosen, rows)
        if self.network is not None:
            return self.network(whole, chosen, rows), each
        assert each is not None  # noqa: S101
        return _divided(np.nansum(each, axis=1), np.sum(~np.isnan(each), axis=1)), each


def start_of(against: str, by_step: Callable[[Array], Array]) -> dict[str, float]:
    """Return the attribute `START` of a curve; empty if no value exists before the first change.

    Parameters
    ----------
    against : str
    by_step : callable
        Maps indices of observations to the values there.
    """
    return {} if against == "previous" else {START: float(by_step(np.array([0]))[0])}


def _norms(trajectory: xr.Dataset, variable: str, rows: Array) -> Array:
    """Return the norm over all tensors, √Σ‖·‖², at some observations."""
    return np.asarray(np.sqrt(by_blocks(trajectory[variable], rows, lambda norms: np.square(norms).sum(axis=1))))


def _dots(trajectory: xr.Dataset, variable: str, rows: Array) -> Array:
    return by_blocks(trajectory[variable], rows, lambda dots: dots.sum(axis=1))


def _divided(values: Array, by: Array) -> Array:
    return np.asarray(np.divide(values, by, out=np.full(values.shape, np.nan), where=by > 0))


def _update(_: xr.Dataset, chosen: xr.Dataset, kept: Array) -> Array:
    return _divided(_norms(chosen, _DELTA, kept), _norms(chosen, _NORM, kept))


def _updates(chosen: xr.Dataset, kept: Array) -> Array:
    deltas, norms = (by_blocks(chosen[name], kept, np.asarray) for name in (_DELTA, _NORM))
    return _divided(deltas, norms)


def _cosine(against: str) -> Callable[[xr.Dataset, xr.Dataset, Array], Array]:
    def distance(whole: xr.Dataset, chosen: xr.Dataset, kept: Array) -> Array:
        other = _norms(chosen, _NORM, kept - 1) if against == "previous" else _norms(whole, _NORM, np.array([0]))
        dots = _dots(chosen, f"{QUANTITY_PREFIX}weight_dot_{against}", kept)
        return 1 - _divided(dots, _norms(chosen, _NORM, kept) * other)

    return distance


def _parts(chosen: xr.Dataset, kept: Array, against: str, names: Sequence[str]) -> Iterator[Array]:
    """Yield parts of each sample's function change, (observation, sample), at some observations."""
    return (by_blocks(chosen[f"{QUANTITY_PREFIX}{name}_{against}"], kept, np.asarray) for name in names)


def shares_of(against: str) -> Callable[[xr.Dataset, Array], Array]:
    """Return a function that computes each sample's structural share, (observation, sample), at some observations."""

    def of_samples(chosen: xr.Dataset, kept: Array) -> Array:
        quantitative, structural = _parts(chosen, kept, against, _PARTS[:2])
        return structural_share(structural, quantitative)

    return of_samples


def _orders_of(against: str) -> Callable[[xr.Dataset, Array], Array]:
    def of_samples(chosen: xr.Dataset, kept: Array) -> Array:
        quantitative, structural, order = _parts(chosen, kept, against, _PARTS)
        return _divided(order / 2, quantitative + structural)

    return of_samples


DERIVED = (
    Derived(
        name="relative_update",
        meaning="change of the weights from the previous observation, relative to their norm",
        definition="weight_delta_l2 / weight_norm_l2",
        against="previous",
        needs=(_DELTA, _NORM),
        network=_update,
        each=_updates,
    ),
    *(
        Derived(
            name=f"cosine_distance_{against}",
            meaning=f"cosine distance of all weights from those at the {against} observation",
            definition="1 - sum(dot) / (norm_i * norm_j), over all trainable parameters (arXiv 2505.13900)",
            against=against,
            needs=(_NORM, f"{QUANTITY_PREFIX}weight_dot_{against}"),
            network=_cosine(against),
        )
        for against in ("previous", "first")
    ),
    *(
        Derived(
            name=f"structural_share_{against}",
            meaning=f"share of the output change relative to the {against} observation that is due to moving patterns",
            definition="||s|| / (||s|| + ||q||), mean over the samples",
            against=against,
            needs=tuple(f"{QUANTITY_PREFIX}{part}_{against}" for part in _PARTS[:2]),
            each=shares_of(against),
            dim=SAMPLE,
        )
        for against in ("previous", "first", "last")
    ),
    *(
        Derived(
            name=f"structural_order_{against}",
            meaning=f"how much the structural share relative to the {against} observation depends on what moves first",
            definition="||t|| / 2 / (||s|| + ||q||), mean over the samples",
            against=against,
            needs=tuple(f"{QUANTITY_PREFIX}{part}_{against}" for part in _PARTS),
            each=_orders_of(against),
            dim=SAMPLE,
        )
        for against in ("previous", "first", "last")
    ),
)
