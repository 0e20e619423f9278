"""Splits a change of the function into the part due to patterns and the part due to weights within fixed patterns.

Let f(w | m) be the network with weights w whose gates are frozen to the masks m, so f(w_i | m_i) is the network itself.
The change of its outputs between two observations i and j is q + s. Both orders, weights first and patterns first, are
averaged (the Shapley value of two players):

    q = ½ [f(w_i | m_j) − f(w_j | m_j) + f(w_i | m_i) − f(w_j | m_i)]      weights moved, patterns kept
    s = ½ [f(w_j | m_i) − f(w_j | m_j) + f(w_i | m_i) − f(w_i | m_j)]      patterns moved, weights kept

The part that depends on the order is t. If patterns move first, the change due to them is s − t/2; if weights move
first, it is s + t/2.

    t = f(w_i | m_i) − f(w_i | m_j) − f(w_j | m_i) + f(w_j | m_j)

The terms are those of Duato et al. (structural and quantitative knowledge); the measure is our own.
"""

from collections.abc import Callable

import numpy as np

from regime_proto.quantities.base import FROZEN, OUTPUTS, Network, Quantity, State
from regime_proto.schema.types import Array

_COST = (
    "two passes of the frozen network per reference observation, and one shared pass of the whole network: "
    "1.7 times the time of a plain conversion for an MLP, 2.6 times for a ResNet-18"
)
_Q = "q = (f(w_i | m_j) - f(w_j | m_j) + f(w_i | m_i) - f(w_j | m_i)) / 2"
_S = "s = (f(w_j | m_i) - f(w_j | m_j) + f(w_i | m_i) - f(w_i | m_j)) / 2"
_ORDERS = (
    "the mean over the two orders in which weights and patterns may move; f(w | m) is the network with weights w and "
    "gates frozen to the patterns m, and j is the reference observation"
)
_WHAT = (
    (
        "quantitative_change_l2",
        "norm of the part of the output change due to weights, with patterns fixed",
        f"||q||_2, {_Q}, {_ORDERS}",
    ),
    (
        "structural_change_l2",
        "norm of the part of the output change due to patterns, with weights fixed",
        f"||s||_2, {_S}, {_ORDERS}",
    ),
    (
        "structural_quantitative_dot",
        "dot product of the structural and the quantitative part of the output change",
        f"sum(q * s), {_Q}, {_S}, {_ORDERS}",
    ),
    (
        "structural_order_l2",
        "norm of the part of the output change that depends on whether patterns or weights move first",
        f"||t||_2, t = f(w_i | m_i) - f(w_i | m_j) - f(w_j | m_i) + f(w_j | m_j); s and q are {_ORDERS}",
    ),
)


def change_parts(outputs: Array, others: Array, kept: Array, moved: Array) -> Array:
    """Return ‖q‖₂, ‖s‖₂, ⟨q, s⟩ and ‖t‖₂ of every sample, (4, sample) float64.

    Parameters
    ----------
    outputs : (sample, output) float
        f(w_i | m_i), the network itself.
    others : (sample, output) float
        f(w_j | m_j), the reference network.
    kept : (sample, output) float
        f(w_i | m_j): these weights, the patterns of the reference.
    moved : (sample, output) float
        f(w_j | m_i): the weights of the reference, these patterns.
    """
    parts = np.empty((4, len(outputs)))
    # One sample at a time: outputs of language models are large.
    for sample, rows in enumerate(zip(outputs, others, kept, moved, strict=True)):
        ours, theirs, weights_moved, patterns_moved = (row.astype(np.float64) for row in rows)
        q = ((weights_moved - theirs) + (ours - patterns_moved)) / 2
        s = ((patterns_moved - theirs) + (ours - weights_moved)) / 2
        t = (ours - weights_moved) - (patterns_moved - theirs)
        parts[:, sample] = np.sqrt(q @ q), np.sqrt(s @ s), q @ s, np.sqrt(t @ t)
    return parts


def _column(reference: str, number: int) -> Callable[[State, State | None, Network], Array]:
    def part(current: State, _: State | None, __: Network) -> Array:
        values: Array = current.changes[reference][number]
        return values

    return part


def _against(reference: str) -> tuple[Quantity, ...]:
    return tuple(
        Quantity(
            name=f"{name}_{reference}",
            dims=("sample",),
            meaning=f"{meaning}, relative to the {reference} observation",
            definition=definition,
            unit="1",
            against=reference,
            needs=(OUTPUTS, FROZEN),
            compute=_column(reference, number),
            curve="mean",
            cost=_COST,
            source="our own, after Duato et al. (structural and quantitative knowledge)",
        )
        for number, (name, meaning, definition) in enumerate(_WHAT)
    )


QUANTITATIVE_PREVIOUS, STRUCTURAL_PREVIOUS, DOT_PREVIOUS, ORDER_PREVIOUS = _against("previous")
QUANTITATIVE_FIRST, STRUCTURAL_FIRST, DOT_FIRST, ORDER_FIRST = _against("first")
QUANTITATIVE_LAST, STRUCTURAL_LAST, DOT_LAST, ORDER_LAST = _against("last")


def structural_share(structural: Array, quantitative: Array) -> Array:
    """Return ‖s‖ / (‖s‖ + ‖q‖), NaN where nothing changed.

    Parameters
    ----------
    structural, quantitative : (...) float64
        Norms of the two parts.
    """
    total = structural + quantitative
    share: Array = structural / np.where(total > 0, total, np.nan)
    return share
