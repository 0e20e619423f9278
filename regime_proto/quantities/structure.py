"""How much of a change of the function came by moving patterns, and how much by moving weights within them.

Let f(w | m) be the network with weights w whose gates are frozen to the masks m, so f(w_i | m_i) is the network itself.
The change of its outputs between two observations i and j is q + s, where neither weights nor patterns go first (the
Shapley value of two players):

    q = ½ [f(w_i | m_j) − f(w_j | m_j) + f(w_i | m_i) − f(w_j | m_i)]      weights moved, patterns kept
    s = ½ [f(w_j | m_i) − f(w_j | m_j) + f(w_i | m_i) − f(w_i | m_j)]      patterns moved, weights kept

What depends on which goes first is t: where patterns go first the change by them is s − t/2, where weights do, s + t/2.

    t = f(w_i | m_i) − f(w_i | m_j) − f(w_j | m_i) + f(w_j | m_j)

The words are those of Duato et al. (structural and quantitative knowledge); the measure is ours.
"""

from collections.abc import Callable

import numpy as np

from regime_proto.quantities.base import FROZEN, OUTPUTS, Network, Quantity, State
from regime_proto.schema.types import Array

_COST = (
    "two passes of the frozen network for each observation that is held against, and one of the whole network that all "
    "share: 1.7 times a plain conversion of an MLP, 2.6 of a ResNet-18"
)
_Q = "q = (f(w_i | m_j) - f(w_j | m_j) + f(w_i | m_i) - f(w_j | m_i)) / 2"
_S = "s = (f(w_j | m_i) - f(w_j | m_j) + f(w_i | m_i) - f(w_i | m_j)) / 2"
_ORDERS = (
    "the mean over the two orders in which weights and patterns may move; f(w | m) has the weights w and its gates "
    "frozen to the patterns m, and j is the observation held against"
)
_WHAT = (
    (
        "quantitative_change_l2",
        "norm of the change of the outputs by weights within kept patterns",
        f"||q||_2, {_Q}, {_ORDERS}",
    ),
    (
        "structural_change_l2",
        "norm of the change of the outputs by patterns, weights kept",
        f"||s||_2, {_S}, {_ORDERS}",
    ),
    (
        "structural_quantitative_dot",
        "dot product of the two changes of the outputs",
        f"sum(q * s), {_Q}, {_S}, {_ORDERS}",
    ),
    (
        "structural_order_l2",
        "norm of what depends on whether patterns or weights move first",
        f"||t||_2, t = f(w_i | m_i) - f(w_i | m_j) - f(w_j | m_i) + f(w_j | m_j); s and q are {_ORDERS}",
    ),
)


def change_parts(outputs: Array, others: Array, kept: Array, moved: Array) -> Array:
    """Return ‖q‖₂, ‖s‖₂, ⟨q, s⟩ and ‖t‖₂ of every sample, (4, sample) float64.

    Parameters
    ----------
    outputs : (sample, output) float
        f(w_i | m_i), the network as it is.
    others : (sample, output) float
        f(w_j | m_j), the network that it is held against.
    kept : (sample, output) float
        f(w_i | m_j): these weights, the other's patterns.
    moved : (sample, output) float
        f(w_j | m_i): the other's weights, these patterns.
    """
    parts = np.empty((4, len(outputs)))
    # One sample after the other: outputs of language models are large.
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
            meaning=f"{meaning}, against the {reference} observation",
            definition=definition,
            unit="1",
            against=reference,
            needs=(OUTPUTS, FROZEN),
            compute=_column(reference, number),
            curve="mean",
            cost=_COST,
            source="ours, after Duato et al. (structural and quantitative knowledge)",
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
