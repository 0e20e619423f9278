"""Follows a run during training: new checkpoints are measured as they appear."""

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from regime_proto.checkpoints.source import Source
from regime_proto.conversion.plan import Plan
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.plugins.open_directory import NoCheckpoint, open_directory
from regime_proto.plugins.protocols import Outlining
from regime_proto.plugins.registry import capable
from regime_proto.plugins.source_settings import AS_DETECTED, SourceSettings
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.nearest import no_such


def wait_for_two(
    root: Path,
    settings: SourceSettings = AS_DETECTED,
    *,
    seconds: float,
    waiting: Callable[[str], None] = lambda _: None,
) -> None:
    """Wait until a directory holds two complete checkpoints, the fewest between which a change can be measured.

    Parameters
    ----------
    root : Path
    settings : SourceSettings
    seconds : float
        Time between two checks of the directory, in seconds.
    waiting : callable
        Called once, with the reason, if the directory does not hold two yet.

    Raises
    ------
    RegimeError
        The directory does not exist or cannot be read, or its checkpoints cannot be followed.
    """
    require_folder(root)
    told = False
    while True:
        missing = missing_for_two(root, settings)
        if missing is None:
            return
        if not told:
            waiting(missing)
        told = True
        time.sleep(seconds)


def require_folder(root: Path) -> None:
    """Raise an error unless the directory to follow exists."""
    if not root.is_dir():
        raise RegimeError(no_such(root, "directory"))


def missing_for_two(root: Path, settings: SourceSettings = AS_DETECTED) -> str | None:
    """Return the reason why a directory does not hold two complete checkpoints yet; None if it does.

    Raises
    ------
    RegimeError
        The directory cannot be read, or its checkpoints cannot be followed.
    """
    try:
        source = _opened(root, settings)
        if capable(source.adapter, Outlining) is not None:
            raise RegimeError(
                f"{root}: --follow requires one program for all checkpoints, but every {source.adapter} file holds "
                "its own; convert the finished run without --follow"
            )
        count = len(source.checkpoints)
    except NoCheckpoint as error:
        return str(error)
    return None if count > 1 else f"{root}: only one checkpoint so far"


def _opened(root: Path, settings: SourceSettings) -> Source:
    """Open a directory without repeating the warning that its last checkpoint is incomplete."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RegimeWarning)
        return open_directory(root, settings)


def grown_plan(plan: Plan, settings: ConversionSettings | None = None, *, seconds: float) -> Plan:
    """Wait until a run has new checkpoints, and return the plan with them; program, probe and gates stay the same.

    Checkpoints that were measured may have been deleted since, except the last one.

    Parameters
    ----------
    plan : Plan
    settings : ConversionSettings, optional
        The settings of the plan.
    seconds : float
        Time between two checks of the directory, in seconds.

    Raises
    ------
    RegimeError
        The last measured checkpoint was deleted.
    """
    settings = settings or ConversionSettings()
    known = plan.source.checkpoints
    while True:
        time.sleep(seconds)
        source = _opened(plan.source.root, settings.source).select(settings.steps, settings.every)
        if known[-1] not in source.checkpoints:
            raise RegimeError(
                f"{known[-1].path}: deleted before the next checkpoint was measured, which must be compared with it; "
                "keep at least the last two checkpoints"
            )
        new = tuple(checkpoint for checkpoint in source.checkpoints if checkpoint.step > known[-1].step)
        if new:
            # Other kinds of order do not place checkpoints that were deleted.
            grown = replace(plan.source, checkpoints=(*known, *new), skipped=source.skipped, other_orders=())
            return replace(plan, source=grown, known_fingerprints=tuple(plan.fingerprints))
