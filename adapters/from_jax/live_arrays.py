"""Shared functions for recording models on JAX, including Keras models."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from regime_proto.program.probe import COUNTED, Probe
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array


def leads() -> bool:
    """Whether this is the recording process: the first of those that train together."""
    return bool(jax.process_index() == 0)


def on_host(arrays: Mapping[str, Any], where: str) -> dict[str, Array]:
    """Return JAX arrays on the host, in the types in which JAX computes; views if they are in host memory.

    Raises
    ------
    RegimeError
        An array was deleted, or this process holds only parts of it.
    """
    for name, array in arrays.items():
        if isinstance(array, jax.Array):
            _require_readable(name, array, where)
    found = {name: np.asarray(array) for name, array in jax.device_get(dict(arrays)).items()}
    return {name: array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False) for name, array in found.items()}


def wait_for(arrays: Iterable[Any]) -> None:
    """Wait until JAX arrays are computed, as `on_host` would."""
    jax.block_until_ready([array for array in arrays if isinstance(array, jax.Array) and not array.is_deleted()])


def _require_readable(name: str, array: jax.Array, where: str) -> None:
    if array.is_deleted():
        raise RegimeError(
            f"{where}: {name} was donated to a jitted function (donate_argnums); observe the values that it returned"
        )
    if not (array.is_fully_addressable or array.is_fully_replicated):
        raise RegimeError(
            f"{where}: {name} is sharded over processes, which cannot be recorded; save checkpoints and use regime "
            "analyze"
        )


def as_taken(probe: Probe) -> Probe:
    """Return a drawn probe in the types in which JAX computes, as for the batches of a training run."""
    names = probe.names or ("",) * len(probe.arrays)
    arrays = [
        array if name == COUNTED else array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
        for name, array in zip(names, probe.arrays, strict=True)
    ]
    return Probe(tuple(arrays), probe.names, probe.where)
