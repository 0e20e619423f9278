"""Figure of the number of patterns on the probe, and of how evenly they are used."""

import math

import numpy as np

from regime_proto.analyzer.pattern_statistics import PatternStatistics, over_layers
from regime_proto.report.figure import FAINT, NEUTRAL, PATTERN, WEIGHT, Figure, Table, numbers
from regime_proto.report.page.drawing import line
from regime_proto.report.view import RunView


def statistics(view: RunView, found: PatternStatistics) -> Figure:
    """Return means over the layers: entropy, agreement with the ends, and both overfitting-underfitting indicators."""
    most = max(1.0, math.log2(found.samples))
    shown = (
        ("entropy, of its maximum", found.entropy / most, PATTERN, "solid"),
        ("Jaccard with the first", found.jaccard_first, WEIGHT, "solid"),
        ("Jaccard with the last", found.jaccard_last, WEIGHT, "dash"),
        ("OUI, by pairs", found.oui_pairs, NEUTRAL, "solid"),
        ("OUI, by units", found.oui_units, FAINT, "dash"),
    )
    means = [over_layers(values) for _, values, _, _ in shown]
    traces = tuple(
        line(found.steps, values, name, color, dash=dash, hovertemplate=f"%{{y:.3f}}<extra>{name}</extra>")
        for (name, _, color, dash), values in zip(shown, means, strict=True)
    )
    regions = f"{found.distinct_regions[0]} initially, {found.distinct_regions[-1]} finally"
    kind = view.result.step_kind
    return Figure(
        key="statistics",
        title="Number of patterns on the probe",
        caption=(
            f"Means over the layers, at {len(found.steps)} observations whose masks are stored: the entropy of the "
            f"patterns of the {found.samples} samples, as a fraction of log₂ of their number; the patterns shared with "
            "the first (last) observation, as a fraction of those that occur in either; and the "
            "overfitting-underfitting indicator by its two published formulas. Different patterns of the whole "
            f"network: {regions}."
        ),
        summary=f"Line chart of five statistics of patterns over {kind}s. Different patterns: {regions}.",
        traces=traces,
        layout={
            "xaxis": {"title": {"text": kind}},
            "yaxis": {"title": {"text": "share"}, "range": [0, 1.02]},
        },
        table=Table(
            (kind, *(name for name, _, _, _ in shown)),
            tuple((str(step), *numbers(row)) for step, row in zip(found.steps, np.stack(means, axis=1), strict=True)),
        ),
        height=300,
    )
