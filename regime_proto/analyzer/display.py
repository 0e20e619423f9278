"""The display of a result, and sentences that it shares with other outputs."""

from typing import TYPE_CHECKING

from regime_proto.analyzer.verdict import verdict
from regime_proto.schema.display import Curve, Display, Notes, Table
from regime_proto.schema.numbers import number
from regime_proto.schema.words import counted

if TYPE_CHECKING:
    from regime_proto.analyzer.result import Result

# Number of layers that are listed.
_LAYERS = 6


def display(result: "Result") -> Display:
    """Return ρ and the areas, the curves, the verdict, the layers and the warnings."""
    numbers = [("ρ", number(result.rho, ".2f"), describe_range(result))]
    numbers += [("", "", line) for line in describe_intervals(result)]
    numbers += [("AUC_W", number(result.auc_w), "area under the weight curve")]
    numbers += [("AUC_P", number(result.auc_p), "area under the pattern curve")]
    shown = [
        Curve(f"{name}s", result.curves[f"{name}_normalised"].to_numpy().tolist()) for name in ("weight", "pattern")
    ]
    return Display(
        title=result.trajectory or "trajectory",
        parts=(
            describe_run(result), Table(tuple(numbers)), tuple(shown), verdict(result), *_layers(result),
            Notes("warnings", result.warnings),
        ),
    )  # fmt: skip


def _layers(result: "Result") -> tuple[Table | str, ...]:
    rows = tuple((layer.layer, layer.path, str(layer.units), number(layer.auc_p)) for layer in result.layers[:_LAYERS])
    more = len(result.layers) - len(rows)
    table = Table(rows, headings=("layer", "module", "units", "AUC_P"), are_numbers=(False, False, True, True))
    return (table, f"… and {counted(more, 'layer')} more, in .layers" if more else "")


def describe_run(result: "Result") -> str:
    """Return a description of an analysis: its observations, its last step and its settings."""
    last = result.curves["step"].to_numpy()[-1]
    return (
        f"{counted(result.observations, 'observation')} to {result.step_kind} {last}, {_describe_stride(result)}, "
        f"smoothed over {result.window}, preset {result.preset}"
    )


def _describe_stride(result: "Result") -> str:
    if result.stride is None:
        return "uneven strides"
    if result.stride == 1:
        return "stride 1"
    return f"stride {result.stride} (every change spans {result.stride} {result.step_kind}s)"


def describe_range(result: "Result") -> str:
    """Return the lowest and the highest ρ over all readings."""
    if result.rho_range is None:
        return "undefined"
    low, high = result.rho_range
    return f"{number(low, '.2f')} – {number(high, '.2f')} over {len(result.readings)} readings"


def describe_intervals(result: "Result") -> list[str]:
    """Return the intervals of ρ, one line per source of uncertainty."""
    found = result.uncertainty
    if found is None:
        return []
    sources = (("a different choice of probe samples", found.probe), ("different noise in the same run", found.course))
    return [
        f"{number(spread.rho.low, '.2f')} – {number(spread.rho.high, '.2f')} for {source} ({found.level:.0%})"
        for source, spread in sources
        if spread is not None and spread.rho is not None
    ]
