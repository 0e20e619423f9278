"""Names, dimensions, dtypes and units of the trajectory file: the one table that writer, reader and validator share.

FORMAT.md says the same in words; a test compares the two.
"""

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace

VERSION = "1.1"
# A file names the oldest version that covers all of its content, so that older readers know what to rely on.
PLAIN_VERSION = "1.0"

STEP = "step"
MASK_STEP = "mask_step"
SAMPLE = "sample"
TENSOR = "tensor"
LAYER = "layer"
PLANE = "plane"
BYTE = "byte"
UNIT = "unit"
MASK = "mask"
FIRST_OBSERVATION = "first_observation"
PROGRAM_BYTE = "program_byte"
PROBE_BYTE = "probe_byte"

DIMENSIONS = (STEP, MASK_STEP, SAMPLE, TENSOR, LAYER, PLANE, BYTE, UNIT, PROGRAM_BYTE, PROBE_BYTE)
GROWING = (STEP, MASK_STEP)

# netCDF-4 recognises a dimension without a coordinate variable by this text, followed by the length.
BARE_DIMENSION = "This is a netCDF dimension but not a netCDF variable."

METRIC_PREFIX = "metric_"
QUANTITY_PREFIX = "quantity_"
# The dimensions that a quantity may have at every step; none if it has one value for the whole network.
QUANTITY_DIMENSIONS = ((), (TENSOR,), (LAYER,), (SAMPLE,), (LAYER, SAMPLE))
# The observations that a quantity may compare the current one with.
AGAINST = ("", "previous", "first", "last")
# How the values of one step are reduced to one number for a curve.
CURVES = ("mean", "sum", "root_sum_squares", "min", "max")
# A group for users: the format does not define its contents.
EXTRA = "extra"

# Optional variables come in groups: a file holds all of a group or none.
SAMPLED = "sampled"
DISTANCE = "distance"
PROGRAM = "program"
PROBE = "probe"
# Files that a trajectory may carry; each is a group of its own.
EMBEDDED = (PROGRAM, PROBE)

# If these attributes exist, netCDF libraries (including xarray) change the values of a variable, leave some out, or
# interpret the variable differently.
DECODED = frozenset(
    {
        "missing_value", "scale_factor", "add_offset", "valid_min", "valid_max", "valid_range", "_Unsigned",
        "_Encoding", "dtype", "calendar", "coordinates", "bounds", "climatology", "grid_mapping", "cell_measures",
        "formula_terms", "geometry", "node_coordinates", "node_count", "part_node_count", "interior_ring", "compress",
        "sample_dimension", "instance_dimension",
    }
)  # fmt: skip

_TIMES = {"nanosecond", "microsecond", "millisecond", "second", "minute", "hour", "day", "week", "month", "year"}

# A fixed variable, and one entry of a growing variable, are read as a whole.
MAX_ENTRY_BYTES = 128 * 2**20

LAYER_KINDS = ("relu", "piecewise", "smooth")
STEP_KINDS = ("step", "epoch", "ordinal")


@dataclass(frozen=True)
class Variable:
    """One variable of the file.

    Parameters
    ----------
    name : str
    dims : tuple of str
        Names from `DIMENSIONS`.
    dtype : str
        NumPy type code, or ``"str"`` for variable-length UTF-8.
    unit : str
        UDUNITS-style; ``"1"`` for counts and pure numbers, empty for labels.
    meaning : str
        One line, written into the file as ``long_name``.
    group : str
        The group of optional variables that it belongs to; empty if it is required.
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    unit: str
    meaning: str
    group: str = ""

    @property
    def grows(self) -> bool:
        """Whether the first axis is unlimited."""
        return self.dims[0] in GROWING


@dataclass(frozen=True)
class Quantity:
    """The description of an optional quantity in a file.

    Parameters
    ----------
    name : str
        ASCII letters, digits and underscores.
    dims : tuple of str
        The dimensions of its value at every step, one of `QUANTITY_DIMENSIONS`.
    unit : str
        UDUNITS-style, ``"1"`` for a pure number.
    meaning : str
        One line.
    against : str
        The observation that the current one is compared with, one of `AGAINST`.
    definition : str
        The formula.
    curve : str
        How the values of one step are reduced to one number, one of `CURVES`.
    """

    name: str
    dims: tuple[str, ...]
    unit: str = "1"
    meaning: str = ""
    against: str = ""
    definition: str = ""
    curve: str = CURVES[0]

    @property
    def variable(self) -> Variable:
        """The variable that holds it."""
        if self.name in BY_NAME:
            return BY_NAME[self.name]
        return Variable(QUANTITY_PREFIX + self.name, (STEP, *self.dims), "f8", self.unit, self.meaning)

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes of the variable in addition to its label and unit."""
        if self.name in BY_NAME:
            return {}
        return {"against": self.against, "definition": self.definition, "curve": self.curve}


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

OPTIONAL = (
    Variable(
        "unit_index",
        (LAYER, UNIT),
        "i8",
        "1",
        "units that are stored, of those in layer_size; -1 beyond the last",
        SAMPLED,
    ),
    Variable(
        "flip_fraction_error",
        (STEP, LAYER),
        "f8",
        "1",
        "standard error of the layer's flip fraction, from the sampling of units",
        SAMPLED,
    ),
    Variable(
        "weight_distance_l2",
        (STEP, TENSOR),
        "f8",
        "1",
        "root of the sum of squared differences from the first observation",
        DISTANCE,
    ),
    Variable("program", (PROGRAM_BYTE,), "u1", "1", "the ONNX program, as the bytes of its file", PROGRAM),
    Variable("probe", (PROBE_BYTE,), "u1", "1", "the probe, as the bytes of an npz file", PROBE),
)

BY_NAME = {variable.name: variable for variable in (*VARIABLES, *OPTIONAL)}

WEIGHT_DISTANCE = Quantity(
    "weight_distance_l2",
    (TENSOR,),
    meaning=BY_NAME["weight_distance_l2"].meaning,
    against="first",
    definition="sqrt(sum((w_i - w_0)^2))",
    curve="root_sum_squares",
)
"""The quantity for which version 1.0 has a separate variable name."""


@dataclass(frozen=True)
class Attribute:
    """One root attribute of the file.

    Parameters
    ----------
    name : str
    dtype : str
        ``"str"``, ``"f8"`` or ``"i8"``; a scalar.
    meaning : str
    required : bool
    choices : tuple of str
        The allowed values; empty if any value is allowed.
    """

    name: str
    dtype: str
    meaning: str
    required: bool = False
    choices: tuple[str, ...] = ()


ATTRIBUTES = (
    Attribute("regime_version", "str", "version of the format, MAJOR.MINOR", required=True),
    Attribute("run_id", "str", "identifies the run: the same in all files of one run, and only there", required=True),
    Attribute("created", "str", "when writing began, in ISO 8601 with the offset from UTC", required=True),
    Attribute("software", "str", "name and version of the writer", required=True),
    Attribute(
        "source_fingerprint",
        "str",
        "fingerprint of the inputs of the run, which only its writer can interpret",
        required=True,
    ),
    Attribute("step_kind", "str", "what a step counts", required=True, choices=STEP_KINDS),
    Attribute("first_observation", "i8", "number of the first observation, if it is not 0: in segments only"),
    Attribute("planned_observations", "i8", "planned number of observations; an interrupted run has fewer"),
    Attribute("observations_per_epoch", "f8", "observations per epoch, the unit of the smoothing window"),
    Attribute("mask_policy", "str", "observations whose masks are stored: all, every=N or none; all if missing"),
    Attribute("mask_policy_requested", "str", "the policy that the user requested, if that was auto"),
    Attribute("predicted_bytes", "i8", "file size that the writer expected"),
    Attribute("source_adapter", "str", "adapter that read the checkpoints"),
    Attribute("framework", "str", "frameworks that the program came from, with versions"),
    Attribute("engine", "str", "engine that ran the program, with its version"),
    Attribute("device", "str", "device on which the program ran"),
    Attribute("platform", "str", "operating system and processor"),
    Attribute("program_sha256", "str", "SHA-256 of the program's file"),
    Attribute("probe_sha256", "str", "SHA-256 over the probe's arrays, the same for the same probe and writer"),
    Attribute("noise_floor", "f8", "flip fraction of one state under changes without meaning"),
    Attribute("noise_floor_ulp", "f8", "part of the noise floor from moving each weight by one unit in the last place"),
    Attribute("noise_floor_threads", "f8", "part of the noise floor from a different number of threads"),
    Attribute("noise_floor_device", "f8", "part of the noise floor from a different device"),
    Attribute("sample_units", "i8", "largest number of units stored per layer"),
    Attribute("sample_units_seed", "i8", "random seed for the choice of units"),
    Attribute("tensors_compared", "str", "the tensors that count, if not all do"),
)

NOISE_FLOORS = ("noise_floor", "noise_floor_ulp", "noise_floor_threads", "noise_floor_device")
"""The attributes that are measured along with the last observation of a conversion."""

ATTRIBUTE_BY_NAME = {attribute.name: attribute for attribute in ATTRIBUTES}
REQUIRED_ATTRIBUTES = tuple(attribute.name for attribute in ATTRIBUTES if attribute.required)


def metric(name: str) -> Variable:
    """Return the variable that holds the metric `name`, for example ``"loss"``."""
    clean = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)
    return Variable(METRIC_PREFIX + clean, (STEP,), "f8", "1", name)


def metrics(names: Iterable[str]) -> tuple[Variable, ...]:
    """Return the variables that hold the metrics `names`; if two variable names are equal, the later gets a number."""
    found: dict[str, Variable] = {}
    for name in names:
        variable = metric(name)
        number = 1
        while variable.name in found:
            number += 1
            variable = replace(variable, name=f"{metric(name).name}_{number}")
        found[variable.name] = variable
    return tuple(found.values())


def variables(
    names: Iterable[str] = (), *, groups: Container[str] = (), quantities: Iterable[Quantity] = ()
) -> tuple[Variable, ...]:
    """Return all variables of a file with the metrics `names`, these groups of optional variables and quantities."""
    optional = (variable for variable in OPTIONAL if variable.group in groups)
    # A quantity with a variable of version 1.0 is among the optional ones.
    further = (quantity.variable for quantity in quantities if quantity.name not in BY_NAME)
    return (*VARIABLES, *optional, *further, *metrics(names))


def means_time(unit: str) -> bool:
    """Whether netCDF readers decode numbers with this unit as times."""
    return re.search(r"\bsince\b", unit) is not None or unit.lower().rstrip("s") in _TIMES


def is_quantity(name: str) -> bool:
    """Whether a variable of this name holds a quantity."""
    own = name.removeprefix(QUANTITY_PREFIX)
    return own != name and re.fullmatch("[A-Za-z0-9_]+", own) is not None and own not in BY_NAME


def version_for(quantities: Iterable[Quantity]) -> str:
    """Return the format version of a file that holds these quantities."""
    return VERSION if any(quantity.name not in BY_NAME for quantity in quantities) else PLAIN_VERSION


def packed_bytes(size: int, planes: int) -> int:
    """Return the size of one sample's mask, in bytes, for a layer of `size` units and `planes` thresholds."""
    return planes * ((size + 7) // 8)
