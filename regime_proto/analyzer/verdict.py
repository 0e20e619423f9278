"""What may be said of a run, in a sentence."""

from regime_proto.analyzer.result import Result


def verdict(result: Result) -> str:
    """Say in words what the range of ρ, and the thresholds beside it, allow to say."""
    if result.rho_range is None:
        return "ρ is undefined: nothing can be said about which settled first."
    low, high = result.rho_range
    if low <= 1 <= high:
        return "The readings disagree on which settled first."
    first, second = ("Patterns", "weights") if low > 1 else ("Weights", "patterns")
    disagree = any(_is_earlier(threshold.step_p, threshold.step_w) == (low <= 1) for threshold in result.thresholds)
    doubt = "; a threshold below says otherwise" if disagree else ""
    sampled = " Which units were looked at adds to the range." if result.pattern_error is not None else ""
    found = result.uncertainty
    span = None if found is None else found.rho_span
    close = span is not None and span[0] <= 1 <= span[1]
    unsure = " But 1 lies within an interval of ρ: it may be chance." if close else ""
    return f"{first} settled earlier than {second} in every reading{doubt}.{unsure}{sampled}"


def _is_earlier(step: int | None, other: int | None) -> bool | None:
    """Whether one curve settled before another; never is later than any step, None where nothing can be said."""
    if step == other:
        return None
    return other is None or (step is not None and step < other)
