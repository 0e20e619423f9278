"""The rules of the format, by the ids under which FORMAT.md and every message name them."""

from dataclasses import dataclass

ERROR = "error"
WARNING = "warning"


@dataclass(frozen=True)
class Rule:
    """One rule.

    Parameters
    ----------
    id : str
        Stable: it keeps its meaning in all versions.
    severity : str
        `ERROR`: readers refuse the file; `WARNING`: they read it.
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
    expected, found : str
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
    """Return the problems for which readers refuse a file."""
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
    Rule("link-single", ERROR, "Every object MUST have one name only."),
    Rule("object-kind", ERROR, "Objects MUST be datasets or groups, fewer than 10,000."),
    Rule("attribute-size", ERROR, "An attribute MUST be smaller than 1 MiB, and an object have fewer than 1,000."),
    Rule(
        "attribute-kind",
        ERROR,
        "Attributes MUST be numbers or strings, besides those by which HDF5 attaches dimension scales.",
    ),
    Rule(
        "type-plain",
        ERROR,
        "Variables MUST be integers or IEEE floats of 1 to 8 bytes, or strings.",
    ),
    Rule("storage-inside", ERROR, "Data MUST lie in the file: neither external storage nor virtual datasets."),
    Rule("filter-known", ERROR, "Filters MUST be deflate, shuffle or fletcher32, each once at most."),
    Rule(
        "size-limit",
        ERROR,
        "A chunk MUST NOT be larger than 64 MiB, nor 128 MiB a variable that does not grow, or one entry along a "
        "growing dimension.",
    ),
    Rule("chunk-count", ERROR, "Every chunk MUST be written, and nothing besides."),
    Rule(
        "chunk-stored",
        ERROR,
        "A stored chunk MUST lie in the file and MUST NOT be larger than the chunk by more than 1 % and 128 bytes.",
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
    Rule("attribute-type", ERROR, "Root attributes MUST be scalars of the type that the table gives."),
    Rule("attribute-choice", ERROR, "A root attribute with a list of values MUST have one of them."),
    Rule("attribute-time", ERROR, "`created` MUST be a date and time with its offset from UTC, in ISO 8601."),
    Rule("variable-present", ERROR, "Required variables MUST be present."),
    Rule("variable-group", ERROR, "Of a group of optional variables all MUST be present, or none."),
    Rule("variable-dims", ERROR, "A variable MUST have as many dimensions as the table gives."),
    Rule("variable-type", ERROR, "A variable MUST have the type that the table gives, in either byte order."),
    Rule("variable-fill", ERROR, "A variable MUST NOT have an attribute `_FillValue`."),
    Rule(
        "quantity-dims",
        ERROR,
        "A quantity MUST lie over `step`, or over `step` and `tensor`, `layer`, `sample`, or `layer` and `sample`.",
    ),
    Rule(
        "quantity-says",
        WARNING,
        "A quantity SHOULD carry `against` and `curve`, each one of the words for it, and `definition`.",
    ),
    Rule(
        "variable-decoded",
        ERROR,
        "A variable MUST NOT have an attribute by which netCDF readers change its values, nor `units` of another kind.",
    ),
    Rule(
        "variable-label",
        WARNING,
        "A variable SHOULD carry `long_name`, and `units` where it has a unit; metrics their own name as `long_name`.",
    ),
    Rule("dimension-length", ERROR, "Variables MUST have the same length along a dimension that they share."),
    Rule("dimension-empty", ERROR, "Dimensions that do not grow MUST NOT be empty."),
    Rule(
        "dimension-scale",
        ERROR,
        "Every axis MUST be attached to the dimension scale of its name; one without values MUST be marked as such.",
    ),
    Rule("dimension-unlimited", WARNING, "Growing dimensions SHOULD be unlimited."),
    Rule("name-known", WARNING, "Names that this format does not define SHOULD stand in the group `extra`."),
)

_VALUES = (
    Rule("step-some", ERROR, "There MUST be one observation at least."),
    Rule("step-order", ERROR, "`step` MUST increase strictly."),
    Rule("mask-step", ERROR, "`mask_step` MUST increase strictly and hold values of `step` only."),
    Rule("mask-policy", ERROR, "`mask_step` MUST hold the steps that `mask_policy` says."),
    Rule("valid-value", ERROR, "`valid` MUST be 0 or 1."),
    Rule("name-unique", ERROR, "Names MUST be UTF-8, and those of tensors and of layers unique and not empty."),
    Rule("layer-kind", ERROR, "`layer_kind` MUST be one of relu, piecewise, smooth."),
    Rule("layer-size", ERROR, "Sizes MUST NOT be negative; a layer MUST have one unit and one plane at least."),
    Rule(
        "layer-threshold",
        ERROR,
        "`layer_threshold` MUST increase strictly over the planes of a layer and be NaN beyond.",
    ),
    Rule("layer-units", ERROR, "`layer_units` MUST lie between 0 and the units of the layer that are stored."),
    Rule("layer-bytes", ERROR, "Layers MUST follow one another along `byte` without a gap, in their packed sizes."),
    Rule("unit-index", ERROR, "`unit_index` MUST increase strictly, below `layer_size`, and be -1 beyond."),
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
        "Where masks of neighbouring observations are stored, `flips` MUST count the units in which they differ.",
    ),
    Rule("embedded-digest", ERROR, "`program_sha256` MUST be the SHA-256 of `program`, where both are present."),
)

RULES = {rule.id: rule for rule in (*_OPENING, *_STRUCTURE, *_CONTENTS, *_VALUES)}
