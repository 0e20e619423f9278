"""``regime inspect``: shows what is detected, before any work."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from regime_proto.cli import options
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages
from regime_proto.cli.sources import refuse_other_file
from regime_proto.schema.errors import RegimeError

if TYPE_CHECKING:
    from regime_proto.checkpoints.source import Checkpoint, Source
    from regime_proto.conversion.settings import ConversionSettings


@command
@click.argument("source", type=options.PLACE)
@options.model
@options.probe
@options.probe_text
@options.gates
@options.source_settings
@options.messages
def inspect(
    source: Path,
    model: str | None,
    probe: Path | None,
    probe_text: Path | None,
    gates: tuple[str, ...],
    quiet: bool,
    verbose: bool,
    **source_settings: str | None,
) -> None:
    """Show what is detected in a directory, a program.onnx or a trajectory, before any work.

    Lists every gate of the graph, and the reason for each gate that is not tracked.

    Example: regime inspect checkpoints/
    """
    from regime_proto.cli import render, render_inspection
    from regime_proto.conversion.settings import ConversionSettings
    from regime_proto.plugins.source_settings import SourceSettings

    messages = Messages(quiet=quiet, verbose=verbose)
    console = render.console()
    with messages.collecting():
        if source.suffix == ".onnx":
            from regime_proto.program.gates import find_gates, select_gates
            from regime_proto.program.program import Program

            program = Program.load(source)
            found = find_gates(program)
            render.show(console, render_inspection.program(program, found, select_gates(found, gates)))
        elif source.is_file():
            refuse_other_file(source)
            render.show(console, render_inspection.trajectory(source))
        else:
            settings = ConversionSettings(
                model=model, probe=probe, probe_text=probe_text, gates=gates, source=SourceSettings(**source_settings)
            )
            _inspect_directory(source, messages, settings)


def _inspect_directory(root: Path, messages: Messages, settings: "ConversionSettings") -> None:
    from regime_proto.cli import render, render_inspection
    from regime_proto.conversion.parting import foreseen_parts
    from regime_proto.conversion.plan import MissingPart, make_plan
    from regime_proto.plugins.open_directory import open_directory

    console = render.console()
    found = open_directory(root, settings.source)
    render.show(console, render_inspection.source(found, everything=messages.verbose))
    if found.copies is not None and settings.probe is None and settings.probe_text is None:
        messages.note("no weights were fetched; to see the gates, give --probe or --probe-text")
        return
    render.show(console, "")
    if found.copies is None:
        # Finds damage that would stop an analysis at its first or last checkpoint.
        ends = dict.fromkeys((found.checkpoints[0], found.checkpoints[-1]))
        epochs = [_look_at(found, checkpoint) for checkpoint in ends]
        render.show(console, render_inspection.epoch(epochs, found.step_kind))
        render.show(console, "")
    try:
        plan = make_plan(root, settings, exporting=messages.exporting)
    except MissingPart as missing:
        # A directory that holds only checkpoints can be inspected too.
        messages.note(f"not yet ready to analyze: {missing}")
        return
    render.show(console, render_inspection.plan(plan, foreseen_parts(plan, settings)))


def _look_at(found: "Source", checkpoint: "Checkpoint") -> float:
    """Read a checkpoint, if possible without holding its tensors in memory; return its epoch, NaN if unknown."""
    if found.read_lazily is not None:
        with contextlib.suppress(RegimeError):
            return found.read_lazily(checkpoint).epoch
    return found.read(checkpoint).epoch
