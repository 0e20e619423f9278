"""Compares results with the published rows: as text, for papers, and as a page."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from regime_proto.comparison.spread import Spread, spread
from regime_proto.examples.paper.results import CONFIG, RESULT, Outcome
from regime_proto.examples.paper.rows import Row, row_called
from regime_proto.examples.paper.settings import STANDARD, Settings
from regime_proto.report.figure import NEUTRAL, PATTERN, Figure, Table
from regime_proto.report.page.drawing import at_one
from regime_proto.report.page.filling import sheet
from regime_proto.report.typeset import Typed, latex, markdown
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.text import csv_cell

# Numbers that are averaged over the seeds of one setting.
_NUMBERS = ("epochs", "score", "auc_w", "auc_p", "rho", "structural_share")
# Numbers that the paper states too.
_PAIRS = (("rho", "ρ"), ("auc_w", "AUC_W"), ("auc_p", "AUC_P"), ("score", "score"))


@dataclass(frozen=True)
class Line:
    """The trainings of one row that differ only in the seed.

    Parameters
    ----------
    row : Row
    outcomes : tuple of Outcome
        In the order of their seeds.
    """

    row: Row
    outcomes: tuple[Outcome, ...]

    @property
    def data(self) -> str:
        """Title of the data set, which marks a stand-in."""
        return self.outcomes[0].data

    @property
    def chosen(self) -> str:
        """Description of settings that the paper does not state or that were reduced."""
        settings = self.outcomes[0].settings
        parts = [f"batch {settings.batch_size}"]
        if self.row.optimizer == "SGD":
            parts.append(f"momentum {settings.momentum:g}")
        if settings.dropout is not None:
            parts.append(f"dropout {settings.dropout:g}")
        if settings.scaling != STANDARD:
            parts.append("pixels from 0 to 1")
        if settings.least_improvement:
            parts.append(f"least improvement {settings.least_improvement:g}")
        if settings.width != 1:
            parts.append(f"width {settings.width:g}")
        if settings.image_size is not None:
            parts.append(f"images {settings.image_size}")
        if settings.steps is not None:
            parts.append(f"{self.outcomes[0].steps:,} updates")
        if settings.epochs != self.row.epochs:
            parts.append(f"at most {settings.epochs} epochs")
        return ", ".join(parts)

    @property
    def is_plain(self) -> bool:
        """Whether only batch size, momentum and seed differ from the defaults."""
        settings = self.outcomes[0].settings
        plain = Settings(self.row.name, self.row.epochs, settings.batch_size, settings.momentum)
        return replace(settings, seed=0, checkpoints=plain.checkpoints, data=None) == plain

    @property
    def is_varied(self) -> bool:
        """Whether a different setting that the paper leaves open was chosen."""
        settings = self.outcomes[0].settings
        return settings.dropout is not None or settings.scaling != STANDARD or settings.least_improvement > 0

    def spread(self, name: str) -> Spread:
        """Return mean and spread of a number over the seeds for which it is defined."""
        found = [getattr(outcome, name) for outcome in self.outcomes]
        return spread(math.nan if value is None else value for value in found)


def read_outcomes(folders: Iterable[Path]) -> list[Outcome]:
    """Return the results of `run` and `study` in folders and their subfolders.

    Raises
    ------
    RegimeError
        A folder holds no results, or results that cannot be read.
    """
    found = []
    for folder in folders:
        own = {*folder.rglob(RESULT), *folder.glob("*.json")} - {folder / CONFIG}
        if not own:
            begun = [path.parent for path in sorted(folder.rglob(CONFIG))]
            why = (
                f"the training in {begun[0]} has not ended; resume it with run … --resume"
                if begun
                else "expected a folder written by run or study"
            )
            raise RegimeError(f"{folder}: no results in it; {why}")
        found += [outcome for path in sorted(own) for outcome in Outcome.read(path)]
    return found


def lines(outcomes: Iterable[Outcome]) -> list[Line]:
    """Return the trainings grouped by everything but the seed, in the order of the paper's table."""
    groups: dict[tuple[int, str, object], list[Outcome]] = {}
    for outcome in outcomes:
        key = (
            row_called(outcome.row).number,
            outcome.data,
            replace(outcome.settings, seed=0, data=None, checkpoints=0),
        )
        groups.setdefault(key, []).append(outcome)
    found = [
        Line(row_called(group[0].row), tuple(sorted(group, key=lambda one: one.settings.seed)))
        for group in groups.values()
    ]
    return sorted(found, key=lambda line: (line.row.number, line.data, line.outcomes[0].settings.momentum,
                                           line.outcomes[0].settings.batch_size))  # fmt: skip


def lines_of(outcome: Outcome) -> list[str]:
    """Return a few lines that summarise the results of one training."""
    row = row_called(outcome.row)
    published = row.published
    numbers = (("AUC_W", "auc_w"), ("AUC_P", "auc_p"), ("ρ", "rho"))
    measured = "".join(f", {title} {_decimals(getattr(outcome, name))}" for title, name in numbers)
    stated = "".join(f", {title} {getattr(published, name):g}" for title, name in numbers)
    whose = "" if outcome.stands_for is None else f" for {outcome.stands_for}, not for this stand-in"
    share = outcome.structural_share
    unsettled = (
        "" if outcome.settled else "; not both curves have settled by the end, so ρ does not show which settled first"
    )
    told = [
        f"{row.name} on {outcome.data}: {outcome.epochs:.4g} epochs, {outcome.steps:,} updates ({outcome.ended})",
        f"{outcome.score_kind} {_decimals(outcome.score)}{measured}{unsettled}",
        f"published{whose}: score {published.labels['validation_score']}{stated}",
    ]
    if share is not None:
        later = outcome.structural_below
        told.append(
            f"structural share relative to the last state: {share:.2f} initially, "
            + ("not below 0.05 by the end" if later is None else f"below 0.05 from step {later}")
        )
    return told + [f"warning: {text}" for text in outcome.warnings]


def typed(found: Sequence[Line]) -> Typed:
    """Return the table of results and published numbers."""
    pairs = [title for name, title in _PAIRS for title in (title, f"published {title}")]
    headings = ("row", "trained on", "chosen", "seeds", *pairs, "settled", "epochs", "loss", "structural share")
    return Typed(
        headings=headings,
        are_numbers=tuple(heading not in ("row", "trained on", "chosen") for heading in headings),
        rows=tuple(map(_cells, found)),
        below=_notes(found),
    )


def _cells(line: Line) -> tuple[str, ...]:
    published = _published(line.row)
    pairs = [cell for name, _ in _PAIRS for cell in (_mean(line.spread(name), 2), published[name])]
    settled = sum(outcome.settled for outcome in line.outcomes)
    rest = f"{settled} of {len(line.outcomes)}", _epochs(line), _losses(line), _mean(line.spread("structural_share"), 2)
    return (line.row.name, line.data, line.chosen, str(len(line.outcomes)), *pairs, *rest)


def _epochs(line: Line) -> str:
    found = line.spread("epochs")
    return _mean(found, 1) if found.mean >= 1 else f"{found.mean:.2g}"


def _losses(line: Line) -> str:
    """Return the initial and the final training loss, mean over the seeds."""
    ends = [line.spread(name) for name in ("loss_first", "loss_last")]
    return " → ".join(f"{one.mean:.2f}" for one in ends) if all(one.runs for one in ends) else ""


def _published(row: Row) -> dict[str, str]:
    """Return the published numbers as printed in the paper."""
    found = row.published
    numbers = {name: f"{getattr(found, name):.2f}" for name in ("rho", "auc_w", "auc_p")}
    return {"score": found.labels["validation_score"], **numbers}


def _notes(found: Sequence[Line]) -> tuple[str, ...]:
    notes = [
        "Mean over the seeds ± standard deviation.",
        "The loss is the mean over the first and over the last tenth of the updates.",
        "The structural share is the share of the output change, from first to last, that is due to moving patterns.",
        "Settled: number of trainings in which both curves have settled; else ρ does not show which settled first.",
    ]
    if any(line.outcomes[0].stands_for for line in found):
        notes.append(
            "A stand-in is a different data set from the published one, so its numbers are not a reproduction."
        )
    if any(line.outcomes[0].settings.steps is not None for line in found):
        notes.append("A training that was stopped after a number of updates shows only its beginning.")
    if any(line.outcomes[0].settings.width != 1 for line in found):
        notes.append("A network of a smaller width is a different network from the published one.")
    return (" ".join(notes),)


def by_batch_size(found: Sequence[Line]) -> Typed:
    """Return ρ of each row against the batch size, one line per momentum, for otherwise default settings."""
    groups: dict[tuple[str, str, float], dict[int, Line]] = {}
    for line in found:
        settings = line.outcomes[0].settings
        if line.is_plain:
            groups.setdefault((line.row.name, line.data, settings.momentum), {})[settings.batch_size] = line
    sizes = sorted({size for lines in groups.values() for size in lines})
    return Typed(
        headings=("row", "trained on", "momentum", *(f"batch {size}" for size in sizes), "published ρ"),
        are_numbers=(False, False, False, *(True for _ in sizes), True),
        rows=tuple(
            (
                row_called(name).name,
                data,
                f"{momentum:g}" if row_called(name).optimizer == "SGD" else row_called(name).optimizer,
                *(_rho(lines.get(size)) for size in sizes),
                f"{row_called(name).published.rho:.2f}",
            )
            for (name, data, momentum), lines in groups.items()
        ),
        below=(f"ρ: mean over the seeds ± standard deviation (number of seeds).{_left_out(found)}",),
    )


def _left_out(found: Sequence[Line]) -> str:
    others = sum(len(line.outcomes) for line in found if not line.is_plain)
    return f" Trainings with other settings are left out: {others}." if others else ""


def nearest(found: Sequence[Line]) -> Typed:
    """Return for each row the setting whose AUC_W and AUC_P are nearest to the published ones.

    The distance is √(ln² of one quotient + ln² of the other). Stand-ins are left out.
    """
    chosen: dict[str, Line] = {}
    for line in found:
        if line.outcomes[0].stands_for is None and math.isfinite(_distance(line)):
            chosen[line.row.name] = min(chosen.get(line.row.name, line), line, key=_distance)
    return Typed(
        headings=(
            "row",
            "nearest",
            "seeds",
            "AUC_W",
            "published AUC_W",
            "AUC_P",
            "published AUC_P",
            "ρ",
            "published ρ",
        ),
        are_numbers=(False, False, True, True, True, True, True, True, True),
        rows=tuple(
            (
                line.row.name,
                line.chosen,
                str(len(line.outcomes)),
                *(
                    cell
                    for name in ("auc_w", "auc_p", "rho")
                    for cell in (_mean(line.spread(name), 2), _published(line.row)[name])
                ),
            )
            for line in chosen.values()
        ),
    )


def _distance(line: Line) -> float:
    published = line.row.published
    quotients = line.spread("auc_w").mean / published.auc_w, line.spread("auc_p").mean / published.auc_p
    return math.hypot(*(math.log(one) if one > 0 else math.inf for one in quotients))


def _rho(line: Line | None) -> str:
    if line is None:
        return ""
    found = line.spread("rho")
    return f"{_mean(found, 2)} ({found.runs})" if found.runs else "undefined"


def to_csv(found: Sequence[Line]) -> str:
    """Return one row for each setting, in full precision; unknown values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measured = [f"{name}_{part}" for name in _NUMBERS for part in ("mean", "deviation")]
    published = [f"published_{name}" for name, _ in _PAIRS]
    writer.writerow(["row", "data", "stands_for", "chosen", "seeds", "settled", *measured, *published])
    for line in found:
        numbers = [value for name in _NUMBERS for value in (line.spread(name).mean, line.spread(name).deviation)]
        cells = [
            line.row.name, line.data, line.outcomes[0].stands_for, line.chosen, len(line.outcomes),
            sum(outcome.settled for outcome in line.outcomes),
            *(value if math.isfinite(value) else None for value in numbers),
            *map(_published(line.row).get, (name for name, _ in _PAIRS)),
        ]  # fmt: skip
        writer.writerow(map(csv_cell, cells))
    return text.getvalue()


def to_page(found: Sequence[Line]) -> str:
    """Return a page with the table, and with ρ of each row and the published values.

    Raises
    ------
    RegimeError
        The extra `report` is not installed.
    """
    table = typed(found)
    return sheet(
        "The paper's table",
        about="The systems of Table II, trained again and compared with the published results",
        results=Table(table.headings, table.rows),
        lines=table.below,
        figures=[_figure(found)],
        footer="Written by regime_proto.examples.paper.",
    )


def _figure(found: Sequence[Line]) -> Figure:
    names = [f"{line.row.name}{'<br>(stand-in)' if line.outcomes[0].stands_for else ''}" for line in found]
    own = [
        (name, outcome.rho, line.chosen) for name, line in zip(names, found, strict=True) for outcome in line.outcomes
    ]
    published = [line.row.published.rho for line in found]
    return Figure(
        key="rho",
        title="ρ and the published values",
        caption="A dot for every seed, and a line at the published value. Settings that the paper does not state, such "
        "as the batch size, affect ρ as much as the network does.",
        summary=f"Dot plot of ρ on a logarithmic axis, for {len(found)} settings.",
        traces=(
            {
                "type": "scatter", "mode": "markers", "x": published, "y": names, "name": "published",
                "marker": {"color": NEUTRAL, "size": 16, "symbol": "line-ns-open"},
            },
            {
                "type": "scatter", "mode": "markers", "x": [rho for _, rho, _ in own],
                "y": [name for name, _, _ in own], "text": [chosen for _, _, chosen in own], "name": "here",
                "hovertemplate": "%{y}, %{text}: ρ %{x:.2f}<extra></extra>",
                "marker": {"color": PATTERN, "size": 9},
            },
        ),
        layout={
            "xaxis": {"type": "log", "title": {"text": "ρ"}, "dtick": "D2"},
            "yaxis": {"automargin": True, "type": "category", "autorange": "reversed"},
            "shapes": [at_one()],
        },
        table=Table(
            ("row", "chosen", "ρ", "published ρ"),
            tuple(
                (line.row.name, line.chosen, _mean(line.spread("rho"), 2), f"{line.row.published.rho:.2f}")
                for line in found
            ),
        ),
        height=160 + 34 * len(set(names)),
    )  # fmt: skip


def _mean(found: Spread, decimals: int) -> str:
    if not found.runs:
        return ""
    mean = f"{found.mean:.{decimals}f}"
    return f"{mean} ± {found.deviation:.{decimals}f}" if found.runs > 1 else mean


def _decimals(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


FORMATS = {
    "markdown": lambda found: markdown(typed(found)),
    "latex": lambda found: latex(typed(found)),
    "csv": to_csv,
    "html": to_page,
}
STUDY = {
    "markdown": lambda found: markdown(by_batch_size(found)),
    "latex": lambda found: latex(by_batch_size(found)),
}
