"""Figure of the uncertainty of ρ of a run."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from regime_proto.analyzer.readings import PRESETS, Reading
from regime_proto.report.figure import NEUTRAL, PATTERN, WEIGHT, Figure, Table
from regime_proto.report.page.drawing import at_one
from regime_proto.report.view import RunView
from regime_proto.schema.numbers import number


def readings(view: RunView) -> Figure:
    """Return ρ for all readings, and its intervals."""
    result = view.result
    named = {reading: name for name, reading in PRESETS.items()}
    ordered = sorted(result.readings.items(), key=lambda entry: (np.isnan(entry[1]), entry[1]))
    names = [_spell(reading, named) for reading, _ in ordered]
    presets = [index for index, (reading, _) in enumerate(ordered) if reading in named]
    values = [rho for _, rho in ordered]
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "markers", "x": values, "y": names, "name": "readings",
            "marker": {"color": NEUTRAL, "size": 8}, "hovertemplate": "ρ %{x:.3f}<extra>%{y}</extra>",
        },
        {
            "type": "scatter", "mode": "markers", "x": [values[index] for index in presets],
            "y": [names[index] for index in presets], "name": "presets",
            "marker": {"color": PATTERN, "size": 13, "symbol": "diamond"},
            "hovertemplate": "ρ %{x:.3f}<extra>%{y}</extra>",
        },
    ]  # fmt: skip
    rows = [(name, number(value)) for name, value in zip(names, values, strict=True)]
    for source, low, high in intervals(view):
        traces.append(
            {
                "type": "scatter", "mode": "markers", "x": [result.rho], "y": [source], "showlegend": False,
                "marker": {"color": WEIGHT, "size": 9, "symbol": "square"},
                "error_x": {
                    "type": "data", "symmetric": False, "array": [high - result.rho],
                    "arrayminus": [result.rho - low], "color": WEIGHT, "thickness": 2.5, "width": 6,
                },
                "hovertemplate": f"{low:.2f} – {high:.2f}<extra>{source}</extra>",
            }
        )  # fmt: skip
        rows.append((source, f"{low:.2f} – {high:.2f}"))
    span = "undefined"
    if result.rho_range is not None:
        span = f"{result.rho_range[0]:.2f} to {result.rho_range[1]:.2f}"
    sources = list(intervals(view))
    interval_words = (
        " The bars are 95 % intervals of ρ for the preset: for a different choice of probe samples, and for different "
        "noise in the same run. Neither includes the effect of a different training seed."
        if sources
        else ""
    )
    return Figure(
        key="readings",
        title="How much ρ depends on the reading",
        caption=(
            "The paper leaves open how the smoothing treats the ends, whether outliers are clipped, and what has equal "
            "weight in Δw (parameters or tensors) and Δa (layers or units). These choices are 16 readings of the same "
            "run. “same” pads the ends with zeros, “valid” uses whole windows only. ρ above 1 means that patterns "
            f"settled earlier than weights, if both settled.{interval_words}"
        ),
        summary=f"Dot plot. The range of ρ over {len(values)} readings is {span}; for the preset {result.preset}, ρ is "
        f"{number(result.rho, '.2f')}.",
        traces=tuple(traces),
        layout={
            "xaxis": {"title": {"text": "ρ"}},
            "yaxis": {"automargin": True, "type": "category"},
            "shapes": [at_one()],
        },
        table=Table(("reading", "ρ"), tuple(rows)),
        height=170 + 24 * len(rows),
    )


def _spell(reading: Reading, named: dict[Reading, str]) -> str:
    name = f"{named[reading]}: " if reading in named else ""
    clip = "clipped" if reading.clip else "not clipped"
    return f"{name}{reading.ends}, {clip}, {reading.weights}s, {reading.patterns}s"


def intervals(view: RunView) -> Iterator[tuple[str, float, float]]:
    """Yield source, low end and high end of each known interval of ρ."""
    found = view.result.uncertainty
    if found is None:
        return
    for source, spread in (("different probe samples", found.probe), ("different noise in the run", found.course)):
        if spread is not None and spread.rho is not None:
            yield source, spread.rho.low, spread.rho.high
