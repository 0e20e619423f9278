"""The results of one training: the numbers of the paper's table, and how they were measured."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch

import regime_proto
from regime_proto.analyzer.structure import Structure
from regime_proto.examples.paper.rows import row_called
from regime_proto.examples.paper.settings import Settings
from regime_proto.examples.paper.training import CHECKPOINTS, PROBE, TRAJECTORY, Training
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.files import replace_file
from regime_proto.schema.numbers import finite

CONFIG = "config.json"
RESULT = "result.json"
STRUCTURE = "structure.h5"
_JSON_VERSION = 1
_PACKAGES = ("regime-proto", "torch", "numpy", "onnxruntime", "transformers")
_MEASURED = ("structural_change_l2_last", "quantitative_change_l2_last")


@dataclass(frozen=True)
class Outcome:
    """The results of one completed training.

    Parameters
    ----------
    row : str
        Name of the row.
    settings : Settings
    data, origin : str
        Data set and its source.
    stands_for : str or None
        Published data set that it replaces.
    parameters : int
        Number of trainable parameters.
    steps : int
        Number of updates.
    epochs : float
    ended : str
        Reason for the end.
    score : float or None
        Accuracy or perplexity after the last epoch.
    score_kind : str
    loss_first, loss_last : float or None
        Mean training loss over the first and the last tenth of the updates.
    auc_w, auc_p, rho : float or None
        None if undefined.
    rho_range : list of float or None
        Range over all readings.
    settled : bool
        Whether both curves are known to have settled at the end.
    structural_share : float or None
        Structural share of the output change from the first update to the end.
    structural_below : int or None
        Step from which it stays below 0.05.
    warnings : list of str
    seconds : float
        Duration of the training, including recording.
    made_with : dict of str to str
        Versions and machine.
    """

    row: str
    settings: Settings
    data: str
    origin: str
    stands_for: str | None
    parameters: int
    steps: int
    epochs: float
    ended: str
    score: float | None
    score_kind: str
    loss_first: float | None
    loss_last: float | None
    auc_w: float | None
    auc_p: float | None
    rho: float | None
    rho_range: list[float] | None
    settled: bool
    structural_share: float | None
    structural_below: int | None
    warnings: list[str]
    seconds: float
    made_with: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON object."""
        return {"json_version": _JSON_VERSION, **vars(self), "settings": self.settings.to_json()}

    @classmethod
    def read(cls, path: Path) -> list[Self]:
        """Read a file written by `write_outcomes`.

        Raises
        ------
        RegimeError
            The file does not hold results.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, list):
                raise TypeError("expected a list")
            return [cls._of(found) for found in content]
        except RegimeError as error:
            raise RegimeError(f"{path}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegimeError(f"{path}: not the results of rows ({type(error).__name__}: {error})") from None

    @classmethod
    def _of(cls, found: dict[str, Any]) -> Self:
        if found.pop("json_version") != _JSON_VERSION:
            raise RegimeError("written by a different version; run the row again")
        row_called(found["row"])
        return cls(**{**found, "settings": Settings(**found["settings"])})


def write_outcomes(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write results as a JSON list."""
    content = [outcome.to_json() for outcome in outcomes]
    replace_file(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def outcome_of(training: Training) -> Outcome:
    """Analyze a completed training.

    Raises
    ------
    RegimeError
        The trajectory cannot be analyzed.
    """
    result = regime_proto.analyze(training.out / TRAJECTORY, resamples=0)
    structure = _structure(training)
    progress, data = training.progress, training.data
    last = progress.epochs[-1] if progress.epochs else None
    with regime_proto.open_trajectory(training.out / TRAJECTORY) as trajectory:
        losses = trajectory["metric_loss"].to_numpy()[1:]
    tenth = max(1, round(len(losses) / 10))
    return Outcome(
        row=training.row.name,
        settings=training.settings,
        data=data.title,
        origin=data.origin,
        stands_for=data.stands_for,
        parameters=sum(one.numel() for one in training.model.parameters() if one.requires_grad),
        steps=progress.step,
        epochs=progress.step / training.batches,
        ended=progress.ended,
        score=None if last is None else finite(last.val_score),
        score_kind=data.score,
        loss_first=finite(losses[:tenth].mean()),
        loss_last=finite(losses[-tenth:].mean()),
        auc_w=finite(result.auc_w),
        auc_p=finite(result.auc_p),
        rho=finite(result.rho),
        rho_range=None if result.rho_range is None else list(result.rho_range),
        settled=result.settled.both,
        structural_share=None if structure is None else finite(structure.first),
        structural_below=None if structure is None else structure.below_from,
        warnings=list(result.warnings),
        seconds=progress.seconds,
        made_with=made_with(training.settings.device),
    )


def _structure(training: Training) -> Structure | None:
    """Measure the structural share on the kept states."""
    folder, out = training.out / CHECKPOINTS, training.out / STRUCTURE
    if not folder.is_dir() or training.progress.step < 2:
        return None
    regime_proto.convert(
        folder,
        out,
        model=training.model.cpu().eval(),
        probe=training.out / PROBE,
        measure=_MEASURED,
        noise="none",
        masks="none",
        overwrite=True,
    )
    return regime_proto.analyze(out, resamples=0).structure


def made_with(device: str) -> dict[str, str]:
    """Return versions and machine."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:
            continue
    machine = torch.cuda.get_device_name(device) if device != "cpu" else f"CPU, {os.cpu_count()} cores"
    return found | {"machine": f"{machine}, {platform.system()} {platform.machine()}"}
