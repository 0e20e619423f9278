"""Summaries of the inputs of gates: their size, and their distance from a threshold (docs/protocol.md, section 8)."""

import numpy as np

from regime_proto.quantities.base import PREACTIVATIONS, Network, Quantity, State
from regime_proto.schema.types import Array


def _rms(current: State, _: State | None, __: Network) -> Array:
    assert current.preactivations is not None  # noqa: S101
    root: Array = np.sqrt(current.preactivations.mean_squares)
    return root


def _margins(current: State, _: State | None, __: Network) -> Array:
    assert current.preactivations is not None  # noqa: S101
    return current.preactivations.margins


RMS = Quantity(
    name="preactivation_rms",
    dims=("layer",),
    meaning="root mean square of the inputs of the gate, over samples and counted units",
    definition="sqrt(mean(z_i^2))",
    needs=(PREACTIVATIONS,),
    compute=_rms,
    cost="reductions in the graph: 1.2 times the time of a plain conversion for an MLP, 1.1 times for a ResNet-18",
    source="RMS of activations, as trainers log it",
)

MARGIN = Quantity(
    name="margin",
    dims=("layer", "sample"),
    meaning="smallest distance from a counted unit's input to a threshold of its gate",
    definition="min(|z_i - threshold|)",
    needs=(PREACTIVATIONS,),
    compute=_margins,
    curve="min",
    cost="reductions in the graph: 1.2 times the time of a plain conversion for an MLP, 1.1 times for a ResNet-18",
    source="Proposition 1 of the paper: while inputs move less than this, the pattern of a sample does not change",
)
