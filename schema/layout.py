"""Names, dimensions, dtypes and units of the trajectory file: the one table writer and reader share."""

from collections.abc import Iterable
from dataclasses import dataclass

VERSION = "1.0"

STEP = "step"
MASK_STEP = "mask_step"
SAMPLE = "sample"
TENSOR = "tensor"
LAYER = "layer"
PLANE = "plane"
BYTE = "byte"
UNIT = "unit"

DIMENSIONS = (STEP, MASK_STEP, SAMPLE, TENSOR, LAYER, PLANE, BYTE, UNIT)
GROWING = (STEP, MASK_STEP)

METRIC_PREFIX = "metric_"


@dataclass(frozen=True)
class Variable:
    """One variable of the file.

    Parameters
    ----------
    name : str
    dims : tuple of str
        Names out of `DIMENSIONS`.
    dtype : str
        NumPy type code, or ``"str"`` for variable-length UTF-8.
    unit : str
        UDUNITS-style; ``"1"`` for counts and pure numbers, empty for labels.
    meaning : str
        One line, written into the file as ``long_name``.
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    unit: str
    meaning: str

    @property
    def grows(self) -> bool:
        """Whether the first axis is an unlimited one."""
        return self.dims[0] in GROWING


VARIABLES = (
    Variable("step", (STEP,), "i8", "1", "training step of the observation, strictly increasing"),
    Variable("epoch", (STEP,), "f8", "1", "epoch of the observation, NaN where unknown"),
    Variable("valid", (STEP,), "u1", "1", "0 where weights or activations held NaN or Inf, else 1"),
    Variable("tensor", (TENSOR,), "str", "", "name of the trainable tensor, as in the checkpoint"),
    Variable("tensor_size", (TENSOR,), "i8", "1", "elements of the tensor"),
    Variable("weight_delta_l1", (STEP, TENSOR), "f8", "1", "sum of |change| against the previous observation"),
    Variable(
        "weight_delta_l2",
        (STEP, TENSOR),
        "f8",
        "1",
        "root of the sum of squared changes against the previous observation",
    ),
    Variable("layer", (LAYER,), "str", "", "gate node, in execution order"),
    Variable("layer_op", (LAYER,), "str", "", "ONNX operator of the gate"),
    Variable("layer_kind", (LAYER,), "str", "", "kind of the gate: relu, piecewise or smooth"),
    Variable("layer_path", (LAYER,), "str", "", "path of the module that the gate came from"),
    Variable("layer_size", (LAYER,), "i8", "1", "units of the gate per sample"),
    Variable("layer_planes", (LAYER,), "i8", "1", "thresholds of the gate, each a bit plane"),
    Variable("layer_threshold", (LAYER, PLANE), "f8", "1", "threshold of the plane, NaN beyond the last"),
    Variable("layer_units", (LAYER, SAMPLE), "i8", "1", "counted units: the denominator of the flip fraction"),
    Variable(
        "flips",
        (STEP, LAYER, SAMPLE),
        "u4",
        "1",
        "units whose region changed against the previous observation",
    ),
    Variable("mask_step", (MASK_STEP,), "i8", "1", "steps whose masks are stored"),
    Variable(
        "mask",
        (MASK_STEP, SAMPLE, BYTE),
        "u1",
        "1",
        "packed masks, layer after layer, plane after plane, first unit in the highest bit",
    ),
    Variable("layer_byte_start", (LAYER,), "i8", "1", "first byte of the layer along the byte axis"),
    Variable("layer_byte_stop", (LAYER,), "i8", "1", "one past the last byte of the layer"),
)

# Of files that store only some units of each layer.
SAMPLED = (
    Variable(
        "unit_index", (LAYER, UNIT), "i8", "1", "units that are stored, of those in layer_size; -1 beyond the last"
    ),
    Variable(
        "flip_fraction_error",
        (STEP, LAYER),
        "f8",
        "1",
        "standard error of the layer's flip fraction, from the sampling of units",
    ),
)

BY_NAME = {variable.name: variable for variable in (*VARIABLES, *SAMPLED)}

REQUIRED_ATTRIBUTES = ("regime_version", "run_id", "created", "software", "source_fingerprint", "step_kind")


def metric(name: str) -> Variable:
    """Return the variable that holds the metric `name`, for example ``"loss"``."""
    clean = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)
    return Variable(METRIC_PREFIX + clean, (STEP,), "f8", "1", name)


def variables(metrics: Iterable[str] = (), *, sampled: bool = False) -> tuple[Variable, ...]:
    """Return every variable of a file that holds these metrics, and all units of each layer or a sample of them."""
    return (*VARIABLES, *(SAMPLED if sampled else ()), *(metric(name) for name in metrics))


def packed_bytes(size: int, planes: int) -> int:
    """Return the bytes one sample's mask takes in a layer of `size` units and `planes` thresholds."""
    return planes * ((size + 7) // 8)
