"""Tiny ImageNet: 110,000 photographs of 64 × 64 pixels in 200 classes; replaced by CIFAR-10 if unavailable."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from regime_proto.examples.paper.data import arrow_files, cifar10
from regime_proto.examples.paper.data.files import require
from regime_proto.examples.paper.data.image_files import Content, FileContent, ImageFiles
from regime_proto.examples.paper.data.image_tables import from_tables
from regime_proto.examples.paper.data.pixels import Labels, as_data_set
from regime_proto.examples.paper.data.sets import DataSet
from regime_proto.examples.paper.data.tables import lines_of
from regime_proto.examples.paper.data.texts import checked_labels
from regime_proto.schema.errors import RegimeError

LAYOUT = (
    "tiny-imagenet-200: wnids.txt, train/CLASS/images/*.JPEG, val/images and val/val_annotations.txt, "
    f"{arrow_files.LAYOUT}"
)
_CLASSES = 200
_SIZE = 64


def packaged() -> DataSet:
    """Return CIFAR-10 as a stand-in."""
    return replace(cifar10.packaged(), stands_for="TinyImageNet")


def from_folder(folder: Path) -> DataSet:
    """Return the data set in a folder."""
    parts = from_tables(folder, validation=["valid", "validation", "val"], size=_SIZE, classes=_CLASSES)
    if parts is None:
        parts = _from_files(require(folder, "wnids.txt", LAYOUT))
    # The images fit into memory.
    train, validation = ((images[np.arange(len(images))], labels) for images, labels in parts)
    return as_data_set(train, validation, classes=_CLASSES, name="TinyImageNet", origin=str(folder))


def _from_files(names: Path) -> list[tuple[ImageFiles, Labels]]:
    root = names.parent
    numbers = {name: number for number, name in enumerate(lines_of(names))}
    train: list[tuple[Content, int]] = []
    for name, number in numbers.items():
        images = sorted((root / "train" / name / "images").glob("*.JPEG"))
        if not images:
            raise RegimeError(f"{root / 'train' / name / 'images'}: no *.JPEG in it, though {names} names {name}")
        train += [(FileContent(path), number) for path in images]
    annotations = require(root, "val/val_annotations.txt", LAYOUT)
    validation: list[tuple[Content, int]] = []
    for at, line in enumerate(lines_of(annotations), start=1):
        image, name, *_ = [*line.split("\t"), ""]
        if name not in numbers or Path(image).name != image:
            raise RegimeError(
                f"{annotations}: line {at} is {line[:60]!r}, expected an image and a class of {names.name}"
            )
        validation.append((FileContent(annotations.parent / "images" / image), numbers[name]))
    return [
        (ImageFiles([content for content, _ in part], _SIZE),
         checked_labels([number for _, number in part], _CLASSES, str(root)))
        for part in (train, validation)
    ]  # fmt: skip
