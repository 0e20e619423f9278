"""The handwritten digits of scikit-learn, for examples in frameworks other than PyTorch."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

CLASSES = 10
BATCH = 64
EPOCHS = 8
EVERY = 2
"""Number of steps between checkpoints."""
PROBE_SAMPLES = round(0.2 * BATCH)

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


def load() -> tuple[Images, Images, Labels, Labels]:
    """Return training images, validation images (sample, row, column, channel), training labels, validation labels."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype("float32").reshape(-1, 8, 8, 1)
    train, validation, train_labels, validation_labels = train_test_split(
        images, labels, test_size=0.2, random_state=0, stratify=labels
    )
    return train, validation, train_labels, validation_labels


def batches(count: int, generator: np.random.Generator) -> list[NDArray[np.int64]]:
    """Return the samples of each whole batch of an epoch, in random order."""
    order = generator.permutation(count)
    return [order[start : start + BATCH] for start in range(0, count - BATCH + 1, BATCH)]


def prepare(out: Path, validation: NDArray[np.float32]) -> Path:
    """Write ``out/probe.npy``, and return the folder for the checkpoints."""
    checkpoints = out.absolute() / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    np.save(out / "probe.npy", validation[:PROBE_SAMPLES])
    return checkpoints


def main(train: Callable[[Path], float]) -> None:
    """Train into the folder given on the command line."""
    print(f"validation accuracy {train(Path(sys.argv[1])):.3f}")
