"""The rules of the format. FORMAT.md and all messages name them by their ids."""

from dataclasses import dataclass

ERROR = "error"
WARNING = "warning"


@dataclass(frozen=True)
class Rule:
    """One rule.

    Parameters
    ----------
    id : str
        Stable: an id keeps its meaning in all versions.
    severity : str
        `ERROR`: readers refuse the file. `WARNING`: readers accept it.
    text : str
        The rule, as in FORMAT.md.
    """

    id: str
    severity: str
    text: str


@dataclass(frozen=True)
class Problem:
    """One place where a file breaks a rule.

    Parameters
    ----------
    rule : str
        Id of the rule.
    where : str
        Path inside the file; ``/flips@units`` is an attribute, ``/`` the file as a whole.
    expected : str
        What the rule requires.
    found : str
        What the file holds.
    """

    rule: str
    where: str
    expected: str
    found: str

    @property
    def severity(self) -> str:
        """`ERROR` or `WARNING`."""
        return RULES[self.rule].severity

    def __str__(self) -> str:
        where = "" if self.where == "/" else f"{self.where}: "
        return f"{where}expected {self.expected}, found {self.found} [{self.rule}]"


def errors(problems: "list[Problem]") -> "list[Problem]":
    """Return the problems that make readers refuse a file."""
    return [problem for problem in problems if problem.severity == ERROR]


_OPENING = (
    Rule("file-hdf5", ERROR, "The file MUST be an HDF5 file, with its signature at the first byte, and undamaged."),
    Rule(
        "file-safe",
        ERROR,
        "Reading the file MUST NOT crash the HDF5 library, nor take more memory or time than its size explains.",
    ),
)

_STRUCTURE = (
    Rule("link-hard", ERROR, "Every link MUST be a hard link."),
    Rule("link-single", ERROR, "Every object MUST have only one name."),
    Rule("object-kind", ERROR, "Objects MUST be datasets or groups, and there MUST be fewer than 10,000."),
    Rule(
        "attribute-size",
        ERROR,
        "An attribute MUST be smaller than 1 MiB, and an object MUST have fewer than 1,000 attributes.",
    ),
    Rule(
        "attribute-kind",
        ERROR,
        "Attributes MUST be numbers or strings, except those with which HDF5 attaches dimension scales.",
    ),
    Rule(
        "type-plain",
        ERROR,
        "Variables MUST be integers or IEEE floats of 1 to 8 bytes, or strings.",
    ),
    Rule("storage-inside", ERROR, "Data MUST be in the file: neither external storage nor virtual datasets."),
    Rule("filter-known", ERROR, "Filters MUST be deflate, shuffle or fletcher32, each at most once."),
    Rule(
        "size-limit",
        ERROR,
        "A chunk MUST NOT be larger than 64 MiB, nor 128 MiB a variable that does not grow, or one entry along a "
        "growing dimension.",
    ),
    Rule("chunk-count", ERROR, "Every chunk MUST be written, and nothing else."),
    Rule(
        "chunk-stored",
        ERROR,
        "A stored chunk MUST be inside the file and MUST NOT be larger than the chunk by more than 1 % and 128 bytes.",
    ),
    Rule("chunk-inflated", ERROR, "A stored chunk MUST inflate to exactly the size of the chunk."),
)

_CONTENTS = (
    Rule("version-present", ERROR, "The root attribute `regime_version` MUST be a string MAJOR.MINOR."),
    Rule("version-major", ERROR, "A reader MUST refuse a major version that it does not know."),
    Rule(
        "version-minor",
        WARNING,
        "A reader MUST read what it knows of a newer minor version, and SHOULD say that there is more.",
    ),
    Rule("attribute-present", ERROR, "Required root attributes MUST be present."),
    Rule("attribute-type", ERROR, "Root attributes MUST be scalars of the type in the table."),
    Rule("attribute-choice", ERROR, "A root attribute with a list of allowed values MUST have one of them."),
    Rule("attribute-time", ERROR, "`created` MUST be a date and time with its offset from UTC, in ISO 8601."),
    Rule("variable-present", ERROR, "Required variables MUST be present."),
    Rule("variable-group", ERROR, "Either all variables of an optional group MUST be present, or none."),
    Rule("variable-dims", ERROR, "A variable MUST have the number of dimensions in the table."),
    Rule("variable-type", ERROR, "A variable MUST have the type in the table, in either byte order."),
    Rule("variable-fill", ERROR, "A variable MUST NOT have an attribute `_FillValue`."),
    Rule(
        "quantity-dims",
        ERROR,
        "A quantity MUST have the dimension `step`, alone or with `tensor`, `layer`, `sample` or `layer` and `sample`.",
    ),
    Rule(
        "quantity-says",
        WARNING,
        "A quantity SHOULD have `against` and `curve`, each with an allowed value, and `definition`.",
    ),
    Rule(
        "variable-decoded",
        ERROR,
        "A variable MUST NOT have attributes that make netCDF readers change its values, nor `units` of another kind.",
    ),
    Rule(
        "variable-label",
        WARNING,
        "A variable SHOULD have `long_name`, and `units` if it has a unit; metrics have their own name as `long_name`.",
    ),
    Rule("dimension-length", ERROR, "Variables MUST have the same length along a shared dimension."),
    Rule("dimension-empty", ERROR, "Dimensions that do not grow MUST NOT be empty."),
    Rule(
        "dimension-scale",
        ERROR,
        "Every axis MUST be attached to the dimension scale of its name; a scale without values MUST be marked so.",
    ),
    Rule("dimension-unlimited", WARNING, "Growing dimensions SHOULD be unlimited."),
    Rule("name-known", WARNING, "Names that this format does not define SHOULD be in the group `extra`."),
)

_VALUES = (
    Rule("step-some", ERROR, "There MUST be at least one observation."),
    Rule("step-order", ERROR, "`step` MUST be strictly increasing."),
    Rule("mask-step", ERROR, "`mask_step` MUST be strictly increasing and hold only values of `step`."),
    Rule("mask-policy", ERROR, "`mask_step` MUST hold the steps that `mask_policy` selects."),
    Rule("valid-value", ERROR, "`valid` MUST be 0 or 1."),
    Rule("name-unique", ERROR, "Names MUST be UTF-8; names of tensors and of layers MUST be unique and not empty."),
    Rule("layer-kind", ERROR, "`layer_kind` MUST be one of relu, piecewise, smooth."),
    Rule("layer-size", ERROR, "Sizes MUST NOT be negative; a layer MUST have at least one unit and one plane."),
    Rule(
        "layer-threshold",
        ERROR,
        "`layer_threshold` MUST be strictly increasing over the planes of a layer and NaN beyond.",
    ),
    Rule("layer-units", ERROR, "`layer_units` MUST be between 0 and the number of stored units of the layer."),
    Rule("layer-bytes", ERROR, "Layers MUST follow one another along `byte` without a gap, in their packed sizes."),
    Rule("unit-index", ERROR, "`unit_index` MUST be strictly increasing, below `layer_size`, and -1 beyond."),
    Rule(
        "first-row",
        ERROR,
        "In the first row changes of weights MUST be NaN, flips, errors and distances 0, and quantities against the "
        "previous observation NaN.",
    ),
    Rule(
        "delta-value",
        ERROR,
        "Norms of weights and errors MUST NOT be negative, and MUST be finite where this and the previous observation "
        "are valid.",
    ),
    Rule("flips-bound", ERROR, "`flips` MUST NOT be larger than `layer_units`."),
    Rule("mask-padding", ERROR, "Bits of `mask` beyond a layer's last stored unit MUST be 0."),
    Rule(
        "mask-flips",
        ERROR,
        "If masks of neighbouring observations are stored, `flips` MUST count the units in which they differ.",
    ),
    Rule("embedded-digest", ERROR, "`program_sha256` MUST be the SHA-256 of `program`, if both are present."),
)

RULES = {rule.id: rule for rule in (*_OPENING, *_STRUCTURE, *_CONTENTS, *_VALUES)}
