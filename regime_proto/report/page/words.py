"""Describes a run in words: what was measured, how, and with which uncertainty."""

from regime_proto.report.view import RunView
from regime_proto.schema.layout import ATTRIBUTES
from regime_proto.schema.numbers import number
from regime_proto.schema.words import counted


def how_measured(view: RunView) -> list[str]:
    """Return sentences on what was measured and how."""
    result, facts = view.result, view.facts
    kind, steps = result.step_kind, view.steps
    measured = (
        f"{counted(result.observations, 'observation', ',')} of "
        f"{counted(facts['parameters'], 'trainable parameter', ',')} in {counted(facts['tensors'], 'tensor')}, up to "
        f"{kind} {steps[-1]}, on {counted(facts['samples'], 'probe sample')}: "
        f"{counted(facts['units'], 'unit', ',')} per sample "
        f"in {counted(facts['layers'], 'layer')}."
    )
    said = [measured, _stride(view)]
    if result.window > 1:
        said.append(f"Curves are smoothed over {result.window} observations, 0.3 epochs.")
    elif any(text.startswith("the curves are not smoothed") for text in result.warnings):
        said.append("Curves are not smoothed, because the number of observations per epoch is unknown.")
    else:
        said.append("Curves are not smoothed, because the window of 0.3 epochs is a single observation here.")
    if result.distance is not None:
        said.append(
            f"The final distance of the weights from their initial values, ‖w − w₀‖, is {result.distance.last:.3g}; "
            f"half of it is reached by {kind} {result.distance.half_at}."
        )
    said.append(_noise(view))
    if result.pattern_error is not None:
        said.append(
            "Only some units of each layer were measured; the largest standard error of Δa due to this choice is "
            f"{result.pattern_error:.1e}."
        )
    return said


def _stride(view: RunView) -> str:
    result = view.result
    if result.stride is None:
        return "Observations are unevenly spaced; each change is weighted by the number of steps that it spans."
    if result.stride == 1:
        return f"Every {result.step_kind} was observed."
    return (
        f"Observations are {result.stride} {result.step_kind}s apart. Every change is the net displacement over "
        f"{result.stride} {result.step_kind}s, not a sum, so compare only with runs of the same stride."
    )


def _noise(view: RunView) -> str:
    floor, late = view.result.noise_floor, view.result.late_pattern_change
    if floor is None:
        return "The noise floor, which is the share of units that flip due to rounding alone, was not measured."
    if floor == 0:
        return f"Noise floor: rounding alone flips no units; late in the run, Δa is {late:.1e}."
    return (
        f"Noise floor: rounding alone flips {floor:.1e} of the units; late in the run, Δa is {late:.1e}, "
        f"{late / floor:.3g} times as much."
    )


def confidence(view: RunView) -> list[tuple[str, str, str, str, str]]:
    """Return the numbers with their intervals: name, value, different probe, different noise, meaning."""
    result, found = view.result, view.result.uncertainty
    rows = []
    for name, spelled, meaning in (
        ("rho", "ρ", "above 1: patterns settled earlier than weights, if both settled"),
        ("auc_w", "AUC_W", "area under the weight curve"),
        ("auc_p", "AUC_P", "area under the pattern curve"),
    ):
        spans = []
        for spread in (None, None) if found is None else (found.probe, found.course):
            one = None if spread is None else getattr(spread, name)
            spans.append("–" if one is None else f"{one.low:.3f} – {one.high:.3f}")
        rows.append((spelled, number(getattr(result, name)), spans[0], spans[1], meaning))
    return rows


def provenance(view: RunView) -> list[tuple[str, str, str]]:
    """Return name, value and meaning of the author's notes, then of the root attributes of the file.

    Attributes of the format come first, in the order of the format.
    """
    notes = [(name, str(value), "note by the author") for name, value in view.result.notes.items()]
    known = {attribute.name: attribute.meaning for attribute in ATTRIBUTES}
    names = [name for name in known if name in view.attributes]
    names += [name for name in view.attributes if name not in known]
    return notes + [(name, str(view.attributes[name]), known.get(name, "")) for name in names]
