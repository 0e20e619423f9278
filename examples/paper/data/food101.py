"""Food-101: 101,000 photographs of dishes, in 101 classes; replaced by CIFAR-10 if unavailable."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from regime_proto.examples.paper.data import arrow_files, cifar10
from regime_proto.examples.paper.data.files import require
from regime_proto.examples.paper.data.image_files import FileContent, ImageFiles
from regime_proto.examples.paper.data.image_tables import from_tables
from regime_proto.examples.paper.data.pixels import Labels, as_data_set
from regime_proto.examples.paper.data.sets import DataSet
from regime_proto.examples.paper.data.tables import lines_of
from regime_proto.examples.paper.data.texts import checked_labels
from regime_proto.schema.errors import RegimeError

LAYOUT = (
    "food-101: images/CLASS/NUMBER.jpg, meta/classes.txt, meta/train.txt and meta/test.txt, "
    f"{arrow_files.LAYOUT}"
)  # fmt: skip
_CLASSES = 101
# Pixels per side; the files are larger, in several sizes.
_SIZE = 224


def packaged() -> DataSet:
    """Return CIFAR-10 as a stand-in."""
    return replace(cifar10.packaged(), stands_for="Food-101")


def from_folder(folder: Path) -> DataSet:
    """Return the data set in a folder; its images are decoded on access."""
    parts = from_tables(folder, validation=["validation", "test"], size=_SIZE, classes=_CLASSES)
    if parts is None:
        names = require(folder, "meta/classes.txt", LAYOUT)
        numbers = {name: number for number, name in enumerate(lines_of(names))}
        parts = [_from_files(names.parent / f"{part}.txt", numbers) for part in ("train", "test")]
    train, validation = parts
    return as_data_set(train, _mixed(*validation), classes=_CLASSES, name="Food-101", origin=str(folder))


def _from_files(listed: Path, numbers: dict[str, int]) -> tuple[ImageFiles, Labels]:
    images, labels = listed.parent.parent / "images", []
    contents = []
    for at, line in enumerate(lines_of(listed), start=1):
        name, _, number = line.partition("/")
        if name not in numbers or not number.isdecimal():
            raise RegimeError(
                f"{listed}: line {at} is {line[:60]!r}, expected CLASS/NUMBER with a class of classes.txt"
            )
        contents.append(FileContent(images / name / f"{number}.jpg"))
        labels.append(numbers[name])
    return ImageFiles(contents, _SIZE), checked_labels(labels, _CLASSES, str(listed))


def _mixed(images: ImageFiles, labels: Labels) -> tuple[ImageFiles, Labels]:
    """Return the images in an order independent of their classes, so that the first ones include every class."""
    order = np.random.default_rng(0).permutation(len(labels))
    return ImageFiles([images.contents[index] for index in order.tolist()], images.size), labels[order]
