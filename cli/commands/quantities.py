"""``regime quantities``: lists the quantities that can be measured."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import rich_click as click

from regime_proto.cli import options
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages

if TYPE_CHECKING:
    from rich.console import RenderableType

    from regime_proto.quantities.base import Quantity


@command
@click.argument("names", nargs=-1, metavar="[NAME]…")
@options.as_json
@options.messages
def quantities(names: tuple[str, ...], as_json: bool, quiet: bool, verbose: bool) -> None:
    """List the quantities that can be measured at every checkpoint, either always or with --measure NAME.

    Given NAMEs of quantities or groups, show their details too: formula, unit and source. In a trajectory, the variable
    of a quantity is called quantity_NAME.

    For example:
        regime quantities function
        regime quantities structural_change_l2_last margin
    """
    from rich.console import Group

    from regime_proto.cli import render
    from regime_proto.quantities.installed import known_quantities, named

    messages = Messages(quiet=quiet, verbose=verbose)
    with messages.collecting():
        chosen = named(names) if names else known_quantities().values()
        known = sorted(chosen, key=lambda quantity: (not quantity.is_built_in, quantity.name))
    if as_json:
        click.echo(json.dumps({"json_version": 1, "quantities": [_fields(quantity) for quantity in known]}))
        return
    shown = _details(known) if names else _list(known)
    render.show(render.console(), Group(*shown))


def _list(known: "Sequence[Quantity]") -> "list[RenderableType]":
    """Return one line per quantity, grouped by requirements and cost."""
    from regime_proto.cli import render

    alike: dict[str, list[Quantity]] = {}
    for quantity in known:
        alike.setdefault(_group(quantity), []).append(quantity)
    parts: list[RenderableType] = []
    for said, together in alike.items():
        lines = render.facts_grid()
        for quantity in together:
            lines.add_row(f"  {quantity.name}", quantity.meaning)
        parts += [said, lines, ""]
    last = (
        "`regime quantities NAME…` shows formula, unit and source; the variable of a quantity is called quantity_NAME."
    )
    return [*parts, last]


def _group(quantity: "Quantity") -> str:
    """Return the heading for a quantity and all that share its requirements and cost."""
    if quantity.is_built_in:
        return "always measured"
    where = "" if quantity.is_recordable else "; not available in recordings"
    cost = quantity.cost and f"; {quantity.cost}"
    return f"needs {', '.join(quantity.needs)}{cost}{where}"


def _details(known: "Sequence[Quantity]") -> "list[RenderableType]":
    from regime_proto.cli import render

    parts: list[RenderableType] = []
    for quantity in known:
        facts = render.facts_grid()
        for name, value in _fields(quantity).items():
            if name != "name" and value != "":
                facts.add_row(f"  {name}", {True: "yes", False: "no"}.get(value, str(value)))
        parts += [f"{quantity.name}{' (always measured)' if quantity.is_built_in else ''}", facts, ""]
    return parts[:-1]


def _fields(quantity: "Quantity") -> dict[str, Any]:
    return {
        "name": quantity.name,
        "meaning": quantity.meaning,
        "formula": quantity.definition,
        "per": " and ".join(("step", *quantity.dims)),
        "unit": "" if quantity.unit == "1" else quantity.unit,
        "against": quantity.against,
        "needs": ", ".join(quantity.needs),
        "cost": quantity.cost,
        "recorded": quantity.is_recordable,
        "variable": quantity.stored.variable.name,
        "source": quantity.source,
    }
