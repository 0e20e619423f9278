"""How far the outputs of the network moved between two observations."""

import numpy as np

from regime_proto.quantities.base import OUTPUTS, Network, Quantity, State
from regime_proto.schema.types import Array


def _distance(current: State, other: State | None, _: Network) -> Array:
    assert current.outputs is not None  # noqa: S101
    assert other is not None  # noqa: S101
    assert other.outputs is not None  # noqa: S101
    rows = zip(current.outputs, other.outputs, strict=True)
    return np.array([np.linalg.norm(ours.astype(np.float64) - theirs.astype(np.float64)) for ours, theirs in rows])


QUANTITY = Quantity(
    name="output_change_l2",
    dims=("sample",),
    meaning="norm of the change of all outputs since the previous observation",
    definition="||f(x; w_i) - f(x; w_(i-1))||_2",
    against="previous",
    needs=(OUTPUTS,),
    compute=_distance,
    cost="runs the network to its end, not only to the last gate: 1.1 times the time of a plain conversion for an MLP",
    source="change of the function on the probe",
)
