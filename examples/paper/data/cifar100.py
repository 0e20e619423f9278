"""CIFAR-100: 60,000 photographs of 32 × 32 pixels in 100 classes; replaced by CIFAR-10 if unavailable."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from regime_proto.examples.paper.data import arrow_files, cifar10
from regime_proto.examples.paper.data.cifar_files import from_binary, from_pickle
from regime_proto.examples.paper.data.files import find, require
from regime_proto.examples.paper.data.image_tables import from_tables
from regime_proto.examples.paper.data.pixels import Images, Labels, as_data_set
from regime_proto.examples.paper.data.sets import DataSet

LAYOUT = (
    "cifar-100-binary (train.bin and test.bin) or cifar-100-python (train and test, as torchvision keeps it), "
    f"{arrow_files.LAYOUT}"
)
_CLASSES = 100


def packaged() -> DataSet:
    """Return CIFAR-10 as a stand-in."""
    return replace(cifar10.packaged(), stands_for="CIFAR100")


def from_folder(folder: Path) -> DataSet:
    """Return the data set in a folder."""
    tables = from_tables(folder, validation=["test"], size=32, classes=_CLASSES, labels=["fine_label"])
    if tables is not None:
        parts = [(images[np.arange(len(images))], labels) for images, labels in tables]
    else:
        is_binary = find(folder, "train.bin") is not None
        parts = [_from_files(folder, name, is_binary=is_binary) for name in ("train", "test")]
    return as_data_set(*parts, classes=_CLASSES, name="CIFAR100", origin=str(folder))


def _from_files(folder: Path, name: str, *, is_binary: bool) -> tuple[Images, Labels]:
    if is_binary:
        # The coarse label, then the fine one.
        return from_binary(require(folder, f"{name}.bin", LAYOUT), labels=2, classes=_CLASSES)
    return from_pickle(require(folder, name, LAYOUT), key="fine_labels", classes=_CLASSES)
