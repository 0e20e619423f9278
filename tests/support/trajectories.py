"""Small trajectories with everything that the format has, to be spoiled."""

import hashlib
import zlib
from dataclasses import replace

import numpy as np

from regime_proto.schema import hdf5, layout
from regime_proto.schema.flips import FlipCounter
from regime_proto.schema.header import Header, Layer, Observation

ATTRIBUTES = {
    "regime_version": layout.VERSION,
    "run_id": "a",
    "created": "2026-01-01T00:00:00+00:00",
    "software": "tests",
    "source_fingerprint": "f",
    "step_kind": "step",
}

LAYERS = (
    Layer("first", "Relu", "relu", "net/0", 13),
    Layer("second/é", "Clip", "piecewise", "net/1", 16, (0.0, 6.0)),
)

QUANTITIES = tuple(
    layout.Quantity("_".join(("of", *dims)), dims, against=against, meaning=f"something, {dims}", definition="random")
    for dims, against in zip(layout.QUANTITY_DIMENSIONS, ("", "first", "previous", "last", ""), strict=True)
)
"""One of every shape."""


def header(*, sampled=False, policy="all", **given):
    layers, index = LAYERS, None
    if sampled:
        layers = (replace(LAYERS[0], stored=5), LAYERS[1])
        index = (np.array([0, 2, 3, 7, 12]), np.arange(16))
    program = b"not really a program"
    parts = {
        "tensors": {"0.weight": 40, "0.bias": 4},
        "layers": layers,
        "samples": 3,
        "attributes": ATTRIBUTES | {"mask_policy": policy, "program_sha256": hashlib.sha256(program).hexdigest()},
        "metrics": ("loss", "val acc"),
        "unit_index": index,
        "quantities": (layout.WEIGHT_DISTANCE, *QUANTITIES),
        "embedded": {"program": program, "probe": b"nor a probe"},
    }
    return Header(**{**parts, **given})


def observations(head, count=70, seed=0):
    """Yield random masks and the flips between them; consistent with every rule."""
    random = np.random.default_rng(seed)
    counter = FlipCounter(head.layers)
    before = None
    for number in range(count):
        planes = [
            np.packbits(random.random((head.samples, layer.width)) < 0.5, axis=1)
            for layer in head.layers
            for _ in layer.thresholds
        ]
        mask = np.concatenate(planes, axis=1)
        tensors = len(head.tensors)
        delta = np.full(tensors, np.nan) if before is None else random.random(tensors)
        yield Observation(
            step=10 * number,
            epoch=number / 4,
            valid=True,
            weight_delta_l1=delta,
            weight_delta_l2=delta,
            flips=np.zeros((len(head.layers), head.samples), np.uint32)
            if before is None
            else counter.count(mask, before),
            mask=mask,
            metrics={"loss": 1 / (number + 1)},
            flip_fraction_error=np.zeros(len(head.layers)) if head.unit_index is not None else None,
            quantities={quantity.name: _values(quantity, head, before is None, random) for quantity in head.quantities},
        )
        before = mask


def _values(quantity, head, is_first, random):
    shape = tuple(head.sizes[name] for name in quantity.dims)
    if quantity == layout.WEIGHT_DISTANCE:
        return np.full(shape, 0.0 if is_first else 1.0)
    return np.full(shape, np.nan) if is_first and quantity.against == "previous" else random.random(shape)


def growing_rows(head, count, seed=0):
    """The rows of every growing variable, masks only where the policy keeps them."""
    rows = [observation.arrays(head) for observation in observations(head, count, seed)]
    for number, row in enumerate(rows):
        if not head.mask_policy.keeps(number):
            del row["mask"], row["mask_step"]
    names = [variable.name for variable in head.variables if variable.grows]
    return {name: [row[name] for row in rows if name in row] for name in names}


def write(path, head=None, count=70, **options):
    """Write a valid trajectory."""
    head = head or header(**options)
    path.write_bytes(hdf5.image(head, growing_rows(head, count)))
    return path


def zeros(count):
    """What so many zero bytes are deflated to, put together of one block that is repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(bytes(count % 2**20)) + packer.flush()
    # Adler's sum of bytes that are all zero.
    check = ((count % 65521) << 16 | 1).to_bytes(4, "big")
    return b"\x78\xda" + block * (count // 2**20) + rest + check


def bits_of(head, mask):
    """Per layer, (sample, plane, unit) bool."""
    found, start = [], 0
    for layer in head.layers:
        part = mask[:, start : start + layer.bytes].reshape(len(mask), len(layer.thresholds), -1)
        found.append(np.unpackbits(part, axis=2)[:, :, : layer.width].astype(bool))
        start += layer.bytes
    return found
