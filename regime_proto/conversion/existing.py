"""Explains how an existing output differs from what a conversion would write."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from regime_proto.conversion.plan import Plan
from regime_proto.program.probe import probe_sha256
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.header import Header
from regime_proto.schema.layout import STEP
from regime_proto.schema.reader import open_checked
from regime_proto.schema.words import few

_SHOWN = 3


def refusal(plan: Plan, output: Path, existing: Header) -> RegimeError:
    """Return the error for an output that holds a different run; it names the known differences."""
    # Quantities that compare with the last checkpoint are part of the fingerprint.
    others = tuple(quantity for quantity in plan.quantities if quantity.against != "last")
    if existing.attributes["source_fingerprint"] in replace(plan, quantities=others).fingerprints:
        return lacking(plan, output, existing)
    found = "; ".join(_differences(plan, output, existing))
    return RegimeError(
        f"{output}: exists, but was converted from different checkpoints (some may have been deleted or modified "
        f"since), a different program or a different probe: {found}; analyze it unchanged with `regime analyze "
        f"{output}`, choose another output with -o, or replace it with --overwrite"
    )


def lacking(plan: Plan, output: Path, existing: Header) -> RegimeError:
    """Return the error for an output that holds the same run without some of the requested quantities."""
    held = few([quantity.name for quantity in existing.quantities])
    missing = few(missing_in(plan, existing))
    return RegimeError(
        f"{output}: exists, but holds no {missing}{held and f' (it holds {held})'}; to add them, all checkpoints must "
        "be read again: pass --overwrite, or choose another output with -o"
    )


def missing_in(plan: Plan, existing: Header) -> list[str]:
    """Return the names of the quantities of a plan that a trajectory lacks."""
    return [quantity.name for quantity in plan.quantities if not existing.holds(quantity.name)]


def _differences(plan: Plan, output: Path, existing: Header) -> list[str]:
    attributes = existing.attributes
    adapter = attributes.get("source_adapter")
    if adapter != plan.source.adapter:
        return [f"it was converted from {adapter} checkpoints, but these are {plan.source.adapter} checkpoints"]
    differing = [*_protocol(plan, existing), *_order(plan, output, str(attributes["step_kind"]))]
    if not differing and attributes["source_fingerprint"] in replace(plan, weights=None).fingerprints:
        differing = [f"it was converted without --weights {plan.weights}"]
    if not differing and any(quantity.against == "last" for quantity in existing.quantities):
        differing = [
            "the last checkpoint differs, and these quantities compare every state with the last one: "
            + few([quantity.name for quantity in existing.quantities if quantity.against == "last"])
        ]
    otherwise = "" if plan.weights is None else f", or it was converted without --weights {plan.weights}"
    return differing or [
        f"program, probe, gates, units and steps are the same, so a file was replaced or its time changed{otherwise}"
    ]


def _protocol(plan: Plan, existing: Header) -> Iterator[str]:
    """Yield the differences in program, probe and gates."""
    attributes = existing.attributes
    if attributes["program_sha256"] != plan.program.sha256:
        yield "the program differs"
    if attributes["probe_sha256"] != probe_sha256(plan.probe):
        yield "the probe differs"
    yield from _layers(plan, existing)


def _layers(plan: Plan, existing: Header) -> Iterator[str]:
    """Yield the differences in the gates, and in the units that are stored of each."""
    held, wanted = ([layer.name for layer in layers] for layers in (existing.layers, plan.layers))
    if held != wanted:
        more = [name for name in held if name not in wanted], [name for name in wanted if name not in held]
        yield f"the gates differ (only in the file: {_listed(more[0])}; only requested: {_listed(more[1])})"
    elif [layer.size for layer in existing.layers] != [layer.size for layer in plan.layers]:
        yield "the gates have different sizes"
    elif [layer.width for layer in existing.layers] != [layer.width for layer in plan.layers]:
        yield "different units are stored (--sample-units)"
    elif existing.unit_index is not None and existing.attributes.get("sample_units_seed") != plan.sample_seed:
        yield "different units are stored (--sample-seed)"


def _order(plan: Plan, output: Path, kind: str) -> Iterator[str]:
    """Yield the differences in the steps."""
    with open_checked(output) as file:
        held = file[STEP][...].tolist()
    wanted = [checkpoint.step for checkpoint in plan.source.checkpoints]
    if (kind, held) != (plan.source.step_kind, wanted[: len(held)]):
        yield (
            f"its steps are {_steps(held)} (kind: {kind}), the requested steps are {_steps(wanted)} (kind: "
            f"{plan.source.step_kind}, determined from: {plan.source.order}); they depend on --step-pattern, --steps, "
            "--every and the file names"
        )


def _steps(steps: Sequence[int]) -> str:
    shown = ", ".join(map(str, steps[:_SHOWN]))
    return f"{shown} … {steps[-1]}, {len(steps)} in all" if len(steps) > _SHOWN else shown


def _listed(names: Sequence[str]) -> str:
    return few(names) or "none"
