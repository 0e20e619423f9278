"""``regime program``: writes the program and the probe of a directory."""

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from regime_proto.cli import options
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages
from regime_proto.cli.output import write_files
from regime_proto.schema.errors import RegimeError

if TYPE_CHECKING:
    from regime_proto.conversion.unpack import Unpacked


@command
@click.argument("trajectory", type=options.PATH, required=False)
@options.model
@options.probe
@options.probe_text
@click.option(
    "-o",
    "--output",
    required=True,
    type=options.PATH,
    metavar="DIR",
    help="Directory of the checkpoints, to which both files are written.",
)
@options.overwrite
@options.dry_run
@options.source_settings
@options.messages
def program(
    trajectory: Path | None,
    model: str | None,
    probe: Path | None,
    probe_text: Path | None,
    output: Path,
    overwrite: bool,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    **source_settings: str | None,
) -> None:
    """Write program.onnx and probe.npz next to checkpoints, which can then be analyzed without further options.

    They are created from a model and a probe, or copied from a TRAJECTORY that embeds them, so that other checkpoints
    are measured in the same way.

    For example:
        regime program --model mypkg.net:make --probe val.npz -o checkpoints/
        regime program run.h5 -o others-checkpoints/
    """
    messages = Messages(quiet=quiet, verbose=verbose)
    _refuse_file_for_directory(output)
    with messages.collecting():
        if trajectory is None:
            if probe_text is None and (model is None or probe is None):
                missing = "--model" if model is None else "--probe"
                raise RegimeError(f"{missing} is missing; give --model and --probe, or a trajectory that embeds them")
            from regime_proto.conversion.plan import program_files
            from regime_proto.plugins.source_settings import SourceSettings

            contents = program_files(
                output,
                model=model,
                probe=probe,
                probe_text=probe_text,
                settings=SourceSettings(**source_settings),
                exporting=messages.exporting,
            )
            note = ""
        else:
            apart = {"--model": model, "--probe": probe, "--probe-text": probe_text}
            refused = next((name for name, value in apart.items() if value is not None), None)
            if refused is not None:
                raise RegimeError(
                    f"{refused}: cannot be combined with a trajectory; give either a trajectory, or --model and --probe"
                )
            from regime_proto.conversion.unpack import unpack

            unpacked = unpack(trajectory, output)
            contents, note = unpacked.contents, _without_probe(trajectory, unpacked)
        write_files(output, contents, overwrite=overwrite, dry_run=dry_run, messages=messages)
        if note:
            messages.note(note)


def _refuse_file_for_directory(output: Path) -> None:
    """Raise an error if a file is given instead of a directory."""
    if output.is_file() or (output.suffix in (".onnx", ".npz") and not output.is_dir()):
        raise RegimeError(
            f"{output}: a file; expected the directory of the checkpoints, to which program.onnx and probe.npz are "
            f"written: -o {output.parent}"
        )


def _without_probe(trajectory: Path, unpacked: "Unpacked") -> str:
    """Return advice if a trajectory embeds no probe; empty if it does."""
    if unpacked.has_probe:
        return ""
    inputs = ", ".join(f"{name}: {spec}" for name, spec in unpacked.inputs.items())
    return f"{trajectory} embeds no probe; pass your own to `regime analyze` with --probe FILE ({inputs})"
