"""The norm of every weight tensor. With the weight delta it gives the relative update, ‖Δ‖ / ‖w‖."""

import numpy as np

from regime_proto.quantities.base import Quantity

QUANTITY = Quantity(
    name="weight_norm_l2",
    dims=("tensor",),
    meaning="L2 norm of the tensor",
    definition="sqrt(sum(w_i^2))",
    term=lambda weight, _: weight * weight,
    finish=np.sqrt,
    curve="root_sum_squares",
    cost="one pass over the weights: 1.25 times a plain conversion of an MLP",
    source="the usual norm; the relative update is reported by several trainers",
)
