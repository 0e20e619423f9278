"""The rows of a comparison, one per run: its results and its labels."""

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from regime_proto.analyzer.analyze import analyze_with
from regime_proto.analyzer.observed import read_observed
from regime_proto.analyzer.result import Result
from regime_proto.analyzer.settings import AnalysisSettings
from regime_proto.analyzer.settled import Settled
from regime_proto.analyzer.verdict import settled_first
from regime_proto.comparison.labels import FAMILY, labels_of
from regime_proto.schema.epochs import epochs_spanned
from regime_proto.schema.numbers import finite
from regime_proto.schema.reader import checked, open_known, read_extra
from regime_proto.schema.validation.ahead import Known
from regime_proto.schema.validation.trust import Record

# Sources of rows.
RUN = "run"
PAPER = "paper"

_TABLE = "reference/paper_table2.csv"


@dataclass(frozen=True)
class Row:
    """One run of a comparison.

    Parameters
    ----------
    run : str
        Displayed name: the name of the file, or its path if several files have that name.
    labels : mapping of str to str
        Labels of the run, such as its seed.
    auc_w : float
        AUC_W; NaN if undefined.
    auc_p : float
        AUC_P; NaN if undefined.
    rho : float
        ρ; NaN if undefined.
    rho_range : (float, float) or None
        Range of ρ over all readings; None if unknown.
    rho_span : (float, float) or None
        From the lowest to the highest end of the bootstrap intervals of ρ; None if there are none.
    epochs : float or None
        Number of epochs between the first and the last observation; None if unknown.
    observations : int or None
        Number of observed parameter states; None if unknown.
    stride : int or None
        Steps between observations; None if uneven.
    step_kind : str
        ``step``, ``epoch`` or ``ordinal``.
    window : int or None
        Length of the moving average, in observations; None if unknown.
    preset : str
        Name of the preset.
    source : str
        `RUN`, or `PAPER` for a published row.
    trajectory : str or None
        Path of the file.
    run_id : str or None
        The root attribute ``run_id``.
    program : str or None
        The root attribute ``program_sha256``.
    warnings : tuple of str
        Why the numbers may say little.
    settled : Settled or None
        Whether the curves have settled by the end of the run; None for a published row.
    settled_first : {"patterns", "weights"} or None
        What settled first beyond doubt; None in case of doubt, and for a published row.
    """

    run: str
    labels: Mapping[str, str]
    auc_w: float
    auc_p: float
    rho: float
    rho_range: tuple[float, float] | None
    rho_span: tuple[float, float] | None
    epochs: float | None
    observations: int | None
    stride: int | None
    step_kind: str
    window: int | None
    preset: str
    source: str = RUN
    trajectory: str | None = None
    run_id: str | None = None
    program: str | None = None
    warnings: tuple[str, ...] = ()
    settled: Settled | None = None
    settled_first: str | None = None

    @property
    def is_smoothed(self) -> bool:
        """Whether the areas are under smoothed curves, as the published ones are."""
        return self.window != 1

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON object; numbers are finite or None."""
        numbers = {name: finite(getattr(self, name)) for name in ("rho", "auc_w", "auc_p")}
        same = ("epochs", "observations", "stride", "step_kind", "window", "preset", "trajectory")
        return {
            "run": self.run,
            "source": self.source,
            "labels": dict(self.labels),
            **numbers,
            "rho_range": None if self.rho_range is None else list(self.rho_range),
            "rho_span": None if self.rho_span is None else list(self.rho_span),
            **{name: getattr(self, name) for name in same},
            "settled": None if self.settled is None else vars(self.settled),
            "settled_first": self.settled_first,
        }


@dataclass(frozen=True)
class Facts:
    """Facts about a run in its trajectory, in addition to the result.

    Parameters
    ----------
    labels : mapping of str to str
    epochs : float or None
    run_id, program : str or None
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    epochs: float | None = None
    run_id: str | None = None
    program: str | None = None


def row_of(
    run: str | os.PathLike[str] | Result,
    name: str,
    settings: AnalysisSettings,
    *,
    known: Known = lambda _: None,
) -> Row:
    """Analyze a run, unless a result is given, and return its row.

    Parameters
    ----------
    run : path or Result
    name : str
        Displayed name.
    settings : AnalysisSettings
    known : callable, optional
        Returns the results of files that were checked in advance; see `checking_ahead`.

    Raises
    ------
    RegimeError
        The trajectory cannot be read or analyzed.
    """
    path = run.trajectory if isinstance(run, Result) else os.fspath(run)
    found = None if path is None else checked(Path(path), known(Path(path)))
    result = run if isinstance(run, Result) else analyze_with(run, settings, known=found)
    batches_per_epoch = None if isinstance(run, Result) else settings.batches_per_epoch
    facts = Facts() if path is None or found is None else _facts(Path(path), found, result, batches_per_epoch)
    return Row(
        run=name,
        labels=facts.labels,
        auc_w=result.auc_w,
        auc_p=result.auc_p,
        rho=result.rho,
        rho_range=result.rho_range,
        rho_span=None if result.uncertainty is None else result.uncertainty.rho_span,
        epochs=facts.epochs,
        observations=result.observations,
        stride=result.stride,
        step_kind=result.step_kind,
        window=result.window,
        preset=result.preset,
        trajectory=path,
        run_id=facts.run_id,
        program=facts.program,
        warnings=result.warnings,
        settled=result.settled,
        settled_first=settled_first(result),
    )


def _facts(path: Path, known: Record, result: Result, batches_per_epoch: float | None) -> Facts:
    with open_known(path, known.state) as file:
        attributes, extra, observed = dict(file.attrs), read_extra(file), read_observed(file, result)
    return Facts(
        labels=labels_of(extra),
        epochs=epochs_spanned(observed.steps, observed.epochs, result.step_kind, batches_per_epoch, observed.per_epoch),
        run_id=str(attributes["run_id"]),
        program=attributes.get("program_sha256"),
    )


def spacing(row: Row) -> str:
    """Return a description of the stride of a run."""
    if row.step_kind == "ordinal":
        return "steps that are only counted"
    if row.stride is None:
        return f"uneven strides in {row.step_kind}s"
    return f"stride {row.stride} {row.step_kind}{'s' * (row.stride > 1)}"


def published() -> list[Row]:
    """Return the rows of the paper's Table II; their family is our own classification.

    The numbers are for the preset ``paper``, with an observation at every step.
    """
    text = (files("regime_proto.comparison") / _TABLE).read_text(encoding="utf-8")
    return [_published(number, row) for number, row in enumerate(csv.DictReader(text.splitlines()), start=1)]


def _published(number: int, row: dict[str, str]) -> Row:
    names = ("model", "dataset", "optimizer", FAMILY, "weight_decay", "learning_rate", "validation_score")
    return Row(
        run=f"{PAPER} {number}",
        labels={name: row[name] for name in names},
        auc_w=float(row["auc_w"]),
        auc_p=float(row["auc_p"]),
        rho=float(row["rho"]),
        rho_range=None,
        rho_span=None,
        epochs=float(row["epoch"]),
        observations=None,
        stride=1,
        step_kind="step",
        window=None,
        preset="paper",
        source=PAPER,
    )
