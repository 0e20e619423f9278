"""How far the fingerprints of the samples turned. A fingerprint is the input of the last product with a weight.

After the code of Leap+Verify. Their paper joins the fingerprints of all samples into one vector, as `POOLED` does.
"""

import numpy as np

from regime_proto.quantities.base import FINGERPRINT, Network, Quantity, State
from regime_proto.schema.types import Array


def _both(current: State, other: State | None) -> tuple[Array, Array]:
    assert current.fingerprint is not None  # noqa: S101
    assert other is not None  # noqa: S101
    assert other.fingerprint is not None  # noqa: S101
    return current.fingerprint.astype(np.float64), other.fingerprint.astype(np.float64)


def _cosines(ours: Array, theirs: Array) -> Array:
    """Return the cosine between corresponding rows of two matrices; NaN where a row is zero."""
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines: Array = np.sum(ours * theirs, axis=1) / np.where(lengths > 0, lengths, np.nan)
    return cosines


def _mean_cosine(current: State, other: State | None, _: Network) -> float:
    return float(np.mean(_cosines(*_both(current, other))))


def _pooled_cosine(current: State, other: State | None, _: Network) -> float:
    ours, theirs = _both(current, other)
    return float(_cosines(ours.reshape(1, -1), theirs.reshape(1, -1))[0])


_COST = "runs the network up to its last product: 1.05 times the time of a plain conversion for an MLP"

COSINE = Quantity(
    name="fingerprint_cosine",
    dims=(),
    meaning="mean over samples of the cosine between the fingerprint and that in the previous observation",
    definition="mean(cos(h_i, h_(i-1))), h the input of the last product, averaged over positions",
    against="previous",
    needs=(FINGERPRINT,),
    compute=_mean_cosine,
    cost=_COST,
    source="code of Leap+Verify",
)

POOLED = Quantity(
    name="fingerprint_cosine_pooled",
    dims=(),
    meaning="cosine between the fingerprints of all samples, as one vector, and those in the previous observation",
    definition="cos(h_i, h_(i-1)), h of all samples as one vector",
    against="previous",
    needs=(FINGERPRINT,),
    compute=_pooled_cosine,
    cost=_COST,
    source="paper of Leap+Verify",
)
