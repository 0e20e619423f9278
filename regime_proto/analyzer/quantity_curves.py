"""Quantities of a trajectory as curves: those that it holds, and those derived from them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from regime_proto.analyzer.areas import area_of
from regime_proto.analyzer.derived import DERIVED, EACH, START, start_of
from regime_proto.analyzer.readings import Reading
from regime_proto.analyzer.series import Series, by_blocks
from regime_proto.schema.layout import CURVES, LAYER, QUANTITY_PREFIX, SAMPLE, TENSOR
from regime_proto.schema.types import Array

# Most values by tensor, layer or sample that a result holds for a quantity; if there are more, it holds only the curve.
_MOST_VALUES = 2**24


@dataclass(frozen=True)
class QuantityResult:
    """A quantity over a run, one number per step.

    Parameters
    ----------
    name : str
        Name, as in the table of quantities.
    meaning : str
        Meaning in words, as stated in the file.
    unit : str
        Unit; ``1`` for a number without one.
    against : str
        The observation it is compared with: ``previous``, ``first``, ``last``, or empty.
    definition : str
        Formula as plain text, as stated in the file.
    dims : tuple of str
        Dimensions of the values that the file holds at every step.
    first : float
        Value at the first observation; for a quantity relative to the previous observation, at the end of the first
        change. NaN if undefined.
    last : float
        Value at the last observation. NaN if undefined.
    auc : float
        Area under the curve, smoothed and scaled like Δw and Δa; NaN if the curve has no scale.
    """

    name: str
    meaning: str
    unit: str
    against: str
    definition: str
    dims: tuple[str, ...]
    first: float
    last: float
    auc: float


def quantity_curves(whole: xr.Dataset, chosen: xr.Dataset, kept: Array) -> Iterator[xr.DataArray]:
    """Yield the curves of all quantities, (step,); under a name with suffix `EACH`, also by tensor, layer or sample.

    Parameters
    ----------
    whole : xarray.Dataset
        The trajectory.
    chosen : xarray.Dataset
        The analyzed part.
    kept : (interval,) int64
        Indices in `chosen` of the observations at the ends of the changes that are used.
    """
    for name in chosen.data_vars:
        if str(name).startswith(QUANTITY_PREFIX):
            yield from _stored(chosen[name], chosen, kept)
    for derived in DERIVED:
        if all(needed in chosen for needed in derived.needs):
            yield from derived.curves(whole, chosen, kept)


def _stored(variable: xr.DataArray, chosen: xr.Dataset, kept: Array) -> Iterator[xr.DataArray]:
    said: dict[str, Any] = {
        key: str(variable.attrs.get(key, "")) for key in ("long_name", "units", "against", "definition", "curve")
    }
    dims = variable.dims[1:]
    said |= {"dims": " ".join(map(str, dims)), "curve": said["curve"] if said["curve"] in CURVES else CURVES[0]}
    reduce = _reducers()[said["curve"]]
    axes = tuple(range(1, variable.ndim))

    def by_step(rows: Array) -> Array:
        return by_blocks(variable, rows, lambda values: reduce(values, axes) if axes else values)

    values = by_step(kept)
    said |= start_of(said["against"], by_step)
    yield xr.DataArray(values, dims=("step",), name=variable.name, attrs=said)
    if dims and len(kept) * chosen.sizes[dims[0]] <= _MOST_VALUES:
        each = by_blocks(variable, kept, lambda rows: reduce(rows, (2,)) if len(dims) > 1 else rows)
        yield xr.DataArray(each, dims=("step", dims[0]), name=f"{variable.name}{EACH}", attrs=said)


def _reducers() -> Mapping[str, Callable[[Array, tuple[int, ...]], Array]]:
    """Return the functions that reduce the values of a step to one number, by name.

    They ignore NaN; the result is NaN only if all values are.
    """

    def sums(values: Array, axes: tuple[int, ...]) -> Array:
        known = np.isfinite(values).any(axis=axes)
        return np.where(known, np.nansum(values, axis=axes), np.nan)

    def extreme(best: Any, worst: float) -> Callable[[Array, tuple[int, ...]], Array]:
        def found(values: Array, axes: tuple[int, ...]) -> Array:
            known = ~np.isnan(values).all(axis=axes)
            return np.where(known, best(np.where(np.isnan(values), worst, values), axis=axes), np.nan)

        return found

    def mean(values: Array, axes: tuple[int, ...]) -> Array:
        counts = np.sum(~np.isnan(values), axis=axes)
        return np.where(counts > 0, np.nansum(values, axis=axes) / np.maximum(counts, 1), np.nan)

    return {
        "sum": sums,
        "mean": mean,
        "root_sum_squares": lambda values, axes: np.sqrt(sums(np.square(values), axes)),
        "min": extreme(np.min, np.inf),
        "max": extreme(np.max, -np.inf),
    }


def summaries(curves: xr.Dataset, series: Series, width: int, reading: Reading) -> dict[str, QuantityResult]:
    """Return the quantities among the curves of a result, by name."""
    found = {}
    for variable in curves.data_vars:
        if not str(variable).startswith(QUANTITY_PREFIX) or str(variable).endswith(EACH):
            continue
        values, said = curves[variable].to_numpy(), curves[variable].attrs
        name = str(variable).removeprefix(QUANTITY_PREFIX)
        auc = area_of(values, series.lengths, width, reading) if np.isfinite(values).all() else np.nan
        found[name] = QuantityResult(
            name=name,
            meaning=said["long_name"],
            unit=said["units"],
            against=said["against"],
            definition=said["definition"],
            dims=tuple(said["dims"].split()),
            first=float(said.get(START, values[0])),
            last=float(values[-1]),
            auc=float(auc),
        )
    return found


def labels_of(curves: xr.Dataset, dimension: str) -> list[str]:
    """Return the names of the entries of a dimension."""
    if dimension in (TENSOR, LAYER):
        return [str(name) for name in curves[dimension].to_numpy()]
    return [f"{SAMPLE} {number}" for number in range(curves.sizes[dimension])]
