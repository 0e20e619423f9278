"""What may be said of a run, in a sentence."""

from typing import TYPE_CHECKING

from regime_proto.analyzer.settled import Settled
from regime_proto.analyzer.structure import LEVEL
from regime_proto.analyzer.uncertainty import Uncertainty

if TYPE_CHECKING:
    from regime_proto.analyzer.result import Result


def verdict(result: "Result") -> str:
    """Say in words whether the run broke, and what the ends of the curves, ρ and the thresholds allow to say."""
    said = [result.divergence, _settling(result), _structure(result)]
    return " ".join(sentence for sentence in said if sentence)


def _settling(result: "Result") -> str:
    if result.rho_range is None:
        return "ρ is undefined: nothing can be said about which settled first."
    if not result.settled.both:
        return _unsettled(result.settled)
    low, high = result.rho_range
    if low <= 1 <= high:
        return "The readings disagree on which settled first."
    first, second = ("Patterns", "weights") if low > 1 else ("Weights", "patterns")
    disagree = any(_is_earlier(threshold.step_p, threshold.step_w) == (low <= 1) for threshold in result.thresholds)
    doubts = _doubts(result.uncertainty)
    doubts += ["at least one threshold below says the opposite"] if disagree else []
    sampled = " Which units were looked at adds to the range." if result.pattern_error is not None else ""
    settled = "may have settled" if doubts else "settled"
    unsure = f", but {' and '.join(doubts)}" if doubts else ""
    return f"{first} {settled} earlier than {second}: every reading says so{unsure}.{sampled}"


def _structure(result: "Result") -> str:
    """Say how much of the way to the last state moving patterns accounts for; nothing where that is not known."""
    found, kind = result.structure, result.step_kind
    if found is None:
        return ""
    way = f"the change of the outputs from {kind} {found.step} to the last state"
    order = (
        ""
        if found.order is None
        else f" (up to {100 * found.order:.0f} points more or less, by which of the two moves first)"
    )
    said = (
        f"Moving patterns accounts for {found.first:.0%} of {way}, moving weights within patterns for the rest{order}"
    )
    if found.below_from is None:
        return f"{said}; the part of the patterns does not stay below {LEVEL:.0%}."
    if found.below_from == found.step:
        return f"{said}; at no later {kind} does the part of the patterns reach {LEVEL:.0%}."
    return f"{said}; from {kind} {found.below_from} on, the part of the patterns is below {LEVEL:.0%}."


def _unsettled(found: Settled) -> str:
    """Say which curves have settled where not both have: ρ then compares areas, not dates."""
    states = {"patterns": found.patterns, "weights": found.weights}
    if set(states.values()) == {False}:
        said = "Neither patterns nor weights have settled"
    elif set(states.values()) == {None}:
        said = "Whether patterns and weights settled cannot be told"
    else:
        spelled = {True: "{} settled", False: "{} have not settled", None: "whether {} settled cannot be told"}
        clauses = [form.format(name) for state, form in spelled.items() for name in states if states[name] is state]
        said = ", ".join(clauses).capitalize()
    high = ": their change is still high in the last tenth of the run" if False in states.values() else ""
    return f"{said}{high}. ρ does not say which settled first."


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
