"""What models on JAX have in common when they are followed, those of Keras among them."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from regime_proto.program.probe import COUNTED, Probe
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array


def leads() -> bool:
    """Whether this process is the one that records: the first of those that train together."""
    return bool(jax.process_index() == 0)


def on_host(arrays: Mapping[str, Any], where: str) -> dict[str, Array]:
    """Return arrays of JAX on the host, as views where they lie there, in the types in which JAX computes.

    Raises
    ------
    RegimeError
        One is not there any more, or only parts of it are in this process.
    """
    for name, array in arrays.items():
        if isinstance(array, jax.Array):
            _require_readable(name, array, where)
    found = {name: np.asarray(array) for name, array in jax.device_get(dict(arrays)).items()}
    return {name: array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False) for name, array in found.items()}


def wait_for(arrays: Iterable[Any]) -> None:
    """Wait until arrays of JAX have been computed, as `on_host` would."""
    jax.block_until_ready([array for array in arrays if isinstance(array, jax.Array) and not array.is_deleted()])


def _require_readable(name: str, array: jax.Array, where: str) -> None:
    if array.is_deleted():
        raise RegimeError(
            f"{where}: {name} was given away to a jitted function (donate_argnums); observe what that returned"
        )
    if not (array.is_fully_addressable or array.is_fully_replicated):
        raise RegimeError(
            f"{where}: {name} is spread over processes, which is not followed; save checkpoints and use regime analyze"
        )


def as_taken(probe: Probe) -> Probe:
    """Return a drawn probe in the types in which JAX computes, as a training takes its batches."""
    names = probe.names or ("",) * len(probe.arrays)
    arrays = [
        array if name == COUNTED else array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
        for name, array in zip(names, probe.arrays, strict=True)
    ]
    return Probe(tuple(arrays), probe.names, probe.where)
