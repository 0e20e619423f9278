"""Size and speed of packed masks in the shipped chunk layout and in others: simulated masks, and those of a real run.

All layouts take turns within one run. Files lie in the page cache; HDF5 compresses in all of them.
"""

import argparse
import itertools
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import torch
from models import describe_machine, print_head, print_row
from sklearn.datasets import load_digits
from torch import nn

import regime_proto
from regime_proto import synthetic
from regime_proto.schema import compression, hdf5

STEPS, SAMPLES, BYTES = 256, 16, 4096
FLIP_RATE = 0.01
BATCH = 64
LAYERS = 4
MEGABYTE = 1e6


@dataclass(frozen=True)
class Layout:
    """How masks are stored: `chunks` over (step, sample, byte), and the filters."""

    title: str
    chunks: tuple[int, int, int]
    filters: dict = field(default_factory=lambda: {"compression": "gzip", "compression_opts": compression.LEVEL})
    xor: bool = False


SHIPPED = (hdf5.MAX_CHUNK_STEPS, 1, hdf5.MASK_CHUNK_BYTES // hdf5.MAX_CHUNK_STEPS)
LAYOUTS = (
    Layout("**shipped**: (64, 1, 512), gzip 4", SHIPPED),
    Layout("one step: (1, 1, 512)", (1, 1, SHIPPED[2])),
    Layout("all samples: (64, all, 512)", (SHIPPED[0], SAMPLES, SHIPPED[2])),
    Layout("long: (64, 1, 4096)", (SHIPPED[0], 1, BYTES)),
    Layout("with shuffle", SHIPPED, {"compression": "gzip", "compression_opts": 4, "shuffle": True}),
    Layout("gzip 1", SHIPPED, {"compression": "gzip", "compression_opts": 1}),
    Layout("gzip 9", SHIPPED, {"compression": "gzip", "compression_opts": 9}),
    Layout("lzf", SHIPPED, {"compression": "lzf"}),
    Layout("not compressed", SHIPPED, {}),
    Layout("XOR with the step before, gzip 4", SHIPPED, xor=True),
)


def flipping():
    """Return random masks of which every bit flips with the same probability at every step."""
    random = np.random.default_rng(0)
    masks = random.integers(0, 256, (STEPS, SAMPLES, BYTES), np.uint8)
    for before, mask in itertools.pairwise(masks):
        mask[:] = before ^ np.packbits(random.random((SAMPLES, 8 * BYTES), np.float32) < FLIP_RATE, axis=1)
    return masks


def exponential():
    units = 8 * BYTES // LAYERS
    made = synthetic.trajectory(patterns="exponential", steps=STEPS - 1, layers=LAYERS, samples=SAMPLES, units=units)
    return made["mask"].to_numpy()


def make_network():
    layers = []
    for inputs, outputs in ((1, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(4), nn.Flatten(), nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, 10))


def train(folder):
    """Train on scikit-learn's digits, with a checkpoint at every step; return the network and the probe."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    network = make_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    folder.mkdir()
    for step in range(STEPS):
        torch.save({"model": network.state_dict(), "step": step}, folder / f"step_{step}.pt")
        chosen = SAMPLES + torch.randperm(len(images) - SAMPLES)[:BATCH]
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return network, images[:SAMPLES].numpy()


def real():
    """Return the masks of held-out digits while a convolutional network trains."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        network, probe = train(folder / "checkpoints")
        path = regime_proto.convert(
            folder / "checkpoints", folder / "run.h5", model=network, probe=probe, masks="all", embed="none"
        )
        with h5py.File(path, "r") as file:
            return file["mask"][...]


def write(path, layout, masks):
    """Write masks as the writer does, a row of chunks at a time."""
    chunks = tuple(map(min, layout.chunks, masks.shape))
    with h5py.File(path, "w", **hdf5.CREATE_OPTIONS) as file:
        stored = file.create_dataset("mask", masks.shape, masks.dtype, chunks=chunks, **layout.filters)
        for start in range(0, len(masks), SHIPPED[0]):
            block = masks[start : start + SHIPPED[0]]
            if layout.xor:
                block = np.concatenate([block[:1], block[1:] ^ block[:-1]])
            stored[start : start + len(block)] = block


def read_sample(stored, layout, sample):
    masks = stored[:, sample]
    if layout.xor:
        for start in range(0, len(masks), SHIPPED[0]):
            block = masks[start : start + SHIPPED[0]]
            np.bitwise_xor.accumulate(block, axis=0, out=block)
    return masks


def read_step(stored, layout, step):
    if layout.xor:
        return np.bitwise_xor.reduce(stored[step - step % SHIPPED[0] : step + 1], axis=0)
    return stored[step]


def per_read(path, layout, read, expected, stride):
    """Return the seconds that a read takes from a file just opened, after a look at what it yields."""
    seconds = 0.0
    for index in range(0, len(expected), stride):
        with h5py.File(path, "r") as file:
            stored = file["mask"]
            begin = time.perf_counter()
            found = read(stored, layout, index)
            seconds += time.perf_counter() - begin
        if not np.array_equal(found, expected[index]):
            raise ValueError(f"{layout.title}: other masks were read than written")
    return seconds * stride / len(expected)


def measure(layout, masks, path):
    """Return stored bits per mask bit, and MB/s of writing, of reading a sample and of reading a step."""
    begin = time.perf_counter()
    write(path, layout, masks)
    seconds = [time.perf_counter() - begin]
    seconds.append(per_read(path, layout, read_sample, masks.swapaxes(0, 1), stride=4))
    seconds.append(per_read(path, layout, read_step, masks, stride=16))
    sizes = np.array([masks.nbytes, masks[:, 0].nbytes, masks[0].nbytes])
    return np.array([path.stat().st_size / masks.nbytes, *(sizes / MEGABYTE / seconds)])


def rounds(masks, count):
    """Return the median over the rounds of what `measure` says of each layout."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "masks.h5"
        return np.median([[measure(layout, masks, path) for layout in LAYOUTS] for _ in range(count)], axis=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the median of each cell is printed")
    count = parser.parse_args().repeat
    print(describe_machine("h5py", "torch"), f"HDF5 {h5py.version.hdf5_version}, median of {count} rounds.")
    sets = {"1 % flip": flipping(), "exponential": exponential(), "real": real()}
    shares = {name: np.bitwise_count(masks[1:] ^ masks[:-1]).mean() / 8 for name, masks in sets.items()}
    print("Masks (step, sample, byte) and the share of bits that flip per step:")
    print("; ".join(f"{name} {masks.shape}, {shares[name]:.2%}" for name, masks in sets.items()))
    print(f"Cells: {' / '.join(sets)}.\n")
    found = [rounds(masks, count) for masks in sets.values()]
    print_head(["layout", "stored bits per mask bit", "write, MB/s", "one sample, MB/s", "one step, MB/s"])
    for layout, *cells in zip(LAYOUTS, *found, strict=True):
        sizes, *speeds = zip(*cells, strict=True)
        print_row(
            [
                layout.title,
                " / ".join(f"{size:.3f}" for size in sizes),
                *[" / ".join(f"{speed:.3g}" for speed in column) for column in speeds],
            ]
        )


if __name__ == "__main__":
    main()
