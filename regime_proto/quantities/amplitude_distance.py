"""How far the amplitudes of a layer's output units have moved as a distribution.

arXiv 2410.20119 tracks such a distance; its procedure is not published in detail. This one is ours: the amplitude of an
output unit is the norm of its incoming weights, its bias among them, and the distance is the 1-Wasserstein distance of
the amplitudes of one tensor, which for as many units on both sides is the mean difference of the sorted amplitudes.
"""

import numpy as np

from regime_proto.quantities.base import Array, Network, Quantity, State

_SOURCE = "after arXiv 2410.20119; the procedure is ours"
_MEANING = "1-Wasserstein distance of the amplitudes of the tensor's output units"
_COST = "one pass over the weights of both observations, and a sort of the units of each tensor"


def amplitudes(name: str, state: State, network: Network) -> Array:
    """Return A_k = sqrt(Σ_j w_kj² + b_k²) of every output unit k of a tensor, (unit,) float64."""
    units = network.output_units[name]
    weight = np.moveaxis(state.weights[name], units.axis, 0)
    with np.errstate(over="ignore"):
        squares = np.array([np.square(row, dtype=np.float64).sum() for row in weight])
        if units.bias is not None:
            squares += np.square(state.weights[units.bias], dtype=np.float64).ravel()
    return np.asarray(np.sqrt(squares))


def _distances(current: State, other: State | None, network: Network) -> Array:
    assert other is not None  # noqa: S101
    found = np.full(len(network.tensors), np.nan)
    for index, name in enumerate(network.tensors):
        if name in network.output_units:
            moved = np.sort(amplitudes(name, current, network)) - np.sort(amplitudes(name, other, network))
            found[index] = np.abs(moved).mean()
    return found


PREVIOUS = Quantity(
    name="amplitude_distance_previous",
    dims=("tensor",),
    meaning=f"{_MEANING}, against the previous observation",
    definition="mean_k(|sort(A_i)_k - sort(A_(i-1))_k|), A_k = sqrt(sum_j(w_kj^2) + b_k^2); NaN for one axis",
    against="previous",
    compute=_distances,
    cost=_COST,
    source=_SOURCE,
)

FIRST = Quantity(
    name="amplitude_distance_first",
    dims=("tensor",),
    meaning=f"{_MEANING}, against the first observation",
    definition="mean_k(|sort(A_i)_k - sort(A_0)_k|), A_k = sqrt(sum_j(w_kj^2) + b_k^2); NaN for one axis",
    against="first",
    compute=_distances,
    cost=_COST,
    source=_SOURCE,
)
