"""The record that defines a quantity: what it means, what it needs, and how it is computed.

To add a quantity, write a module with such a record and add an entry to the group ``regime_proto.quantities``. The
file, the curves, the export and the report follow from the record.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from regime_proto.schema import layout
from regime_proto.schema.header import Layer
from regime_proto.schema.types import Array, read_only

WEIGHTS = "weights"
MASKS = "masks"
PREACTIVATIONS = "preactivations"
OUTPUTS = "outputs"
FINGERPRINT = "fingerprint"
FROZEN = "frozen"
INTERIOR = "interior"
NEEDS = (WEIGHTS, MASKS, PREACTIVATIONS, OUTPUTS, FINGERPRINT, FROZEN, INTERIOR)
"""The inputs that a quantity may need; see `State`."""
_RECORDED = {WEIGHTS, MASKS, PREACTIVATIONS, OUTPUTS}
REFERENCES = ("previous", "first", "last")
"""The observations that a state may be compared with."""


def _read_only(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: read_only(array) for name, array in arrays.items()}


def _hold_read_only(record: object, *names: str) -> None:
    """Replace arrays and mappings in fields of a frozen record with read-only views."""
    for name in names:
        held = getattr(record, name)
        if isinstance(held, Mapping):
            held = MappingProxyType(_read_only(held))
        elif isinstance(held, tuple):
            held = tuple(map(read_only, held))
        object.__setattr__(record, name, read_only(held))


@dataclass(frozen=True)
class Preactivations:
    """Summary of the inputs z of the gates, over counted units only.

    Parameters
    ----------
    mean_squares : (layer,) float64
        The mean of z², over samples and units.
    margins : (layer, sample) float64
        The smallest distance from any z to a threshold.
    """

    mean_squares: Array
    margins: Array

    def __post_init__(self) -> None:
        _hold_read_only(self, "mean_squares", "margins")


@dataclass(frozen=True)
class State:
    """The data of one state that a quantity can use.

    All arrays and mappings are read-only views: the engine, other quantities and the training use the same memory.

    Parameters
    ----------
    weights : mapping of str to array
        The trainable tensors, in the order and under the names of the trajectory, of any float type.
    masks : (sample, byte) uint8, optional
        Packed masks, 8 units per byte, first unit in the highest bit; None for a quantity that does not need them.
    preactivations : Preactivations, optional
    outputs : (sample, output) float, optional
        All outputs of the program, one row per sample.
    fingerprint : (sample, feature) float, optional
        The input of the last product with a weight, averaged over tokens or positions.
    changes : mapping of str to (3, sample) float64
        How the function differs from that of each reference observation: ‖q‖, ‖s‖ and ⟨q, s⟩; see `structure`.
    interior : tuple of (sample, byte) uint8
        Packed masks at points between the previous state and this one.
    """

    weights: Mapping[str, Array]
    masks: Array | None = None
    preactivations: Preactivations | None = None
    outputs: Array | None = None
    fingerprint: Array | None = None
    changes: Mapping[str, Array] = field(default_factory=dict)
    interior: tuple[Array, ...] = ()

    def __post_init__(self) -> None:
        _hold_read_only(self, "weights", "masks", "outputs", "fingerprint", "changes", "interior")


@dataclass(frozen=True)
class OutputUnits:
    """Where a weight holds its output units.

    Parameters
    ----------
    axis : int
        The axis of the weight along which the output units are.
    bias : str, optional
        The trainable tensor that is added to them, one element per unit.
    """

    axis: int
    bias: str | None = None


@dataclass(frozen=True)
class Network:
    """The properties that all states of a run share.

    Parameters
    ----------
    tensors : mapping of str to tuple of int
        Shapes of the trainable tensors, in the order of the trajectory.
    layers : tuple of Layer
        The tracked gates, in execution order.
    layer_units : (layer, sample) int64
        Number of counted units.
    output_units : mapping of str to OutputUnits
        For the tensors with two or more axes.
    """

    tensors: Mapping[str, tuple[int, ...]]
    layers: tuple[Layer, ...]
    layer_units: Array
    output_units: Mapping[str, OutputUnits] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _hold_read_only(self, "layer_units")

    @property
    def samples(self) -> int:
        """Number of probe samples."""
        return int(self.layer_units.shape[1])

    @property
    def sizes(self) -> dict[str, int]:
        """Lengths of the dimensions that a quantity may have."""
        return {layout.TENSOR: len(self.tensors), layout.LAYER: len(self.layers), layout.SAMPLE: self.samples}


Compute = Callable[[State, State | None, Network], Any]
"""Maps the current state, the reference state and the network to an array over the quantity's `dims`."""

Term = Callable[[Any, Any], Any]
"""Maps a block of a tensor, and the same block of the reference state (None without one), to values that are then
summed over the whole tensor. Blocks are float64 NumPy arrays, or torch tensors if the weights are on a GPU: operators
and `abs` work on both."""


def _unchanged(sums: Array) -> Array:
    return sums


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One quantity.

    Set either `compute` or `term`. Use `term` if the quantity is a function of sums over the elements of each tensor:
    it needs no more memory than a block, runs on a GPU, and adds up over processes that hold parts of the weights.

    Parameters
    ----------
    name : str
        Lower-case ASCII letters, digits and underscores, for example ``weight_norm_l2``.
    dims : tuple of str
        The dimensions of its value at one step: ``()`` for a single number, ``("tensor",)``, ``("layer",)``,
        ``("sample",)`` or ``("layer", "sample")``.
    meaning : str
        One line, written into files as ``long_name``.
    definition : str
        The formula, in plain text.
    unit : str
        UDUNITS-style; ``"1"`` for a pure number.
    against : {"", "previous", "first", "last"}
        The reference observation that the current one is compared with. If it does not exist, the row is NaN.
        ``last`` needs a finished run.
    needs : tuple of str
        One or more of `NEEDS`.
    compute : callable, optional
        See `Compute`. Several threads call it at the same time. Its arguments are read-only: it copies an array
        before it changes it.
    term : callable, optional
        See `Term`; `dims` must then be ``("tensor",)``.
    host_sums : callable, optional
        A faster way to compute the sums of `term` for arrays in host memory. Maps the weights, the reference weights
        and the names of the tensors to (tensor,) float64.
    finish : callable
        Maps the sums of `term`, (tensor,) float64, to the values.
    curve : {"mean", "sum", "root_sum_squares", "min", "max"}
        How the values of one step are reduced to one number for a curve; NaN is ignored.
    cost : str
        The cost per observation, in words.
    source : str
        Paper and equation, or who else measures it.

    Raises
    ------
    ValueError
        A field is invalid, or two fields contradict each other.
    """

    name: str
    dims: tuple[str, ...]
    meaning: str
    definition: str
    unit: str = "1"
    against: str = ""
    needs: tuple[str, ...] = (WEIGHTS,)
    compute: Compute | None = None
    term: Term | None = None
    host_sums: Callable[[Mapping[str, Array], Any, Sequence[str]], Array] | None = None
    finish: Callable[[Array], Array] = _unchanged
    curve: str = "mean"
    cost: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for what, value, expected in (
            ("dims", self.dims, layout.QUANTITY_DIMENSIONS),
            ("against", self.against, ("", *REFERENCES)),
            ("curve", self.curve, layout.CURVES),
        ):
            if value not in expected:
                raise ValueError(f"quantity {self.name!r}: {what} is {value!r}, expected one of {expected}")
        if not re.fullmatch("[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"quantity {self.name!r}: expected a name of lower-case letters, digits and underscores")
        if not self.needs or not set(self.needs) <= set(NEEDS):
            raise ValueError(f"quantity {self.name!r}: needs is {self.needs!r}, expected one or more of {NEEDS}")
        if self.term is not None and (self.compute is not None or self.dims != (layout.TENSOR,)):
            raise ValueError(f"quantity {self.name!r}: term replaces compute, and needs dims ('tensor',)")
        if layout.means_time(self.unit):
            raise ValueError(f"quantity {self.name!r}: the unit {self.unit!r} would be decoded as a time")

    @property
    def stored(self) -> layout.Quantity:
        """The description that a file holds."""
        return layout.Quantity(self.name, self.dims, self.unit, self.meaning, self.against, self.definition, self.curve)

    @property
    def is_built_in(self) -> bool:
        """Whether every trajectory holds it: true for weight deltas and flips, which the engine itself measures."""
        return self.compute is None and self.term is None

    @property
    def is_recordable(self) -> bool:
        """Whether it can be measured during training, where passes over earlier states cannot be repeated."""
        return set(self.needs) <= _RECORDED and self.against != "last"


def sums_of(
    quantity: Quantity, weights: Mapping[str, Array], other: Mapping[str, Array] | None, names: Sequence[str]
) -> Array:
    """Return the sums of a quantity's term over every tensor, (tensor,) float64."""
    if quantity.host_sums is not None:
        return quantity.host_sums(_read_only(weights), None if other is None else _read_only(other), names)
    assert quantity.term is not None  # noqa: S101
    term = quantity.term
    return np.array([_term_sum(term, weights[name], None if other is None else other[name]) for name in names])


# A block and the values of its term fit in the cache.
_BLOCK = 131_072


def _term_sum(term: Term, values: Array, other: Array | None) -> float:
    values, other = values.reshape(-1), None if other is None else other.reshape(-1)
    total = 0.0
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        for start in range(0, values.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            wide = values[block].astype(np.float64)
            against = None if other is None else other[block].astype(np.float64)
            total += float(np.sum(term(wide, against), dtype=np.float64))
    return total
