"""The dot product of every weight tensor with its value in an earlier observation.

With `weight_norm_l2` it gives the cosine distance of two states over the whole network,
C(i, j) = 1 − ⟨θ_i, θ_j⟩ / (‖θ_i‖ ‖θ_j‖) (arXiv 2505.13900).
"""

from regime_proto.quantities.base import Quantity


def _against(observation: str, symbol: str, cost: str) -> Quantity:
    return Quantity(
        name=f"weight_dot_{observation}",
        dims=("tensor",),
        meaning=f"dot product of the tensor with its value in the {observation} observation",
        definition=f"sum(w_i * {symbol})",
        against=observation,
        term=lambda weight, other: weight * other,
        curve="sum",
        cost=f"one pass over the weights and those of the {observation} observation{cost}: "
        "1.4 times the time of a plain conversion for an MLP",
        source="arXiv 2505.13900, cosine distance between states",
    )


PREVIOUS = _against("previous", "w_(i-1)", "")
FIRST = _against("first", "w_0", ", which stay in memory")
