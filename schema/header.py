"""The fixed part of a trajectory: tensors, layers, samples and provenance."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from regime_proto.schema import layout
from regime_proto.schema.errors import TrajectoryError
from regime_proto.schema.policy import MaskPolicy, policy_of
from regime_proto.schema.types import Array


@dataclass(frozen=True)
class Layer:
    """One gate layer: one use of an activation in the graph.

    Parameters
    ----------
    name, op, kind, path : str
        Node name, ONNX operator, kind (``relu``, ``piecewise``, ``smooth``), module path.
    size : int
        Units per sample.
    thresholds : tuple of float
        One per bit plane.
    stored : int, optional
        Units per sample whose bits are stored; None for all.
    """

    name: str
    op: str
    kind: str
    path: str
    size: int
    thresholds: tuple[float, ...] = (0.0,)
    stored: int | None = None

    @property
    def width(self) -> int:
        """Units per sample whose bits are stored."""
        return self.size if self.stored is None else self.stored

    @property
    def bytes(self) -> int:
        """Packed bytes per sample, all planes."""
        return layout.packed_bytes(self.width, len(self.thresholds))


# The variables that describe the layers; the last one exists only if units were sampled.
_LAYER_NAMES = ("layer", "layer_op", "layer_kind", "layer_path")
LAYER_VARIABLES = (*_LAYER_NAMES, "layer_size", "layer_planes", "layer_threshold", "unit_index")


def layers_in(values: Mapping[str, Array]) -> tuple[Layer, ...]:
    """Return the layers of a trajectory from its `LAYER_VARIABLES`, as `Header.arrays` returns them."""
    planes, index = values["layer_planes"], values.get("unit_index")
    columns = (
        *(values[name] for name in _LAYER_NAMES),
        values["layer_size"],
        values["layer_threshold"],
        planes,
        [None] * len(planes) if index is None else (index >= 0).sum(axis=1).tolist(),
    )
    return tuple(
        Layer(str(name), str(op), str(kind), str(path), int(size), tuple(row[:count].tolist()), width)
        for name, op, kind, path, size, row, count, width in zip(*columns, strict=True)
    )


@dataclass(frozen=True)
class Header:
    """The part of a trajectory that does not grow.

    Parameters
    ----------
    tensors : mapping of str to int
        Trainable tensors and their element counts, in checkpoint order.
    layers : tuple of Layer
        In execution order.
    samples : int
        Probe samples, ``|S|``.
    attributes : mapping
        Root attributes (provenance); see `layout.REQUIRED_ATTRIBUTES`.
    metrics : tuple of str
        Names of the recorded metrics, as in the source.
    layer_units : (layer, sample) int64, optional
        Number of counted units, if padding or sampling leaves some out; None if all count.
    unit_index : tuple of arrays, optional
        The stored units of each layer, if not all are stored.
    quantities : tuple of layout.Quantity
        The quantities that are recorded in addition to weight deltas, flips and masks.
    embedded : mapping of str to bytes
        Files that the trajectory carries: `layout.PROGRAM`, `layout.PROBE`.
    extra : mapping
        Attributes of the group `layout.EXTRA`, which the format does not define.

    Raises
    ------
    TrajectoryError
        The format cannot hold it: there is nothing to record, or a name is empty, repeated or holds a NUL.
    """

    tensors: Mapping[str, int]
    layers: tuple[Layer, ...]
    samples: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    layer_units: Array | None = None
    unit_index: tuple[Array, ...] | None = None
    quantities: tuple[layout.Quantity, ...] = ()
    embedded: Mapping[str, bytes] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        layers = [layer.name for layer in self.layers]
        if not (self.tensors and layers):
            raise TrajectoryError(
                f"a trajectory needs at least one {'layer' if self.tensors else 'tensor'}, found none"
            )
        quantities = [quantity.name for quantity in self.quantities]
        for what, names in (
            ("tensor", list(self.tensors)), ("layer", layers), ("metric", self.metrics), ("quantity", quantities),
        ):  # fmt: skip
            _require_names(what, names)
        if self.samples < 1:
            raise TrajectoryError("a trajectory needs at least one probe sample, found none")
        for layer in self.layers:
            if not (layer.width and layer.thresholds):
                raise TrajectoryError(f"layer {layer.name!r}: expected at least one unit and one threshold")
        if self.samples * self.mask_bytes > layout.MAX_ENTRY_BYTES:
            raise TrajectoryError(
                f"the masks of one observation take {self.samples * self.mask_bytes:,} bytes, the format allows "
                f"{layout.MAX_ENTRY_BYTES:,}: use fewer units (--sample-units), gates (--gates) or samples"
            )
        for quantity in self.quantities:
            size = 8 * math.prod(self.sizes[name] for name in quantity.dims)
            if size > layout.MAX_ENTRY_BYTES:
                raise TrajectoryError(
                    f"one observation of {quantity.name} takes {size:,} bytes, the format allows "
                    f"{layout.MAX_ENTRY_BYTES:,}: leave the quantity out, or use fewer gates (--gates) or samples"
                )

    @property
    def groups(self) -> frozenset[str]:
        """The groups of optional variables in the file."""
        present = {
            layout.SAMPLED: self.unit_index is not None,
            layout.DISTANCE: self.holds(layout.WEIGHT_DISTANCE.name),
        }
        return frozenset({group for group, is_there in present.items() if is_there} | set(self.embedded))

    @property
    def variables(self) -> tuple[layout.Variable, ...]:
        """The variables of the file."""
        return layout.variables(self.metrics, groups=self.groups, quantities=self.quantities)

    def holds(self, quantity: str) -> bool:
        """Whether a quantity of that name is recorded."""
        return any(quantity == one.name for one in self.quantities)

    @property
    def mask_policy(self) -> MaskPolicy:
        """The policy that selects the observations whose masks are kept."""
        return policy_of(self.attributes)

    def with_attributes(self, **attributes: Any) -> "Header":
        """Return the header with additional or changed root attributes."""
        return replace(self, attributes={**self.attributes, **attributes})

    @property
    def mask_bytes(self) -> int:
        """Packed bytes of one sample's masks over all layers."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def sizes(self) -> dict[str, int]:
        """Lengths of the fixed dimensions."""
        units = {} if self.unit_index is None else {layout.UNIT: max(map(len, self.unit_index))}
        embedded = {layout.BY_NAME[name].dims[0]: len(content) for name, content in self.embedded.items()}
        return {
            **units,
            **embedded,
            layout.SAMPLE: self.samples,
            layout.TENSOR: len(self.tensors),
            layout.LAYER: len(self.layers),
            layout.PLANE: max(len(layer.thresholds) for layer in self.layers),
            layout.BYTE: self.mask_bytes,
        }

    def arrays(self) -> dict[str, Array]:
        """Return the fixed variables by name."""
        stops = np.cumsum([layer.bytes for layer in self.layers], dtype=np.int64)
        sizes = np.array([layer.size for layer in self.layers], np.int64)
        widths = np.array([layer.width for layer in self.layers], np.int64)
        all_units = np.repeat(widths[:, None], self.samples, axis=1)
        thresholds = np.full((len(self.layers), self.sizes[layout.PLANE]), np.nan)
        for row, layer in zip(thresholds, self.layers, strict=True):
            row[: len(layer.thresholds)] = layer.thresholds
        arrays = {
            "tensor": np.array(list(self.tensors), object),
            "tensor_size": np.array(list(self.tensors.values()), np.int64),
            "layer": np.array([layer.name for layer in self.layers], object),
            "layer_op": np.array([layer.op for layer in self.layers], object),
            "layer_kind": np.array([layer.kind for layer in self.layers], object),
            "layer_path": np.array([layer.path for layer in self.layers], object),
            "layer_size": sizes,
            "layer_planes": np.array([len(layer.thresholds) for layer in self.layers], np.int64),
            "layer_threshold": thresholds,
            "layer_units": all_units if self.layer_units is None else self.layer_units,
            "layer_byte_start": stops - [layer.bytes for layer in self.layers],
            "layer_byte_stop": stops,
        }
        if self.unit_index is not None:
            indices = np.full((len(self.layers), self.sizes[layout.UNIT]), -1, np.int64)
            for row, units in zip(indices, self.unit_index, strict=True):
                row[: len(units)] = units
            arrays["unit_index"] = indices
        return arrays | {name: np.frombuffer(content, np.uint8) for name, content in self.embedded.items()}


def _require_names(what: str, names: Sequence[str]) -> None:
    for name, count in Counter(names).items():
        if not name or "\0" in name or count > 1 or not is_unicode(name):
            raise TrajectoryError(f"{what} {name!r}: expected a unique, non-empty name in valid Unicode without NUL")


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: a Python string may hold halves of a character (surrogates)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Observation:
    """The measurements of one parameter state.

    Parameters
    ----------
    step : int
    epoch : float
        NaN where unknown.
    valid : bool
        False where weights or activations held NaN or Inf.
    weight_delta_l1, weight_delta_l2 : (tensor,) float64
        Relative to the previous observation; NaN in the first one.
    flips : (layer, sample) uint32
        Relative to the previous observation; 0 in the first one.
    mask : (sample, byte) uint8
        8 units per byte, first unit in the highest bit.
    metrics : mapping of str to float
    flip_fraction_error : (layer,) float64, optional
        Standard error of each layer's flip fraction, if only some units are stored.
    quantities : mapping of str to array
        The values of `Header.quantities`, by name.
    """

    step: int
    epoch: float
    valid: bool
    weight_delta_l1: Array
    weight_delta_l2: Array
    flips: Array
    mask: Array
    metrics: Mapping[str, float] = field(default_factory=dict)
    flip_fraction_error: Array | None = None
    quantities: Mapping[str, Array] = field(default_factory=dict)

    def arrays(self, header: Header) -> dict[str, Array]:
        """Return this observation's row of every growing variable of `header`."""
        row: dict[str, Any] = {
            "step": np.int64(self.step),
            "epoch": np.float64(self.epoch),
            "valid": np.uint8(self.valid),
            "weight_delta_l1": self.weight_delta_l1,
            "weight_delta_l2": self.weight_delta_l2,
            "flips": self.flips,
            "mask_step": np.int64(self.step),
            "mask": self.mask,
        }
        if self.flip_fraction_error is not None:
            row["flip_fraction_error"] = self.flip_fraction_error
        row |= {quantity.variable.name: self.quantities[quantity.name] for quantity in header.quantities}
        for name, variable in zip(header.metrics, layout.metrics(header.metrics), strict=True):
            row[variable.name] = np.float64(self.metrics.get(name, np.nan))
        return row
