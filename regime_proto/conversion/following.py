"""Follows a run that is still being trained: new checkpoints are observed as they appear."""

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
    """Return once a directory holds two complete checkpoints, which is what a change takes.

    Parameters
    ----------
    root : Path
    settings : SourceSettings
    seconds : float
        Between two looks.
    waiting : callable
        Called once, with what is missing, if there is something to wait for.

    Raises
    ------
    RegimeError
        There is no such directory, it cannot be read, or its checkpoints cannot be followed.
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
    """Raise an error unless there is a directory to follow."""
    if not root.is_dir():
        raise RegimeError(no_such(root, "directory"))


def missing_for_two(root: Path, settings: SourceSettings = AS_DETECTED) -> str | None:
    """Return, in words, why a directory does not hold two complete checkpoints yet; None if it does.

    Raises
    ------
    RegimeError
        The directory cannot be read, or its checkpoints cannot be followed.
    """
    try:
        source = _opened(root, settings)
        if capable(source.adapter, Outlining) is not None:
            raise RegimeError(f"{root}: --follow needs one program for all checkpoints, not {source.adapter} models")
        count = len(source.checkpoints)
    except NoCheckpoint as error:
        return str(error)
    return None if count > 1 else f"{root}: one checkpoint so far"


def _opened(root: Path, settings: SourceSettings) -> Source:
    """Return what a directory holds, without saying at every look that its last checkpoint is not complete."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RegimeWarning)
        return open_directory(root, settings)


def grown_plan(plan: Plan, settings: ConversionSettings | None = None, *, seconds: float) -> Plan:
    """Return the plan of a run once it holds later checkpoints than `plan`; program, probe and gates stay the same.

    Checkpoints that were observed may have been deleted since, except the last one.

    Parameters
    ----------
    plan : Plan
    settings : ConversionSettings, optional
        What the plan was made of.
    seconds : float
        Between two looks.

    Raises
    ------
    RegimeError
        The last checkpoint is gone.
    """
    settings = settings or ConversionSettings()
    known = plan.source.checkpoints
    while True:
        time.sleep(seconds)
        source = _opened(plan.source.root, settings.source).select(settings.steps, settings.every)
        if known[-1] not in source.checkpoints:
            raise RegimeError(
                f"{known[-1].path}: gone before the next one was there, which has to be compared with it; keep two "
                "checkpoints at least"
            )
        new = tuple(checkpoint for checkpoint in source.checkpoints if checkpoint.step > known[-1].step)
        if new:
            # Other orders say nothing of checkpoints that are gone.
            grown = replace(plan.source, checkpoints=(*known, *new), skipped=source.skipped, other_orders=())
            return replace(plan, source=grown, known_fingerprints=tuple(plan.fingerprints))
