"""Creates trajectories with known curves, to test an analysis against a known result."""

import datetime
import io
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from regime_proto.schema import hdf5
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.files import replace_file
from regime_proto.schema.header import Header, Layer
from regime_proto.schema.types import Array
from regime_proto.schema.validation import trust

TENSOR_SIZES = {"layer.weight": 4096, "layer.bias": 64}

# Each shape maps time, from 0 to 1, to a height from 0 to 1.
SHAPES: dict[str, Callable[[Array], Array]] = {
    "linear": lambda time: 1 - time,
    "exponential": lambda time: np.exp(-time / 0.1),
    "hyperbolic": lambda time: 1 / (1 + 50 * time),
    "root": lambda time: 1 - np.sqrt(time),
    "step": lambda time: np.where(time < 0.5, 1.0, 0.0),
    "returning": lambda time: np.where((time < 0.25) | (time > 0.75), 1.0, 0.0),
    "constant": np.ones_like,
}


def trajectory(
    *,
    weights: str | Array = "linear",
    patterns: str | Array = "exponential",
    steps: int = 200,
    layers: int = 3,
    samples: int = 8,
    units: int = 1024,
    noise: float = 0.0,
    observations_per_epoch: float | None = None,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
) -> xr.Dataset | Path:
    """Create a trajectory with known curves.

    The weight deltas follow their curve exactly. The masks are real: at every step as many units flip as the curve
    requires, rounded to whole units.

    Parameters
    ----------
    weights, patterns : str or (steps,) array
        A name in `SHAPES`, or heights from 0 to 1, one per change.
    steps : int
        Number of changes; the trajectory has one observation more.
    layers, samples, units : int
        Number of gate layers, of probe samples, and of units per layer and sample.
    noise : float
        Relative standard deviation of normally distributed noise on every height.
    observations_per_epoch : float, optional
        Stored in the trajectory; determines the smoothing window.
    seed : int
        Random seed for masks and noise.
    path : path, optional
        Write a file to this path instead of returning a dataset.

    Returns
    -------
    xarray.Dataset or Path
        The trajectory, or `path` if it is given.

    Raises
    ------
    RegimeError
        A shape is unknown, or an array has a wrong length or range.
    """
    random = np.random.default_rng(seed)
    weight_heights = _heights(weights, steps, noise, random)
    pattern_heights = _heights(patterns, steps, noise, random)
    header = _header(layers, samples, units, observations_per_epoch)
    flipped = np.rint(np.clip(pattern_heights, 0, 1) * units).astype(np.int64)
    rows = {
        "step": np.arange(steps + 1),
        "epoch": np.full(steps + 1, np.nan),
        "valid": np.ones(steps + 1, np.uint8),
        **_weight_rows(weight_heights),
        **_mask_rows(flipped, header, units, random),
        "mask_step": np.arange(steps + 1),
    }
    content = hdf5.image(header, rows)
    if path is None:
        return xr.open_dataset(io.BytesIO(content), engine="h5netcdf").load()
    path = Path(path)
    replace_file(path, content)
    trust.record(path)
    return path


def _heights(shape: str | Array, steps: int, noise: float, random: np.random.Generator) -> Array:
    if isinstance(shape, str):
        if shape not in SHAPES:
            raise RegimeError(f"shape {shape!r}: expected an array, or one of {', '.join(SHAPES)}")
        heights = SHAPES[shape](np.arange(steps) / max(1, steps - 1))
    else:
        heights = np.asarray(shape, np.float64)
    if heights.shape != (steps,) or heights.min() < 0 or heights.max() > 1:
        raise RegimeError(f"curve of shape {heights.shape}: expected {steps} heights between 0 and 1")
    return np.abs(heights * (1 + noise * random.standard_normal(steps)))


def _header(layers: int, samples: int, units: int, observations_per_epoch: float | None) -> Header:
    attributes: dict[str, Any] = {
        "run_id": str(uuid.uuid4()),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "software": "regime-proto synthetic",
        "source_fingerprint": "synthetic",
        "step_kind": "step",
    }
    if observations_per_epoch is not None:
        attributes["observations_per_epoch"] = observations_per_epoch
    gates = tuple(Layer(f"relu_{index}", "Relu", "relu", f"layers.{index}", units) for index in range(layers))
    return Header(TENSOR_SIZES, gates, samples, attributes)


def _weight_rows(heights: Array) -> dict[str, Array]:
    """Return weight deltas in which every element changes by the same amount, a thousandth of the height."""
    sizes = np.array(list(TENSOR_SIZES.values()))
    change = 1e-3 * np.concatenate([[np.nan], heights])[:, None]
    return {"weight_delta_l1": change * sizes, "weight_delta_l2": change * np.sqrt(sizes)}


def _mask_rows(flipped: Array, header: Header, units: int, random: np.random.Generator) -> dict[str, Array]:
    layers, samples = len(header.layers), header.samples
    state = random.random((samples, layers, units)) < 0.5
    masks = [state.copy()]
    for count in flipped:
        # The first `count` units in a random order.
        chosen = random.random(state.shape).argsort(axis=-1) < count
        state = state ^ chosen
        masks.append(state)
    packed = np.packbits(np.stack(masks), axis=-1).reshape(len(masks), samples, -1)
    flips = np.zeros((len(masks), layers, samples), np.uint32)
    flips[1:] = flipped[:, None, None]
    return {"mask": packed, "flips": flips}
