"""The dot product of every weight tensor with an earlier one of itself.

With `weight_norm_l2` it gives the cosine distance of two states over the whole network,
C(i, j) = 1 − ⟨θ_i, θ_j⟩ / (‖θ_i‖ ‖θ_j‖) (arXiv 2505.13900).
"""

from regime_proto.quantities.base import Quantity

_SOURCE = "arXiv 2505.13900, the cosine distance between states"

PREVIOUS = Quantity(
    name="weight_dot_previous",
    dims=("tensor",),
    meaning="dot product of the tensor with the previous observation's",
    definition="sum(w_i * w_(i-1))",
    against="previous",
    term=lambda weight, previous: weight * previous,
    curve="sum",
    cost="one pass over the weights and those of the previous observation",
    source=_SOURCE,
)

FIRST = Quantity(
    name="weight_dot_first",
    dims=("tensor",),
    meaning="dot product of the tensor with the first observation's",
    definition="sum(w_i * w_0)",
    against="first",
    term=lambda weight, first: weight * first,
    curve="sum",
    cost="one pass over the weights and those of the first observation, which are kept",
    source=_SOURCE,
)
