"""Compares runs: one row per run, means and spreads, and the published runs (docs/protocol.md, section 6)."""

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
from regime_proto.comparison.columns import columns, describe, describe_first, describe_rows
from regime_proto.comparison.labels import DATASET, FAMILY, SEED, STAND_IN
from regime_proto.comparison.rows import PAPER, RUN, Row, published, row_of, spacing
from regime_proto.comparison.spread import Centre, Spread, centre, spread
from regime_proto.schema.display import Display, Displayed, Notes, Table
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.validation.ahead import checking_ahead
from regime_proto.schema.words import few

JSON_VERSION = 1
REFERENCES = (PAPER,)
# So many labels are shown at a prompt and in a notebook.
_SHOWN_LABELS = 4
SORTS = ("rho", "auc_w", "auc_p", "name")


@dataclass(frozen=True)
class Summary:
    """The ρ of several runs.

    Parameters
    ----------
    source : str
        `RUN`, or `PAPER` for published runs; the two are never combined.
    by : str or None
        Name of the label that these runs share; None for all runs.
    value : str or None
        Value of that label; None for all runs.
    rho : Centre
        Mean, semi-deviations and median of ρ.
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
    """Runs of one program whose labels are the same except for the seed.

    Parameters
    ----------
    runs : tuple of str
        Displayed names of the runs.
    labels : mapping of str to str
        The labels that they share.
    rho : Spread
        Spread of ρ.
    auc_w : Spread
        Spread of AUC_W.
    auc_p : Spread
        Spread of AUC_P.
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
    """A comparison of several runs.

    Parameters
    ----------
    rows : tuple of Row
        One for each run, and for each published run.
    summaries : tuple of Summary
        First over all runs of each source, then by label.
    repeats : tuple of Repeat
        Groups of at least two runs.
    is_mixed : bool
        Whether the rows differ in stride, kind of step or preset, which makes them different measurements.
    warnings : tuple of str
        Why the comparison may say little.
    """

    rows: tuple[Row, ...]
    summaries: tuple[Summary, ...]
    repeats: tuple[Repeat, ...]
    is_mixed: bool
    warnings: tuple[str, ...]

    def _display(self) -> Display:
        names = labelling.label_names(row.labels for row in self.rows)
        # The name of a published run is its model and its data set.
        most = 0 if any(row.source == PAPER for row in self.rows) else _SHOWN_LABELS
        shown = columns(self, labels=most)
        table = Table(
            tuple(tuple(column.text(row) for column in shown) for row in self.rows),
            headings=tuple(column.heading for column in shown),
            are_numbers=tuple(column.is_number for column in shown),
        )
        others = f"… {', '.join(names[most:])}: in .rows" if len(names) > most else ""
        means = [*map(describe, self.summaries), describe_first(self.rows)]
        return Display(
            describe_rows(self.rows),
            (table, others, *means, Notes("warnings", self.warnings)),
        )

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
    """Compare several runs.

    Parameters
    ----------
    runs : path, Result, or iterable of these
        Trajectory files, or results of `analyze`.
    labels : path or mapping, optional
        A CSV table with a column ``file`` (name or path of a trajectory) and a column for each label; or a mapping from
        such names to labels. They override labels in the files.
    by : str, optional
        Label by which ρ is also summarised. Default: ``family``, if any run has it.
    reference : {"paper"}, optional
        Add the 18 runs of the paper's Table II.
    mixed : bool
        Compare runs even if their strides or presets differ.
    sort : {"rho", "auc_w", "auc_p", "name"}, optional
        Order of the rows; numbers are sorted from the largest. Default: as given.
    preset, steps, batches_per_epoch, resamples : optional
        As in `analyze`; a `Result` keeps its own.
    progress : callable, optional
        Called with the number of runs done and the number of all runs.

    Raises
    ------
    RegimeError
        A run cannot be analyzed or is given twice, labels do not match, or measurements of different kinds are mixed.
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
    # Without runs, the published numbers must match the requested analysis.
    differences = _differences(rows, {} if given else {f"preset {preset}": ["requested"]})
    if differences and not mixed:
        raise RegimeError(f"{'; '.join(differences)}: compare them separately, or pass --mixed")
    warnings += [f"{difference}: these are different measurements" for difference in differences]
    warnings += [*_unlike(rows), *_programs(rows), *_stand_ins(rows), *_warnings_of(rows)]
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
    """Return the displayed name of each run: the name of its file if it is unique, else its path."""
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
    """Return the rows with the given labels added, and warnings about these labels."""
    files = [Path(row.trajectory or row.run) for row in rows]
    found, strangers = labelling.assign(labels, files)
    warnings = [labelling.describe_strangers(strangers, files)] if strangers else []
    return [replace(row, labels={**row.labels, **more}) for row, more in zip(rows, found, strict=True)], warnings


def _differences(rows: Sequence[Row], presets: Mapping[str, list[str]]) -> list[str]:
    """Return one description for each difference that makes the rows different measurements.

    Parameters
    ----------
    rows : sequence of Row
    presets : mapping
        Further presets, with the names of what has them.
    """
    aspects = {
        "stride": _runs_by(spacing, rows),
        "preset": {**presets, **_runs_by(lambda row: f"preset {row.preset}", rows)},
    }
    return [
        f"the runs differ in {aspect}: " + ", ".join(f"{few(names)} ({kind})" for kind, names in groups.items())
        for aspect, groups in aspects.items()
        if len(groups) > 1
    ]


def _runs_by(key: Callable[[Row], str | None], rows: Iterable[Row]) -> dict[str, list[str]]:
    """Return the names of the runs, grouped by a key; runs whose key is None are left out."""
    return {value: _called(group) for value, group in _grouped(key, rows).items()}


def _called(rows: Sequence[Row]) -> list[str]:
    """Return the names of runs; published ones, which have none, are counted."""
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
    """Return warnings about runs that can be compared with restrictions."""
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
        warnings.append(f"uneven strides, which may differ between runs: {few(uneven)}")
    undefined = [row.run for row in rows if not math.isfinite(row.rho)]
    if undefined:
        warnings.append(f"ρ is undefined and left out of means: {few(undefined)}")
    unsettled = [row.run for row in own if _is_unsettled(row)]
    if unsettled:
        warnings.append(
            "it is not certain that both curves have settled by the end, so ρ does not show which settled first: "
            f"{few(unsettled)}"
        )
    return warnings


def _programs(rows: Sequence[Row]) -> list[str]:
    """Return a warning if one mean covers runs of different programs."""
    count = len({row.program for row in rows if row.program is not None})
    if count < 2:
        return []
    advice = "--by LABEL adds a mean for each value of a label, such as model"
    return [f"the runs are of {count} different programs, and the mean ρ averages over them; {advice}"]


def _stand_ins(rows: Sequence[Row]) -> list[str]:
    """Name the runs on a data set that stands for a published one, where published runs are next to them."""
    if not any(row.source == PAPER for row in rows):
        return []
    names = [f"{row.run} ({row.labels[DATASET]})" for row in rows if STAND_IN in row.labels.get(DATASET, "")]
    if not names:
        return []
    return [f"trained on a stand-in, not on the published data set, so no published run is reproduced: {few(names)}"]


def _is_unsettled(row: Row) -> bool:
    """Whether a run has a ρ, but a curve that is not known to have settled."""
    return math.isfinite(row.rho) and row.settled is not None and not row.settled.both


def _warnings_of(rows: Sequence[Row]) -> list[str]:
    """Return the warnings of the analyses, each once, with the runs that have it."""
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
    """Return the groups of runs that differ, as far as known, only in the seed."""
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
    # Undefined values come last.
    return sorted(rows, key=lambda row: -value if math.isfinite(value := getattr(row, sort)) else math.inf)
