"""Describes in sentences what can be concluded about a run."""

import math
from typing import TYPE_CHECKING

from regime_proto.analyzer.settled import Settled
from regime_proto.analyzer.structure import LEVEL
from regime_proto.analyzer.uncertainty import Uncertainty

if TYPE_CHECKING:
    from regime_proto.analyzer.result import Result


def verdict(result: "Result") -> str:
    """Return sentences on whether the run broke, and on what the ends of the curves, ρ and the thresholds show."""
    said = [result.divergence, _settling(result), _structure(result)]
    return " ".join(sentence for sentence in said if sentence)


def settled_first(result: "Result") -> str | None:
    """Return which curve settled first beyond doubt, ``"patterns"`` or ``"weights"``; None in case of doubt."""
    if result.rho_range is None or not result.settled.both:
        return None
    low, high = result.rho_range
    if low <= 1 <= high or _all_doubts(result):
        return None
    return "patterns" if low > 1 else "weights"


def _settling(result: "Result") -> str:
    if result.rho_range is None:
        return "ρ is undefined, so it does not show which settled first."
    if not result.settled.both:
        return _unsettled(result.settled)
    low, high = result.rho_range
    if low <= 1 <= high:
        return "The readings disagree about which settled first."
    first, second = ("Patterns", "weights") if low > 1 else ("Weights", "patterns")
    doubts = _all_doubts(result)
    sampled = " The choice of measured units adds to the range." if result.pattern_error is not None else ""
    settled = "may have settled" if doubts else "settled"
    unsure = f", but {' and '.join(doubts)}" if doubts else ""
    return f"{first} {settled} earlier than {second}: every reading says so{unsure}.{sampled}"


def _structure(result: "Result") -> str:
    """Return a sentence on the share of the output change due to moving patterns; empty if it is unknown."""
    found, kind = result.structure, result.step_kind
    if found is None:
        return ""
    way = f"the change of the outputs from {kind} {found.step} to the last state"
    order = (
        ""
        if found.order is None
        else f" (up to {100 * found.order:.0f} points more or less, depending on which of the two moves first)"
    )
    said = (
        f"Moving patterns account for {found.first:.0%} of {way}, and weights moving within patterns for the rest"
        f"{order}"
    )
    if found.below_from is None:
        return f"{said}. The share of the patterns does not stay below {LEVEL:.0%}."
    if found.below_from == found.step:
        return f"{said}. The share of the patterns does not reach {LEVEL:.0%} at any later {kind}."
    return f"{said}. From {kind} {found.below_from} on, the share of the patterns is below {LEVEL:.0%}."


def _unsettled(found: Settled) -> str:
    """Return sentences on which curves have settled, if not both have; ρ then compares areas, not times."""
    states = {"patterns": found.patterns, "weights": found.weights}
    if set(states.values()) == {False}:
        said = "Neither patterns nor weights have settled"
    elif set(states.values()) == {None}:
        said = "Whether patterns and weights settled cannot be determined"
    else:
        spelled = {True: "{} settled", False: "{} have not settled", None: "whether {} settled cannot be determined"}
        clauses = [form.format(name) for state, form in spelled.items() for name in states if states[name] is state]
        said = ", ".join(clauses).capitalize()
    high = ": their change is still high in the last tenth of the run" if False in states.values() else ""
    return f"{said}{high}. ρ does not show which settled first."


def _all_doubts(result: "Result") -> list[str]:
    """Return clauses on what contradicts a range of ρ that does not contain 1."""
    low, _ = result.rho_range or (math.nan, math.nan)
    disagree = any(_is_earlier(threshold.step_p, threshold.step_w) == (low <= 1) for threshold in result.thresholds)
    return _doubts(result.uncertainty) + ["at least one threshold below says the opposite"] * disagree


def _doubts(found: Uncertainty | None) -> list[str]:
    """Return a clause if the intervals of ρ leave open which settled first; else an empty list."""
    spreads = [] if found is None else [spread for spread in (found.probe, found.course) if spread is not None]
    known = [spread.rho for spread in spreads if spread.rho is not None]
    count = sum(rho.low <= 1 <= rho.high for rho in known)
    which = "the interval" if len(known) == 1 else "both intervals" if count == 2 else "one of the intervals"
    return [f"1 lies within {which} of ρ"] if count else []


def _is_earlier(step: int | None, other: int | None) -> bool | None:
    """Whether one curve settled before another. Never is later than any step; None if neither was earlier."""
    if step == other:
        return None
    return other is None or (step is not None and step < other)
