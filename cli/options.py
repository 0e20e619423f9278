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

# The command itself reports a file that cannot be read, in one line.
PATH = click.Path(path_type=Path, readable=False)


class Place(click.ParamType):  # type: ignore[type-arg]
    """A path, or the URL of a directory that fsspec opens."""

    name = "place"

    def shell_complete(self, context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
        """Complete a path as the shell does."""
        return PATH.shell_complete(context, parameter, typed)

    def convert(self, value: object, _parameter: click.Parameter | None, _context: click.Context | None) -> Path:
        """Return the path or URL as a `Path`."""
        return as_place(value)


PLACE = Place()


class Choice(click.Choice):  # type: ignore[type-arg]
    """One of several words; the error for a wrong word suggests the nearest."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """Return the word."""
        try:
            return super().convert(value, parameter, context)
        except click.BadParameter as error:
            message = f"{error.message.rstrip('.')}{did_you_mean(str(value), self.choices)}"
            raise click.BadParameter(message, context, parameter) from None


class DeviceName(Choice):
    """A device; the GPUs of a machine are numbered."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002
        """Return the device names and the notation for a numbered GPU."""
        return f"[{'|'.join([*WORDS, CARD])}]"

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:  # noqa: ARG002
        """Return the valid choices."""
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
    help="Fixed inputs (.npz, .npy, .safetensors); the first axis is the sample.",
)
probe_text = click.option(
    "--probe-text",
    type=PATH,
    metavar="FILE",
    help="Text to use instead of --probe, one sample per line, for transformers checkpoints with their tokenizer. "
    "At most 128 tokens per line are used.",
)
steps = click.option("--steps", metavar="A:B", help="Use only the steps from A to B, both included.")
overwrite = click.option(
    "--overwrite",
    is_flag=True,
    help="Replace an existing output, even one made from different inputs. Inputs and files of a different kind are "
    "never replaced.",
)
dry_run = click.option(
    "--dry-run", is_flag=True, help="Check the inputs and say what would be written, but write nothing."
)
messages = _all(
    click.option("-q", "--quiet", is_flag=True, help="Print only results and errors."),
    click.option("-v", "--verbose", is_flag=True, help="Show full lists and details."),
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
batches_per_epoch = click.option(
    "--batches-per-epoch",
    type=float,
    metavar="N",
    help="Training steps per epoch. The smoothing window is 0.3 epochs.",
)
preset = click.option(
    "--preset",
    type=Choice(["paper", "strict"]),
    default="paper",
    show_default=True,
    help="Smoothing at the ends of the run: paper is comparable with published numbers; strict uses no padding.",
)
resamples = click.option(
    "--resamples",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    metavar="N",
    help="Number of bootstrap resamples of the probe and of the run for the intervals of AUC and ρ; 0 for no "
    "intervals.",
)
gates = click.option(
    "--gates",
    multiple=True,
    metavar="GLOB",
    help="Gates to track: a glob of module paths or node names, op:Gelu, or kind:smooth; '!GLOB' excludes gates. "
    "May be repeated. Default: all ReLUs and piecewise gates.",
)
device = click.option(
    "--device",
    type=DeviceName(WORDS),
    default="auto",
    show_default=True,
    help="Device for the forward passes; cuda:1 is the second GPU.",
)
source_settings = _all(
    click.option(
        "--adapter",
        metavar="NAME",
        help="Read the directory with this adapter instead of the detected one. An unknown NAME lists all adapters.",
    ),
    click.option(
        "--step-pattern",
        metavar="REGEX",
        help="Regular expression for file or folder names whose one group is the step, 'ckpt_(\\d+)', or the epoch, "
        "'ckpt_(?P<epoch>\\d+)'. 20k, 3M, 1B and 1,000 in the group are read as whole numbers; decimals are refused.",
    ),
    click.option(
        "--weights",
        metavar="KEY",
        help="Weights to use if a checkpoint holds several sets: their key, such as ema, or the prefix of their names.",
    ),
)


def parse_notes(given: Sequence[str]) -> dict[str, str]:
    """Return the values of ``--note KEY=VALUE`` by key.

    Raises
    ------
    RegimeError
        A note is not of the form KEY=VALUE, or a key is given twice.
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
        help="Measure only N randomly chosen units of each layer, and report the standard error.",
    ),
    click.option(
        "--sample-seed",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Random seed for --sample-units.",
    ),
    click.option(
        "--parts",
        default="auto",
        show_default=True,
        metavar="N",
        help="Measure a model that is larger than memory part by part: N, for at least N parts; auto, if two states do "
        "not fit into half of the free memory; or off. The result is the same.",
    ),
    click.option("--every", type=int, metavar="K", help="Use every K-th checkpoint."),
    device,
    click.option(
        "--workers",
        type=click.IntRange(1),
        metavar="N",
        help="Number of checkpoints to process at the same time, over all runs. Default: one per core, fewer if "
        "memory is short.",
    ),
    click.option(
        "--masks",
        default="auto",
        show_default=True,
        metavar="POLICY",
        help="Observations whose masks are stored: all, every=N, none, or auto (all if the file stays below 2 GB, "
        "otherwise evenly thinned). Flips and deltas are always complete.",
    ),
    click.option(
        "--embed",
        type=Choice(["program", "all", "none"]),
        default="program",
        show_default=True,
        help="What to embed in the trajectory for other users: the program, all (program and probe), or none.",
    ),
    click.option(
        "--noise",
        type=Choice(["quick", "full", "none"]),
        default="quick",
        show_default=True,
        help="How to measure the noise floor: quick (one more pass of the last state), full (nine more passes of the "
        "first, middle and last state), or none.",
    ),
    click.option(
        "--measure",
        multiple=True,
        metavar="NAME",
        help="Quantity to measure in addition to weight and pattern changes: a name listed by `regime quantities`, or "
        "all, weights, patterns or function. May be repeated.",
    ),
    click.option(
        "--interior-points",
        type=click.IntRange(1),
        metavar="N",
        help="Number of points between two checkpoints for --measure interior_flips. Default: 3, or the number in the "
        "existing trajectory.",
    ),
    click.option("--distance", is_flag=True, help="Same as --measure weight_distance_l2."),
    click.option(
        "--note",
        "notes",
        multiple=True,
        metavar="KEY=VALUE",
        help="Note to store about the run: model, dataset, optimizer, family, seed, batch_size, learning_rate, or any "
        "other key. May be repeated. Notes are also added to an existing trajectory.",
    ),
    click.option(
        "--keep-downloads",
        is_flag=True,
        help="Keep checkpoints fetched from the Hugging Face Hub in OUTPUT.downloads.",
    ),
    batches_per_epoch,
    overwrite,
    dry_run,
)
