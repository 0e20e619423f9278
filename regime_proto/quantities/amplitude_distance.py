"""How far the distribution of the amplitudes of a layer's output units has moved.

arXiv 2410.20119 tracks such a distance, but does not publish its procedure in detail. This procedure is our own. The
amplitude of an output unit is the norm of its incoming weights, including its bias. The distance is the 1-Wasserstein
distance between the amplitudes of one tensor in two states. With the same number of units in both, this is the mean
absolute difference of the sorted amplitudes.
"""

import numpy as np

from regime_proto.quantities.base import Network, Quantity, State
from regime_proto.schema.types import Array


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


def _against(observation: str, symbol: str) -> Quantity:
    return Quantity(
        name=f"amplitude_distance_{observation}",
        dims=("tensor",),
        meaning="1-Wasserstein distance between the amplitudes of the tensor's output units and those in the "
        f"{observation} observation",
        definition=f"mean_k(|sort(A_i)_k - sort({symbol})_k|), A_k = sqrt(sum_j(w_kj^2) + b_k^2); "
        "NaN for tensors with one axis",
        against=observation,
        compute=_distances,
        cost="one pass over the weights of both observations, and sorting the units of each tensor: "
        "5 times the time of a plain conversion for an MLP, 1.2 times for a ResNet-18",
        source="after arXiv 2410.20119; the procedure is our own",
    )


PREVIOUS = _against("previous", "A_(i-1)")
FIRST = _against("first", "A_0")
