"""Converts several runs into a folder of trajectories; prints a line when each one ends."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from regime_proto.cli.console import Messages, show_error
from regime_proto.cli.converting import foresee
from regime_proto.cli.interruption import leaving
from regime_proto.cli.output import would
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.words import counted

if TYPE_CHECKING:
    from regime_proto.conversion.many import Outcome, Run
    from regime_proto.conversion.settings import ConversionSettings


def refuse_one(option: str, value: object) -> None:
    """Raise an error for an option that applies to a single run, if it is given with --output-dir."""
    if value:
        raise RegimeError(
            f"{option} and --output-dir: {option} applies to a single run; leave it out, or convert each run with a "
            "command of its own: regime convert SOURCE -o FILE"
        )


def convert_all(
    sources: Sequence[Path], folder: Path, messages: Messages, settings: "ConversionSettings", *, dry_run: bool
) -> None:
    """Convert runs into trajectories in a folder; in a dry run, say what would be written.

    Raises
    ------
    RegimeError
        A run failed; raised after all runs have ended and each failure was printed.
    """
    from regime_proto.conversion.many import outcomes, runs_of

    runs = runs_of(sources, folder)
    if dry_run:
        _foresee(runs, messages, settings)
        return
    ended: list[Outcome] = []
    with (
        leaving(lambda: f"{len(ended)} of {len(runs)} runs had ended; resume with the same command"),
        messages.progress("converting") as progress,
        closing(outcomes(runs, settings, exporting=messages.exporting)) as found,
    ):
        for outcome in found:
            ended.append(outcome)
            for warning in outcome.warnings:
                messages.warn(f"{outcome.name}: {warning}")
            messages.note(_line(outcome))
            if progress is not None:
                progress(len(ended), len(runs))
    _end(ended, messages, overwrites=settings.overwrite)


def _line(outcome: "Outcome") -> str:
    """Return the outcome of a run in one line."""
    if outcome.error is not None:
        return f"{outcome.name}: error: {outcome.error}"
    there = "" if outcome.written else ", up to date"
    return f"{outcome.name}: {counted(outcome.observations, 'observation')}{there}"


def _end(ended: "Sequence[Outcome]", messages: Messages, *, overwrites: bool) -> None:
    """Print how many runs were written, up to date or failed, and name the failed ones.

    Raises
    ------
    RegimeError
        A run failed.
    """
    failed = [(outcome.name, outcome.error) for outcome in ended if outcome.error is not None]
    written = sum(outcome.written for outcome in ended)
    there = len(ended) - written - len(failed)
    counts = {"written": written, "up to date": there, "failed": len(failed)}
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    messages.note(f"{ended[0].path.parent}: {counted(len(ended), 'run')}, {said}")
    for name, error in failed:
        show_error(f"{name}: {error}")
    if failed:
        raise RegimeError(
            f"{len(failed)} of {counted(len(ended), 'run')} failed, see above; fix the causes and run the same command "
            f"again to convert the failed runs{'' if overwrites else '; the others are kept'}"
        )


def _foresee(runs: "Sequence[Run]", messages: Messages, settings: "ConversionSettings") -> None:
    from regime_proto.conversion.many import prepare

    failed = 0
    for run, chosen in zip(runs, prepare(runs, settings, exporting=messages.exporting), strict=True):
        try:
            if isinstance(chosen, RegimeError):
                raise chosen
            foresee(run.source, run.output, messages, chosen)
        except RegimeError as error:
            would(f"fail: {run.name}: {error}")
            failed += 1
    if failed:
        raise RegimeError(f"{failed} of {counted(len(runs), 'run')} would fail, see above")
