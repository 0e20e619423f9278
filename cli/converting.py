"""Converts checkpoints into a trajectory, or says what would be written."""

import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regime_proto.checkpoints.hub.downloads import downloads_folder
from regime_proto.checkpoints.locations import downloading, is_published, is_remote
from regime_proto.cli import options
from regime_proto.cli.console import Messages, size
from regime_proto.cli.interruption import leaving_observations
from regime_proto.cli.output import would, would_write
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.words import counted, few

if TYPE_CHECKING:
    from regime_proto.checkpoints.source import Source
    from regime_proto.conversion.plan import Plan
    from regime_proto.conversion.run import Done, Grown
    from regime_proto.conversion.settings import ConversionSettings


def foresee(
    source: Path, output: Path | None, messages: Messages, settings: "ConversionSettings", *, follow: bool = False
) -> None:
    """Say what a conversion would write, after checking everything that it needs."""
    if follow:
        from regime_proto.conversion.following import missing_for_two, require_folder

        require_folder(source)
        missing = missing_for_two(source, settings.source)
        if missing is not None:
            would(f"wait for checkpoints ({missing}), then write {output or default_output(source, settings)}")
            return
    if is_published(source) and not _foresee_published(source, output, messages, settings):
        return
    from regime_proto.conversion.run import foresee_plan

    target = output or default_output(source, settings)
    plan = _planned(source, messages, settings)
    foreseen = foresee_plan(plan, target, settings)
    count, held = foreseen.observations, foreseen.held
    if settings.shard is not None and foreseen.where != target:
        there = f", {held} already measured" if held else ""
        would(f"measure part {settings.shard} into {foreseen.where} ({counted(count, 'observation')}{there})")
        return
    if held == count and foreseen.where == target:
        lacking = " and ".join(foreseen.lacking)
        what = f"write {lacking} into {target}, which" if lacking else f"write nothing: {target}"
        would(f"{what} already holds all {counted(count, 'observation')}")
        return
    if plan.source.copies is not None:
        _say_fetched(plan.source)
    there = f"{held} already in {foreseen.where}, {count - held} to be added" if held else "none measured yet"
    policy = plan.mask_policy(settings.masks)
    predicted = size(plan.predicted_file_bytes(policy))
    would_write(target, f"{counted(count, 'observation')}, {there}; masks: {policy}; about {predicted}")


def _foresee_published(source: Path, output: Path | None, messages: Messages, settings: "ConversionSettings") -> bool:
    """Return whether the output can be predicted without fetching weights; if not, print what is known."""
    from regime_proto.checkpoints.hub.locations import is_outlined
    from regime_proto.plugins.open_directory import open_directory

    found = open_directory(source, settings.source).select(settings.steps, settings.every)
    found.require_two()
    if is_outlined(found):
        return True
    _say_skipped(found, messages)
    _say_fetched(found)
    would_write(output or default_output(source, settings), f"{counted(len(found.checkpoints), 'observation')} at most")
    return False


def _say_fetched(found: "Source") -> None:
    """Say how much a conversion would fetch."""
    from regime_proto.checkpoints.hub.locations import most_at_once, sizes

    each = sizes(found)
    would(
        f"fetch {counted(len(each), 'checkpoint')} at most, {size(sum(each))}, "
        f"and hold {size(most_at_once(each))} at a time"
    )


def _say_skipped(found: "Source", messages: Messages) -> None:
    for reason, names in found.skipped_by_reason().items():
        messages.note(f"skipped {few(names)}: {reason}")


def _planned(source: Path, messages: Messages, settings: "ConversionSettings") -> "Plan":
    """Return the plan of a conversion, and name the skipped files."""
    from regime_proto.conversion.plan import make_plan

    plan = make_plan(source, settings, exporting=messages.exporting)
    _say_skipped(plan.source, messages)
    return plan


def settings_of(conversion: dict[str, Any]) -> "ConversionSettings":
    """Return the conversion settings that the options of a command specify."""
    from regime_proto.conversion.settings import ConversionSettings

    return ConversionSettings.of(**{**conversion, "notes": options.parse_notes(conversion["notes"])})


def converted(
    source: Path,
    output: Path | None,
    messages: Messages,
    settings: "ConversionSettings",
    *,
    grown: "Grown | None" = None,
) -> "Done":
    """Convert a directory unless its trajectory is up to date, and say what was written."""
    target = output or default_output(source, settings)
    keep = settings.keep_downloads
    if keep and not is_published(source):
        raise RegimeError(
            f"{source}: not on the Hugging Face Hub; --keep-downloads applies only to hf://… sources: leave it out"
        )
    from regime_proto.conversion.run import name_of_part

    own = name_of_part(target, settings.shard)
    with downloading(source, own, keep=keep, say=messages.note if messages.verbose else None) as place:
        with leaving_observations(target):
            plan = _planned(place, messages, settings)
        policy, predicted = plan.mask_policy(settings.masks), _predicted(plan, messages, settings)
        done = _run(plan, target, messages, settings, grown)
    if done.shard is not None:
        verb = (
            "measured" if done.written else "nothing to do for" if not done.observations else "nothing left to do for"
        )
        messages.note(
            f"{verb} part {done.shard} ({counted(done.observations, 'observation')}); when all parts are measured, "
            f"run `{shlex.join(['regime', 'merge', str(done.path)])}`"
        )
        return done
    if done.written:
        found = size(done.path.stat().st_size)
        messages.note(
            f"wrote {done.path} ({counted(done.observations, 'observation')}, masks: {policy}; {found}, "
            f"{predicted} predicted)"
        )
    else:
        nothing = f"only {' and '.join(done.changed)} changed" if done.changed else "nothing changed"
        messages.note(f"{nothing}; using {done.path} ({counted(done.observations, 'observation')})")
    if keep:
        messages.note(f"kept the checkpoints in {downloads_folder(own)}")
    return done


def _predicted(plan: "Plan", messages: Messages, settings: "ConversionSettings") -> str:
    """Return the estimated size of the trajectory; print it if masks are thinned to limit the size."""
    from regime_proto.schema.policy import ALL

    policy = plan.mask_policy(settings.masks)
    predicted = size(plan.predicted_file_bytes(policy))
    if settings.masks == "auto" and policy != ALL:
        every = size(plan.predicted_file_bytes(ALL))
        messages.note(f"masks: {policy}, for about {predicted}; --masks all would take about {every}")
    return predicted


def _run(
    plan: "Plan", target: Path, messages: Messages, settings: "ConversionSettings", grown: "Grown | None"
) -> "Done":
    from regime_proto.conversion.run import run_plan
    from regime_proto.runtime.device import share_arena

    share_arena()
    # With --follow, results are drawn in between, which would break the bar.
    bar = messages.progress("observing") if grown is None else nullcontext()
    with leaving_observations(target, len(plan.source.checkpoints)), bar as progress:
        return run_plan(plan, target, settings, progress=progress, grown=grown)


def default_output(source: Path, settings: "ConversionSettings") -> Path:
    """Return the default trajectory of a directory, next to it; each selection has its own file."""
    if is_remote(source):
        # The trajectory of a remote directory is written to the current directory.
        root = Path(source.name or "checkpoints")
    else:
        root = source if source.name not in ("", "..") else source.resolve()
    chosen = [
        (".steps", (settings.steps or "").strip().replace(":", "-")),
        (".every", settings.every),
        (".gates-", "-".join(map(_in_a_name, settings.gates))),
        (".units", settings.sample_units),
        (".seed", settings.sample_seed),
        (".weights-", _in_a_name(settings.source.weights or "")),
    ]
    selection = "".join(f"{name}{value}" for name, value in chosen if value)
    return root.with_name(f"{root.name}{selection}.regime.h5")


def _in_a_name(pattern: str) -> str:
    """Return a glob in letters that every file system accepts."""
    spelled = pattern.replace("*", "all").replace("!", "not-")
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in spelled)
