"""What an output holds already that is not what a conversion would write, and in which part of it they differ."""

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
    """Return the error of a conversion whose output holds another run, with what is known of the difference."""
    # Those against the last checkpoint are a part of the fingerprint.
    others = tuple(quantity for quantity in plan.quantities if quantity.against != "last")
    if existing.attributes["source_fingerprint"] in replace(plan, quantities=others).fingerprints:
        return lacking(plan, output, existing)
    found = "; ".join(_differences(plan, output, existing))
    return RegimeError(
        f"{output}: exists, and was made of other checkpoints (some may be gone or touched since), another program or "
        f"another probe: {found}; read it as it is with `regime analyze {output}`, choose another output with -o, or "
        "replace it with --overwrite"
    )


def lacking(plan: Plan, output: Path, existing: Header) -> RegimeError:
    """Return the error of a conversion whose output is of the same run, but lacks quantities that were asked for."""
    held = few([quantity.name for quantity in existing.quantities])
    missing = few(missing_in(plan, existing))
    return RegimeError(
        f"{output}: exists, but holds no {missing}{held and f' (it holds {held})'}; to add that, all checkpoints must "
        "be read again: pass --overwrite, or choose another output with -o"
    )


def missing_in(plan: Plan, existing: Header) -> list[str]:
    """Return the quantities of a plan that a trajectory does not hold."""
    return [quantity.name for quantity in plan.quantities if not existing.holds(quantity.name)]


def _differences(plan: Plan, output: Path, existing: Header) -> list[str]:
    attributes = existing.attributes
    adapter = attributes.get("source_adapter")
    if adapter != plan.source.adapter:
        return [f"it comes from {adapter}, and the checkpoints are {plan.source.adapter}"]
    differing = [*_protocol(plan, existing), *_order(plan, output, str(attributes["step_kind"]))]
    if not differing and attributes["source_fingerprint"] in replace(plan, weights=None).fingerprints:
        differing = [f"it was made without --weights {plan.weights}"]
    if not differing and any(quantity.against == "last" for quantity in existing.quantities):
        differing = [
            "the last checkpoint is another, and it holds every state against the last one: "
            + few([quantity.name for quantity in existing.quantities if quantity.against == "last"])
        ]
    otherwise = "" if plan.weights is None else f", or the weights are not those of --weights {plan.weights}"
    return differing or [
        f"program, probe, gates, units and steps are the same, so a file was replaced or touched{otherwise}"
    ]


def _protocol(plan: Plan, existing: Header) -> Iterator[str]:
    """Yield in which way the two would measure differently."""
    attributes = existing.attributes
    if attributes["program_sha256"] != plan.program.sha256:
        yield "the program is another"
    if attributes["probe_sha256"] != probe_sha256(plan.probe):
        yield "the probe is another"
    yield from _layers(plan, existing)


def _layers(plan: Plan, existing: Header) -> Iterator[str]:
    """Yield in which way the two have other gates, or store other units of them."""
    held, wanted = ([layer.name for layer in layers] for layers in (existing.layers, plan.layers))
    if held != wanted:
        more = [name for name in held if name not in wanted], [name for name in wanted if name not in held]
        yield f"the gates are others (only there: {_listed(more[0])}; only asked for: {_listed(more[1])})"
    elif [layer.size for layer in existing.layers] != [layer.size for layer in plan.layers]:
        yield "the gates have other sizes"
    elif [layer.width for layer in existing.layers] != [layer.width for layer in plan.layers]:
        yield "other units are stored (--sample-units)"
    elif existing.unit_index is not None and existing.attributes.get("sample_units_seed") != plan.sample_seed:
        yield "other units are stored (--sample-seed)"


def _order(plan: Plan, output: Path, kind: str) -> Iterator[str]:
    """Yield in which way the two have other steps."""
    with open_checked(output) as file:
        held = file[STEP][...].tolist()
    wanted = [checkpoint.step for checkpoint in plan.source.checkpoints]
    if (kind, held) != (plan.source.step_kind, wanted[: len(held)]):
        yield (
            f"its steps are {_steps(held)} (kind: {kind}), those asked for {_steps(wanted)} (kind: "
            f"{plan.source.step_kind}, taken from: {plan.source.order}); --step-pattern, --steps, --every and the "
            "names of the files decide them"
        )


def _steps(steps: Sequence[int]) -> str:
    shown = ", ".join(map(str, steps[:_SHOWN]))
    return f"{shown} … {steps[-1]}, {len(steps)} in all" if len(steps) > _SHOWN else shown


def _listed(names: Sequence[str]) -> str:
    return few(names) or "none"
