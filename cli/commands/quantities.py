"""``regime quantities``: the quantities that can be measured."""

import json
from typing import TYPE_CHECKING

import rich_click as click

from regime_proto.cli import options
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages

if TYPE_CHECKING:
    from regime_proto.quantities.base import Quantity


@command
@options.as_json
@options.messages
def quantities(as_json: bool, quiet: bool, verbose: bool) -> None:
    """List the quantities that can be measured of every checkpoint: with --measure NAME, or always.

    Example: regime quantities
    """
    from rich.console import Group, RenderableType

    from regime_proto.cli import render
    from regime_proto.quantities.installed import known_quantities

    messages = Messages(quiet=quiet, verbose=verbose)
    with messages.collecting():
        known = sorted(known_quantities().values(), key=lambda quantity: (not quantity.is_built_in, quantity.name))
    if as_json:
        click.echo(json.dumps({"json_version": 1, "quantities": [_fields(quantity) for quantity in known]}))
        return
    parts: list[RenderableType] = []
    for quantity in known:
        facts = render.facts_grid()
        for name, value in _fields(quantity).items():
            if name != "name" and value:
                facts.add_row(f"  {name}", str(value))
        parts += [f"{quantity.name}{' (always measured)' if quantity.is_built_in else ''}", facts, ""]
    render.show(render.console(), Group(*parts[:-1]))


def _fields(quantity: "Quantity") -> dict[str, str]:
    return {
        "name": quantity.name,
        "meaning": quantity.meaning,
        "formula": quantity.definition,
        "per": " and ".join(("step", *quantity.dims)),
        "unit": "" if quantity.unit == "1" else quantity.unit,
        "against": quantity.against,
        "needs": ", ".join(quantity.needs),
        "cost": quantity.cost,
        "source": quantity.source,
    }
