"""What may be said of a run, in a sentence."""

from regime_proto.analyzer.result import Result
from regime_proto.analyzer.uncertainty import Uncertainty


def verdict(result: Result) -> str:
    """Say in words what the range of ρ, and the thresholds beside it, allow to say."""
    if result.rho_range is None:
        return "ρ is undefined: nothing can be said about which settled first."
    low, high = result.rho_range
    if low <= 1 <= high:
        return "The readings disagree on which settled first."
    first, second = ("Patterns", "weights") if low > 1 else ("Weights", "patterns")
    disagree = any(_is_earlier(threshold.step_p, threshold.step_w) == (low <= 1) for threshold in result.thresholds)
    doubts = _doubts(result.uncertainty)
    doubts += ["a threshold below says otherwise"] if disagree else []
    sampled = " Which units were looked at adds to the range." if result.pattern_error is not None else ""
    settled = "may have settled" if doubts else "settled"
    unsure = f", but {' and '.join(doubts)}" if doubts else ""
    return f"{first} {settled} earlier than {second}: every reading says so{unsure}.{sampled}"


def _doubts(found: Uncertainty | None) -> list[str]:
    """Say whether the intervals of ρ leave open which settled first."""
    spreads = [] if found is None else [spread for spread in (found.probe, found.course) if spread is not None]
    known = [spread.rho for spread in spreads if spread.rho is not None]
    count = sum(rho.low <= 1 <= rho.high for rho in known)
    which = "the interval" if len(known) == 1 else "both intervals" if count == 2 else "one of the intervals"
    return [f"1 lies within {which} of ρ"] if count else []


def _is_earlier(step: int | None, other: int | None) -> bool | None:
    """Whether one curve settled before another; never is later than any step, None where nothing can be said."""
    if step == other:
        return None
    return other is None or (step is not None and step < other)
