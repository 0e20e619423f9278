"""Chooses the losses and the scores among the metrics of a run, by their names."""

from collections.abc import Iterable, Sequence

from regime_proto.analyzer.stages import is_loss
from regime_proto.schema.errors import RegimeError

# Parts of the names that libraries use for scores.
_SCORES = ("acc", "score", "f1", "auc", "bleu", "rouge", "matthews", "precision", "recall", "iou", "r2", "exact_match")
# Most metrics of one kind that can be distinguished in one panel.
MOST = 2


def choose(asked: Sequence[str], there: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the losses and the scores to draw; a requested metric that is not a loss counts as a score.

    Parameters
    ----------
    asked : sequence of str
        Names of requested metrics; if empty, the first available losses and scores.
    there : iterable of str
        Names of available metrics.

    Raises
    ------
    RegimeError
        A metric does not exist, or there are more than can be distinguished.
    """
    known = tuple(dict.fromkeys(there))
    if not asked:
        return tuple(filter(is_loss, known))[:MOST], tuple(filter(_is_score, known))[:MOST]
    for name in asked:
        if name not in known:
            found = ", ".join(known) or "(there are none)"
            raise RegimeError(f"metric {name!r}: no run has it; expected one of {found}")
    chosen = tuple(dict.fromkeys(asked))
    losses, scores = [name for name in chosen if is_loss(name)], [name for name in chosen if not is_loss(name)]
    for kind, names in (("losses", losses), ("scores", scores)):
        if len(names) > MOST:
            raise RegimeError(f"metrics {', '.join(names)}: one panel shows at most {MOST} {kind}; leave some out")
    return tuple(losses), tuple(scores)


def _is_score(name: str) -> bool:
    """Whether a metric is a score, which training increases."""
    return not is_loss(name) and any(part in name.lower() for part in _SCORES)
