"""The share of a layer's units that are on."""

import itertools

import numpy as np

from regime_proto.quantities.base import MASKS, Network, Quantity, State
from regime_proto.schema.types import Array


def _fractions(current: State, _: State | None, network: Network) -> Array:
    assert current.masks is not None  # noqa: S101
    stops = np.cumsum([layer.bytes for layer in network.layers])
    # Bits of uncounted units are 0.
    ones = [
        np.bitwise_count(current.masks[:, start:stop]).sum(dtype=np.int64)
        for start, stop in itertools.pairwise([0, *stops.tolist()])
    ]
    planes = np.array([len(layer.thresholds) for layer in network.layers])
    counted = planes * network.layer_units.sum(axis=1)
    return np.array(ones) / np.where(counted > 0, counted, np.nan)


QUANTITY = Quantity(
    name="active_fraction",
    dims=("layer",),
    meaning="share of ones among the layer's counted bits, over all samples",
    definition="sum(mask_i) / (thresholds * units)",
    needs=(MASKS,),
    compute=_fractions,
    cost="one pass over the packed masks",
    source="the share of active units",
)
