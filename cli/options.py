"""Options that several commands share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rich_click as click
from click.shell_completion import CompletionItem

from regime_proto.checkpoints.locations import as_place
from regime_proto.runtime.device_names import CARD, WORDS, is_device
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.nearest import did_you_mean

# Whether a file can be read is for the command to say, in one line.
PATH = click.Path(path_type=Path, readable=False)


class Place(click.ParamType):  # type: ignore[type-arg]
    """A path, or the URL of a directory that fsspec opens."""

    name = "place"

    def shell_complete(self, context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
        """Leave it to the shell to complete a path."""
        return PATH.shell_complete(context, parameter, typed)

    def convert(self, value: object, _parameter: click.Parameter | None, _context: click.Context | None) -> Path:
        """Return the place of an address."""
        return as_place(value)


PLACE = Place()


class Choice(click.Choice):  # type: ignore[type-arg]
    """One of a few words; a wrong one is answered with the nearest."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """Return the word."""
        try:
            return super().convert(value, parameter, context)
        except click.BadParameter as error:
            message = f"{error.message.rstrip('.')}{did_you_mean(str(value), self.choices)}"
            raise click.BadParameter(message, context, parameter) from None


class DeviceName(Choice):
    """A device; the cards of a machine are numbered."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002
        """Return the words, and how a card is written."""
        return f"[{'|'.join([*WORDS, CARD])}]"

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:  # noqa: ARG002
        """Return what else could be given."""
        return f"{value!r} is not one of {', '.join(map(repr, WORDS))}, or {CARD}, for example 'cuda:1'."

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """Return the name."""
        return value if is_device(value) else super().convert(value, parameter, context)


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _all(*decorators: Decorator) -> Decorator:
    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


model = click.option(
    "--model",
    metavar="MODULE:FACTORY",
    help="Function that builds the model, from an installed package or the current directory; or a .onnx or .pt2 file.",
)
probe = click.option(
    "--probe",
    type=PATH,
    metavar="FILE",
    help="Fixed inputs (.npz, .npy, .safetensors), first axis the sample.",
)
probe_text = click.option(
    "--probe-text",
    type=PATH,
    metavar="FILE",
    help="In place of --probe: text, one sample a line, for checkpoints of transformers with their tokenizer. "
    "128 tokens of each are used at most.",
)
steps = click.option("--steps", metavar="A:B", help="Use the steps from A to B, both included.")
overwrite = click.option(
    "--overwrite",
    is_flag=True,
    help="Replace an output made of other inputs; never an input, or a file of another kind than is written.",
)
dry_run = click.option(
    "--dry-run", is_flag=True, help="Check what can be checked beforehand, say what would be written, write nothing."
)
messages = _all(
    click.option("-q", "--quiet", is_flag=True, help="No messages, only results and errors."),
    click.option("-v", "--verbose", is_flag=True, help="Show everything."),
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
batches_per_epoch = click.option(
    "--batches-per-epoch",
    type=float,
    metavar="N",
    help="Training steps per epoch; the smoothing window is 0.3 epochs.",
)
preset = click.option(
    "--preset",
    type=Choice(["paper", "strict"]),
    default="paper",
    show_default=True,
    help="paper: comparable with published numbers; strict: no padding at the ends.",
)
resamples = click.option(
    "--resamples",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    metavar="N",
    help="Other probes and other courses of the run that are drawn for the intervals of AUC and ρ; 0 for none.",
)
gates = click.option(
    "--gates",
    multiple=True,
    metavar="GLOB",
    help="Gates to track, by module path or node name, op:Gelu, kind:smooth; '!GLOB' leaves some out. "
    "May be repeated. Default: all ReLUs and piecewise gates.",
)
device = click.option(
    "--device",
    type=DeviceName(WORDS),
    default="auto",
    show_default=True,
    help="Where the forward passes run; cuda:1 is the second of several cards.",
)
source_settings = _all(
    click.option(
        "--adapter",
        metavar="NAME",
        help="Read the directory with this adapter, whatever it is recognised as; a wrong NAME lists all.",
    ),
    click.option(
        "--step-pattern",
        metavar="REGEX",
        help="Where the step stands in the names of files or folders, as one group: 'ckpt_(\\d+)', or the epoch: "
        "'ckpt_(?P<epoch>\\d+)'. In the group 20k, 3M, 1B and 1,000 are whole numbers; decimals are refused.",
    ),
    click.option(
        "--weights",
        metavar="KEY",
        help="Which weights, where a checkpoint holds several: the key they lie under (ema), or how their names begin.",
    ),
)


def parse_notes(given: Sequence[str]) -> dict[str, str]:
    """Return what ``--note KEY=VALUE`` says, by key.

    Raises
    ------
    RegimeError
        One is written otherwise, or a key is given twice.
    """
    notes: dict[str, str] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign:
            raise RegimeError(f"--note {text!r}: expected KEY=VALUE, for example --note optimizer=SGD")
        if name in notes:
            raise RegimeError(f"--note {name}: given twice, {notes[name]!r} and {value!r}; give it once")
        notes[name] = value
    return notes


conversion = _all(
    model,
    probe,
    probe_text,
    source_settings,
    steps,
    gates,
    click.option(
        "--sample-units",
        type=click.IntRange(2),
        metavar="N",
        help="Look at N units of each layer only, chosen at random, and give the standard error.",
    ),
    click.option("--sample-seed", type=click.IntRange(0), default=0, show_default=True, help="Of that choice."),
    click.option(
        "--parts",
        default="auto",
        show_default=True,
        metavar="N",
        help="Measure a model larger than memory part by part: in N parts at least, auto: where two states do not fit "
        "into half of the free memory, or off. The result is the same.",
    ),
    click.option("--every", type=int, metavar="K", help="Use every K-th checkpoint."),
    device,
    click.option(
        "--workers",
        type=click.IntRange(1),
        metavar="N",
        help="Checkpoints in flight, of one run or of several; default: one per core, fewer where memory is short.",
    ),
    click.option(
        "--masks",
        default="auto",
        show_default=True,
        metavar="POLICY",
        help="Which observations keep their masks: all, every=N, none, or auto: all while the file stays below 2 GB, "
        "else thinned evenly. Flips and deltas are always complete.",
    ),
    click.option(
        "--embed",
        type=Choice(["program", "all", "none"]),
        default="program",
        show_default=True,
        help="What the trajectory carries for others: the program, or the probe too.",
    ),
    click.option(
        "--noise",
        type=Choice(["quick", "full", "none"]),
        default="quick",
        show_default=True,
        help="How to measure the noise floor: by one more pass of the last state, by nine of three states, not at all.",
    ),
    click.option(
        "--measure",
        multiple=True,
        metavar="NAME",
        help="Measure a quantity beside weight and pattern changes: a name that `regime quantities` lists, or all, "
        "weights, patterns, function. May be repeated.",
    ),
    click.option(
        "--interior-points",
        type=click.IntRange(1),
        metavar="N",
        help="With --measure interior_flips: points between two checkpoints; default: 3, or those of the trajectory "
        "that is there already.",
    ),
    click.option("--distance", is_flag=True, help="The same as --measure weight_distance_l2."),
    click.option(
        "--note",
        "notes",
        multiple=True,
        metavar="KEY=VALUE",
        help="Tell something of the run: model, dataset, optimizer, family, seed, batch_size, learning_rate, or what "
        "you like. May be repeated; a trajectory that is there already gets it too.",
    ),
    click.option(
        "--keep-downloads",
        is_flag=True,
        help="Keep the checkpoints that are fetched from the Hugging Face Hub, in OUTPUT.downloads.",
    ),
    batches_per_epoch,
    overwrite,
    dry_run,
)
