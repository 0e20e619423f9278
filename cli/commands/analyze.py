"""``regime analyze``: computes curves, areas and ρ from checkpoints or a trajectory."""

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
from regime_proto.cli.output import would
from regime_proto.cli.sources import refuse_other_file
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.validation.guard import require_file

if TYPE_CHECKING:
    from regime_proto.analyzer.result import Result
    from regime_proto.conversion.settings import ConversionSettings


@command
@click.argument("source", type=options.PLACE)
@options.conversion
@click.option("-o", "--output", type=options.PATH, help="Trajectory to write. Default: SOURCE.regime.h5.")
@options.preset
@options.resamples
@click.option("--follow", is_flag=True, help="Keep analyzing as new checkpoints appear, until Ctrl-C.")
@click.option(
    "--poll",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Interval between checks for new checkpoints, for --follow.",
)
@click.option(
    "--stable",
    type=float,
    metavar="COSINE",
    help="Lowest fingerprint cosine of observations labelled STABLE; needs --measure fingerprint_cosine. Default: the "
    "70th percentile in this run.",
)
@click.option(
    "--chaotic",
    type=float,
    metavar="COSINE",
    help="Highest fingerprint cosine of observations labelled CHAOTIC; needs --stable. Default: the 30th percentile in "
    "this run.",
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
    stable: float | None,
    chaotic: float | None,
    as_json: bool,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    **conversion: Any,
) -> None:
    """Analyze a directory of checkpoints, a sequence on the Hugging Face Hub, or a trajectory file.

    Checkpoints are first converted into a trajectory, which is kept and reused until something changes. New
    checkpoints are measured and added to it. With --json and --follow, each update is printed as one line. Checkpoints
    on the Hub are fetched one at a time: 'hf://ORG/NAME@step*' selects branches and tags, 'hf://ORG/relu-{step}B'
    repositories, and 'hf://ORG/NAME@main~commits' the commits of a branch.

    For example:
        regime analyze checkpoints/ --model mypkg.net:make --probe val.npz
        regime analyze run.h5 --preset strict --json
        regime analyze 'hf://ORG/NAME@step*' --probe-text lines.txt --dry-run
    """
    import regime_proto
    from regime_proto.analyzer.stages import require_thresholds

    messages = Messages(quiet=quiet, verbose=verbose, as_json=as_json)
    settings = settings_of(conversion)
    require_thresholds(stable, chaotic)

    def result_of(trajectory: Path, steps: str | None = None) -> "Result":
        found = regime_proto.analyze(
            trajectory,
            preset=preset,
            steps=steps,
            batches_per_epoch=settings.batches_per_epoch,
            resamples=resamples,
            stable=stable,
            chaotic=chaotic,
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
            trajectory, steps = converted(source, output, messages, settings).path, None
            complete = f"{trajectory} is complete"
        else:
            _refuse_remote_file(source)
            require_file(source)
            refuse_other_file(source)
            _refuse_for_trajectory(source, output, settings)
            trajectory, steps, complete = source, settings.steps, ""
        with leaving(lambda: complete):
            result = result_of(trajectory, steps)
    if dry_run:
        would(f"analyze {trajectory}, and write nothing")
        return
    if as_json:
        from regime_proto.analyzer.besides import besides

        # The warnings of the conversion come before those of the analysis.
        found = {
            **result.to_json(),
            **besides(trajectory, steps, stable=stable, chaotic=chaotic),
            "warnings": messages.warnings,
        }
        click.echo(json.dumps(found, allow_nan=False))
        return
    from regime_proto.cli import render

    render.show(render.console(), render.analysis(result, all_layers=verbose))


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
        raise RegimeError(
            f"{source}: not a directory of checkpoints; to analyze a remote trajectory file, download it first"
        )


def _refuse_for_trajectory(source: Path, output: Path | None, settings: "ConversionSettings") -> None:
    """Raise an error for options that apply only to checkpoints."""
    if settings.every is not None:
        raise RegimeError(
            f"{source}: --every needs the checkpoints, because the weight change over several steps cannot be computed "
            "from a trajectory; run `regime analyze DIR --every K`"
        )
    names = ("model", "probe", "probe_text", "gates", "sample_units", "workers", "measure", "keep_downloads")
    values = {name: getattr(settings, name) for name in names} | vars(settings.source)
    given = [name.replace("_", "-") for name, value in values.items() if value not in (None, (), False)]
    given += ["note"] * bool(settings.notes) + ["output"] * (output is not None)
    if given:
        raise RegimeError(
            f"{source}: a trajectory file; --{given[0]} applies only to a directory of checkpoints: leave it out"
        )
