"""Results beside the published rows."""

from regime_proto.examples.paper.results import Outcome
from regime_proto.examples.paper.rows import row_called


def lines_of(outcome: Outcome) -> list[str]:
    """Return in a few lines what came out of one training."""
    published = row_called(outcome.row).published
    return [
        f"{outcome.row} on {outcome.data}: {outcome.epochs:.4g} epochs, {outcome.steps:,} updates ({outcome.ended})",
        f"{outcome.score_kind} {_number(outcome.score)}, AUC_W {_number(outcome.auc_w)}, AUC_P {_number(outcome.auc_p)}"
        f", ρ {_number(outcome.rho)}",
        f"published: ρ {published.rho:g}",
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
