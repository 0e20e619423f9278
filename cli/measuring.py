"""The commands that measure: from checkpoints to a trajectory and a result."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from regime_proto.checkpoints.locations import is_remote
from regime_proto.cli import options
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages
from regime_proto.cli.converting import converted, foresee, settings_of
from regime_proto.cli.interruption import leaving
from regime_proto.cli.output import would, write_files
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.validation.guard import require_file

if TYPE_CHECKING:
    from regime_proto.analyzer.result import Result
    from regime_proto.conversion.settings import ConversionSettings
    from regime_proto.conversion.unpack import Unpacked


@command
@click.argument("source", type=options.PLACE)
@options.conversion
@click.option("-o", "--output", type=options.PATH, help="Trajectory to write; default SOURCE.regime.h5.")
@options.preset
@options.resamples
@click.option("--follow", is_flag=True, help="Go on as new checkpoints appear, until Ctrl-C.")
@click.option(
    "--poll",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="With --follow: how often to look for new checkpoints.",
)
@options.as_json
@options.messages
def analyze(
    source: Path,
    output: Path | None,
    preset: str,
    resamples: int,
    follow: bool,
    poll: float,
    as_json: bool,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    **conversion: Any,
) -> None:
    """Analyze a directory of checkpoints, a sequence on the Hugging Face Hub, or a trajectory file.

    Checkpoints are converted first; the trajectory is kept and used again while nothing changed. Checkpoints that
    were added since are observed and added. With --json and --follow every update is a line. Those on the Hub are
    fetched one at a time: 'hf://ORG/NAME@step*' are branches and tags, 'hf://ORG/relu-{step}B' repositories,
    'hf://ORG/NAME@main~commits' the commits of a branch.

    For example:
        regime analyze checkpoints/ --model mypkg.net:make --probe val.npz
        regime analyze run.h5 --preset strict --json
        regime analyze 'hf://ORG/NAME@step*' --probe-text lines.txt --dry-run
    """
    import regime_proto

    messages = Messages(quiet=quiet, verbose=verbose, as_json=as_json)
    settings = settings_of(conversion)

    def result_of(trajectory: Path, steps: str | None = None) -> "Result":
        found = regime_proto.analyze(
            trajectory,
            preset=preset,
            steps=steps,
            batches_per_epoch=settings.batches_per_epoch,
            resamples=resamples,
        )
        for warning in found.warnings:
            messages.warn(warning)
        return found

    with messages.collecting():
        if dry_run and (follow or source.is_dir()):
            foresee(source, output, messages, settings, follow=follow)
            return
        if follow:
            _follow(source, output, messages, settings, analyze=result_of, as_json=as_json, seconds=poll)
            return
        if source.is_dir():
            trajectory, steps = converted(source, output, messages, settings), None
            complete = f"{trajectory} is complete"
        else:
            _refuse_remote_file(source)
            require_file(source)
            _refuse_other_file(source)
            _refuse_for_trajectory(source, output, settings)
            trajectory, steps, complete = source, settings.steps, ""
        with leaving(lambda: complete):
            result = result_of(trajectory, steps)
    if dry_run:
        would(f"analyze {trajectory}, and write nothing")
        return
    if as_json:
        # Those of the conversion come before those of the analysis.
        click.echo(json.dumps({**result.to_json(), "warnings": messages.warnings}, allow_nan=False))
        return
    from regime_proto.cli import render

    render.show(render.console(), render.analysis(result, all_layers=verbose))


@command
@click.argument("source", type=options.PLACE)
@options.conversion
@click.option("-o", "--output", type=options.PATH, required=True, help="Trajectory to write.")
@options.messages
def convert(source: Path, output: Path, dry_run: bool, quiet: bool, verbose: bool, **conversion: Any) -> None:
    """Convert a directory of checkpoints into a trajectory file.

    An interrupted conversion goes on where it stopped.

    For example:
        regime convert checkpoints/ -o run.h5 --dry-run
        regime convert checkpoints/ -o run.h5 --masks every=10
    """
    from regime_proto.conversion.run import warn_of_doubts

    messages = Messages(quiet=quiet, verbose=verbose)
    with messages.collecting():
        settings = settings_of(conversion)
        if dry_run:
            foresee(source, output, messages, settings)
            return
        trajectory = converted(source, output, messages, settings)
        with leaving(lambda: f"{trajectory} is complete"):
            warn_of_doubts(trajectory)


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
    help="The directory of the checkpoints.",
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
    """Write program.onnx and probe.npz, so that a directory of checkpoints explains itself.

    From a model and a probe, or from a TRAJECTORY that carries them: then others' checkpoints are measured in the
    same way.

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
                raise RegimeError(f"{missing} is missing; give --model and --probe, or a trajectory that carries them")
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
                raise RegimeError(f"{refused}: give either a trajectory, or --model and --probe")
            from regime_proto.conversion.unpack import unpack

            unpacked = unpack(trajectory, output)
            contents, note = unpacked.contents, _without_probe(trajectory, unpacked)
        write_files(output, contents, overwrite=overwrite, dry_run=dry_run, messages=messages)
        if note:
            messages.note(note)


def _refuse_file_for_directory(output: Path) -> None:
    """Raise an error for the name of a file, where that of the directory is meant."""
    if output.is_file() or (output.suffix in (".onnx", ".npz") and not output.is_dir()):
        raise RegimeError(
            f"{output}: a file; -o is the directory of the checkpoints, which gets program.onnx and probe.npz: "
            f"-o {output.parent}"
        )


def _without_probe(trajectory: Path, unpacked: "Unpacked") -> str:
    """Return what to do where a trajectory carries no probe; nothing where it does."""
    if unpacked.has_probe:
        return ""
    inputs = ", ".join(f"{name}: {spec}" for name, spec in unpacked.inputs.items())
    return f"{trajectory} carries no probe: give one of your own to `regime analyze`, --probe FILE ({inputs})"


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
    """Show what is recognised in a directory, a program.onnx or a trajectory, before any work.

    Every gate of the graph is listed, with the reason where one is not tracked.

    Example: regime inspect checkpoints/
    """
    from regime_proto.cli import inspection, render
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
            render.show(console, inspection.program(program, found, select_gates(found, gates)))
        elif source.is_file():
            _refuse_other_file(source)
            render.show(console, inspection.trajectory(source))
        else:
            settings = ConversionSettings(
                model=model, probe=probe, probe_text=probe_text, gates=gates, source=SourceSettings(**source_settings)
            )
            _inspect_directory(source, messages, settings)


def _inspect_directory(root: Path, messages: Messages, settings: "ConversionSettings") -> None:
    from regime_proto.cli import inspection, render
    from regime_proto.conversion.plan import MissingPart, make_plan
    from regime_proto.plugins.open_directory import open_directory

    console = render.console()
    found = open_directory(root, settings.source)
    render.show(console, inspection.source(found, everything=messages.verbose))
    if found.copies is not None and settings.probe is None and settings.probe_text is None:
        messages.note("nothing is fetched to inspect it; give --probe or --probe-text to see its gates")
        return
    render.show(console, "")
    if found.copies is None:
        # What would keep an analysis from beginning or from ending is found here, too.
        for checkpoint in dict.fromkeys((found.checkpoints[0], found.checkpoints[-1])):
            found.read(checkpoint)
    try:
        plan = make_plan(root, settings, exporting=messages.exporting)
    except MissingPart as missing:
        # A directory of checkpoints alone is worth looking at too.
        messages.note(f"not yet ready to analyze: {missing}")
        return
    render.show(console, inspection.plan(plan))


@command
@click.option(
    "-o", "--out", type=options.PATH, default=Path("regime-demo"), show_default=True, metavar="DIR",
    help="Where the run goes.",
)  # fmt: skip
@options.dry_run
@options.messages
def demo(out: Path, dry_run: bool, quiet: bool, verbose: bool) -> None:
    """Train a small network with a checkpoint at every step, and analyze it.

    Example: regime demo --out demo/
    """
    messages = Messages(quiet=quiet, verbose=verbose)
    from regime_proto.cli.demo import run_demo

    run_demo(out, messages, dry_run=dry_run)


def _follow(
    source: Path,
    output: Path | None,
    messages: Messages,
    settings: "ConversionSettings",
    *,
    analyze: "Callable[[Path], Result]",
    as_json: bool,
    seconds: float,
) -> None:
    from regime_proto.cli import following

    following.wait(source, settings.source, messages, seconds=seconds)
    grown = following.grown(settings, messages, analyze=analyze, as_json=as_json, seconds=seconds)
    converted(source, output, messages, settings, grown=grown)


def _refuse_remote_file(source: Path) -> None:
    if is_remote(source):
        raise RegimeError(f"{source}: no directory of checkpoints there; fetch a trajectory file before it is analyzed")


def _refuse_other_file(source: Path) -> None:
    """Raise an error for a single checkpoint or a program, where a trajectory is meant."""
    from h5py import is_hdf5

    if not source.is_file() or is_hdf5(source):
        return
    from regime_proto.plugins.registry import is_checkpoint_file

    kind = "program" if source.suffix == ".onnx" else "checkpoint" if is_checkpoint_file(source) else None
    if kind is not None:
        raise RegimeError(f"{source}: a single {kind}; give the directory of the checkpoints, or a trajectory file")


def _refuse_for_trajectory(source: Path, output: Path | None, settings: "ConversionSettings") -> None:
    """Raise an error for options that mean something for checkpoints only."""
    if settings.every is not None:
        raise RegimeError(
            f"{source}: --every needs the checkpoints: the change of weights over several steps does not follow "
            "from a trajectory; run `regime analyze DIR --every K`"
        )
    names = ("model", "probe", "probe_text", "gates", "sample_units", "workers", "measure", "keep_downloads")
    values = {name: getattr(settings, name) for name in names} | vars(settings.source)
    given = [name.replace("_", "-") for name, value in values.items() if value not in (None, (), False)]
    given += ["note"] * bool(settings.notes) + ["output"] * (output is not None)
    if given:
        raise RegimeError(f"{source}: --{given[0]} applies to a directory of checkpoints, not to a trajectory file")
