"""Runs one row in its own folder, from the start or from where it was stopped."""

import json
from collections.abc import Callable
from pathlib import Path

from regime_proto.examples.paper.results import CONFIG, RESULT, Outcome, outcome_of, write_outcomes
from regime_proto.examples.paper.rows import Row
from regime_proto.examples.paper.settings import Settings
from regime_proto.examples.paper.training import OnStep, Training
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.files import replace_file


def run(
    row: Row,
    settings: Settings,
    out: Path,
    *,
    resume: bool = False,
    on_step: OnStep | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Outcome:
    """Train a row, and write trajectory, metrics, settings and result into a folder.

    Parameters
    ----------
    row : Row
    settings : Settings
    out : Path
        The folder; created if it does not exist.
    resume : bool
        Resume an interrupted training in the folder; the results of a completed one are only read.
    on_step : callable, optional
        Called after every update with the `Progress`, the total number of updates and the loss.
    say : callable, optional
        Called with a line that says where a training is resumed.

    Raises
    ------
    RegimeError
        The folder holds a different training, the data are not available, or the trajectory cannot be recorded.
    """
    found = _config(out)
    if found is not None and not resume:
        raise RegimeError(
            f"{out}: already holds a training; resume it with --resume, or choose a different folder with --out"
        )
    wanted = settings.to_json()
    if found is not None and found != wanted:
        raise RegimeError(
            f"{out}: holds a training with {_differences(found, wanted)}; use the same settings, or a different --out"
        )
    if found is not None and (out / RESULT).exists():
        return Outcome.read(out / RESULT)[0]
    training = Training(row, settings, out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        replace_file(out / CONFIG, (json.dumps(wanted, indent=1) + "\n").encode())
    except OSError as error:
        raise RegimeError(
            f"{out}: cannot be written ({error.strerror}); choose a different folder with --out"
        ) from None
    training.load_state()
    if resume:
        at = training.progress.step
        say(f"{out}: resumes after update {at:,}" if at else f"{out}: no saved state found; starts at update 0")
    training.run(on_step)
    outcome = outcome_of(training)
    write_outcomes(out / RESULT, [outcome])
    return outcome


def _config(out: Path) -> object:
    """Return the settings of the training in a folder; None if it holds none."""
    path = out / CONFIG
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise RegimeError(f"{path}: not JSON, so not the folder of a training; use a different --out") from None


def _differences(found: object, wanted: dict[str, object]) -> str:
    if not isinstance(found, dict):
        return "settings that are none"
    names = [name for name in wanted if found.get(name) != wanted[name]]
    return (
        ", ".join(f"{name} {found.get(name)} where {wanted[name]} is asked for" for name in names) or "other settings"
    )
