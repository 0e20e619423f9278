"""Compares runs: a row for each, means and spreads over them, beside the published ones (PROTOCOL, section 6)."""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from regime_proto.analyzer.result import Result
from regime_proto.analyzer.settings import RESAMPLES, AnalysisSettings
from regime_proto.comparison import labels as labelling
from regime_proto.comparison.columns import columns, describe, describe_rows
from regime_proto.comparison.labels import DATASET, FAMILY, SEED, STAND_IN
from regime_proto.comparison.rows import PAPER, RUN, Row, published, row_of, spacing
from regime_proto.comparison.spread import Centre, Spread, centre, spread
from regime_proto.schema.display import Display, Displayed, Notes, Table
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.validation.ahead import checking_ahead
from regime_proto.schema.words import few

JSON_VERSION = 1
REFERENCES = (PAPER,)
SORTS = ("rho", "auc_w", "auc_p", "name")


@dataclass(frozen=True)
class Summary:
    """The ρ of several runs.

    Parameters
    ----------
    source : str
        Whose: `RUN`, or `PAPER` for the published ones; the two are never put together.
    by, value : str or None
        The label that these runs have in common, and what it says; None for all runs.
    rho : Centre
    """

    source: str
    by: str | None
    value: str | None
    rho: Centre

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON object."""
        return {"source": self.source, "by": self.by, "value": self.value, "rho": self.rho.to_json()}


@dataclass(frozen=True)
class Repeat:
    """Runs of one program with the same labels, but for the seed.

    Parameters
    ----------
    runs : tuple of str
    labels : mapping of str to str
        Those that they have in common.
    rho, auc_w, auc_p : Spread
    """

    runs: tuple[str, ...]
    labels: Mapping[str, str]
    rho: Spread
    auc_w: Spread
    auc_p: Spread

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON object."""
        spreads = {name: getattr(self, name).to_json() for name in ("rho", "auc_w", "auc_p")}
        return {"runs": list(self.runs), "labels": dict(self.labels), **spreads}


@dataclass(frozen=True, repr=False)
class Comparison(Displayed):
    """Several runs beside each other.

    Parameters
    ----------
    rows : tuple of Row
    summaries : tuple of Summary
        All runs of each source first, then by label.
    repeats : tuple of Repeat
        Groups of two runs at least.
    is_mixed : bool
        Whether the rows differ in stride, kind of step or preset, which makes them different measurements.
    warnings : tuple of str
    """

    rows: tuple[Row, ...]
    summaries: tuple[Summary, ...]
    repeats: tuple[Repeat, ...]
    is_mixed: bool
    warnings: tuple[str, ...]

    def _display(self) -> Display:
        shown = columns(self)
        table = Table(
            tuple(tuple(column.text(row) for column in shown) for row in self.rows),
            headings=tuple(column.heading for column in shown),
            are_numbers=tuple(column.is_number for column in shown),
        )
        means = map(describe, self.summaries)
        return Display(describe_rows(self.rows), (table, *means, Notes("warnings", self.warnings)))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON object; numbers are finite or None."""
        return {
            "json_version": JSON_VERSION,
            "runs": [row.to_json() for row in self.rows],
            "summaries": [summary.to_json() for summary in self.summaries],
            "repeats": [repeat.to_json() for repeat in self.repeats],
            "is_mixed": self.is_mixed,
            "warnings": list(self.warnings),
        }


def compare(
    runs: str | os.PathLike[str] | Result | Iterable[str | os.PathLike[str] | Result] = (),
    *,
    labels: str | os.PathLike[str] | Mapping[str, Mapping[str, str]] | None = None,
    by: str | None = None,
    reference: str | None = None,
    mixed: bool = False,
    sort: str | None = None,
    preset: str = "paper",
    steps: str | None = None,
    batches_per_epoch: float | None = None,
    resamples: int = RESAMPLES,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Put several runs beside each other.

    Parameters
    ----------
    runs : path, Result, or iterable of these
        Trajectory files, or what `analyze` returned for some.
    labels : path or mapping, optional
        A CSV table with a column ``file`` (name or path of a trajectory) and one for each label, or labels by such
        a name. They win over those in the files.
    by : str, optional
        Label by whose values ρ is summarised too; ``family`` where any run has it.
    reference : {"paper"}, optional
        Add the 18 runs of the paper's Table II.
    mixed : bool
        Compare runs of different stride or preset nevertheless.
    sort : {"rho", "auc_w", "auc_p", "name"}, optional
        Numbers from the largest; in the order given if left out.
    preset, steps, batches_per_epoch, resamples : optional
        As in `analyze`; a `Result` keeps its own.
    progress : callable, optional
        Called with how many runs are done, of how many.

    Raises
    ------
    RegimeError
        A run cannot be analyzed or is there twice, labels do not fit, or measurements of different kinds are mixed.
    """
    _require_choice("sort", sort, SORTS)
    _require_choice("reference", reference, REFERENCES)
    given = [runs] if isinstance(runs, str | os.PathLike | Result) else list(runs)
    chosen = labelling.read_labels(Path(labels)) if isinstance(labels, str | os.PathLike) else labels or {}
    if not given and reference is None:
        raise RegimeError("nothing to compare: give trajectory files, or --reference paper")
    settings = AnalysisSettings(preset, steps, batches_per_epoch, resamples)
    rows = []
    with checking_ahead([Path(run) for run in given if not isinstance(run, Result)]) as known:
        for name, run in zip(_names(given), given, strict=True):
            rows.append(row_of(run, name, settings, known=known))
            if progress is not None:
                progress(len(rows), len(given))
    _require_distinct(rows)
    rows, warnings = _labelled(rows, chosen)
    rows += published() if reference else []
    # Without a run it is the analysis that was asked for which the published numbers must be like.
    differences = _differences(rows, {} if given else {f"preset {preset}": ["what is asked for"]})
    if differences and not mixed:
        raise RegimeError(f"{'; '.join(differences)}: compare them apart, or say --mixed")
    warnings += [f"{difference}: these are different measurements" for difference in differences]
    warnings += [*_unlike(rows), *_stand_ins(rows), *_warnings_of(rows)]
    by = _label_to_group_by(by, rows)
    return Comparison(
        rows=tuple(_sorted(rows, sort)),
        summaries=tuple(_summaries(rows, by)),
        repeats=tuple(_repeats(rows)),
        is_mixed=bool(differences),
        warnings=tuple(warnings),
    )


def _require_choice(option: str, value: str | None, choices: Sequence[str]) -> None:
    if value is not None and value not in choices:
        raise RegimeError(f"{option} {value!r}: expected one of {', '.join(choices)}")


def _names(runs: Sequence[str | os.PathLike[str] | Result]) -> list[str]:
    """Return what each run is called: the name of its file where no other has it, else its path."""
    paths = [run.trajectory if isinstance(run, Result) else os.fspath(run) for run in runs]
    count = Counter(Path(path).name for path in paths if path is not None)
    return [
        f"run {number}" if path is None else Path(path).name if count[Path(path).name] == 1 else path
        for number, path in enumerate(paths, start=1)
    ]


def _require_distinct(rows: Sequence[Row]) -> None:
    seen: dict[str, str] = {}
    for row in rows:
        if row.run_id is None:
            continue
        if row.run_id in seen:
            raise RegimeError(f"{row.run}: the same run as {seen[row.run_id]} (run_id {row.run_id}); leave one out")
        seen[row.run_id] = row.run


def _labelled(rows: Sequence[Row], labels: Mapping[str, Mapping[str, str]]) -> tuple[list[Row], list[str]]:
    """Return the rows with the labels that were given beside them, and what is wrong with these."""
    files = [Path(row.trajectory or row.run) for row in rows]
    found, strangers = labelling.assign(labels, files)
    warnings = [labelling.describe_strangers(strangers, files)] if strangers else []
    return [replace(row, labels={**row.labels, **more}) for row, more in zip(rows, found, strict=True)], warnings


def _differences(rows: Sequence[Row], presets: Mapping[str, list[str]]) -> list[str]:
    """Say what makes the rows measurements of different kinds, if anything does.

    Parameters
    ----------
    rows : sequence of Row
    presets : mapping
        Further presets, with what they are of.
    """
    aspects = {
        "stride": _runs_by(spacing, rows),
        "preset": {**presets, **_runs_by(lambda row: f"preset {row.preset}", rows)},
    }
    return [
        f"runs of different {aspect}: " + ", ".join(f"{few(names)} ({kind})" for kind, names in groups.items())
        for aspect, groups in aspects.items()
        if len(groups) > 1
    ]


def _runs_by(key: Callable[[Row], str | None], rows: Iterable[Row]) -> dict[str, list[str]]:
    """Return the names of the runs by something that can be said of each; None says nothing."""
    return {value: _called(group) for value, group in _grouped(key, rows).items()}


def _called(rows: Sequence[Row]) -> list[str]:
    """Return the names of runs; the published ones, which have none, are counted."""
    own = [row.run for row in rows if row.source == RUN]
    published = len(rows) - len(own)
    return own + [f"{published} published runs"] * (published > 0)


def _grouped(key: Callable[[Row], str | None], rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        value = key(row)
        if value is not None:
            groups.setdefault(value, []).append(row)
    return groups


def _unlike(rows: Sequence[Row]) -> list[str]:
    """Return what a reader should know of runs that may be compared all the same."""
    warnings = []
    own = [row for row in rows if row.source == RUN]
    rough = [row.run for row in own if not row.is_smoothed]
    if rough and len(rough) < len(own):
        warnings.append(
            f"not smoothed, unlike the other runs: {few(rough)}; smoothing changes the areas, so part of the "
            "difference is due to it"
        )
    uneven = [row.run for row in rows if row.stride is None]
    if len(uneven) > 1:
        warnings.append(f"uneven strides, which may differ from each other: {few(uneven)}")
    undefined = [row.run for row in rows if not math.isfinite(row.rho)]
    if undefined:
        warnings.append(f"ρ is undefined, and left out of means: {few(undefined)}")
    unsettled = [row.run for row in own if _is_unsettled(row)]
    if unsettled:
        warnings.append(
            f"not both curves are known to have settled by the end, so ρ does not say which did so first: "
            f"{few(unsettled)}"
        )
    return warnings


def _stand_ins(rows: Sequence[Row]) -> list[str]:
    """Name the runs on a data set that stands for a published one, where published runs are next to them."""
    if not any(row.source == PAPER for row in rows):
        return []
    names = [f"{row.run} ({row.labels[DATASET]})" for row in rows if STAND_IN in row.labels.get(DATASET, "")]
    if not names:
        return []
    return [f"trained on a stand-in, not on the published data set, so these reproduce no published run: {few(names)}"]


def _is_unsettled(row: Row) -> bool:
    """Whether a run has a ρ, but a curve that is not known to have settled."""
    return math.isfinite(row.rho) and row.settled is not None and not row.settled.both


def _warnings_of(rows: Sequence[Row]) -> list[str]:
    """Return the warnings of the analyses, each once, with the runs that it is of."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for warning in row.warnings:
            found.setdefault(warning, []).append(row.run)
    return [f"{few(names)}: {warning}" for warning, names in found.items()]


def _label_to_group_by(by: str | None, rows: Sequence[Row]) -> str | None:
    names = labelling.label_names(row.labels for row in rows)
    if by is None:
        return FAMILY if FAMILY in names else None
    if by not in names:
        raise RegimeError(f"--by {by}: no run has this label; expected one of {', '.join(names) or '(there are none)'}")
    return by


def _summaries(rows: Sequence[Row], by: str | None) -> list[Summary]:
    def by_source(group: Sequence[Row], value: str | None) -> list[Summary]:
        return [
            Summary(source, None if value is None else by, value, centre(row.rho for row in part))
            for source, part in _grouped(lambda row: row.source, group).items()
        ]

    summaries = by_source(rows, None)
    if by is not None:
        for value, group in _grouped(lambda row: row.labels.get(by), rows).items():
            summaries += by_source(group, value)
    return summaries


def _repeats(rows: Sequence[Row]) -> list[Repeat]:
    """Return the groups of runs that differ in nothing that is known but the seed."""
    groups: dict[object, list[Row]] = {}
    for row in rows:
        if row.program is not None:
            like = (row.program, row.preset, row.step_kind, row.stride, frozenset(_without_seed(row).items()))
            groups.setdefault(like, []).append(row)
    return [
        Repeat(
            runs=tuple(row.run for row in group),
            labels=_without_seed(group[0]),
            rho=spread(row.rho for row in group),
            auc_w=spread(row.auc_w for row in group),
            auc_p=spread(row.auc_p for row in group),
        )
        for group in groups.values()
        if len(group) > 1
    ]


def _without_seed(row: Row) -> dict[str, str]:
    return {name: text for name, text in row.labels.items() if name != SEED}


def _sorted(rows: Sequence[Row], sort: str | None) -> list[Row]:
    if sort is None:
        return list(rows)
    if sort == "name":
        return sorted(rows, key=lambda row: row.run)
    # What is undefined comes last.
    return sorted(rows, key=lambda row: -value if math.isfinite(value := getattr(row, sort)) else math.inf)
