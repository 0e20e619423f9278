"""The changes that the protocol itself defines. Every trajectory holds them, and the engine measures them."""

from regime_proto.quantities.base import MASKS, Quantity
from regime_proto.schema.layout import BY_NAME

WEIGHT_DELTA_L1 = Quantity(
    name="weight_delta_l1",
    dims=("tensor",),
    meaning=BY_NAME["weight_delta_l1"].meaning,
    definition="sum(|w_i - w_(i-1)|)",
    against="previous",
    curve="sum",
    cost="part of every observation",
    source="arXiv 2602.08333, Eq. 2",
)

WEIGHT_DELTA_L2 = Quantity(
    name="weight_delta_l2",
    dims=("tensor",),
    meaning=BY_NAME["weight_delta_l2"].meaning,
    definition="sqrt(sum((w_i - w_(i-1))^2))",
    against="previous",
    curve="root_sum_squares",
    cost="part of every observation",
    source="L2 form of arXiv 2602.08333, Eq. 2",
)

FLIPS = Quantity(
    name="flips",
    dims=("layer", "sample"),
    meaning=BY_NAME["flips"].meaning,
    definition="sum(region_i != region_(i-1))",
    against="previous",
    needs=(MASKS,),
    curve="sum",
    cost="part of every observation",
    source="arXiv 2602.08333, Eq. 3, numerator",
)
