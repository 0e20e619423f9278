"""Image data sets in the layout of Hugging Face."""

from collections.abc import Sequence
from pathlib import Path

from regime_proto.examples.paper.data.arrow_files import images_of, numbers_of, read_split
from regime_proto.examples.paper.data.image_files import ImageFiles
from regime_proto.examples.paper.data.pixels import Labels
from regime_proto.examples.paper.data.texts import checked_labels

_IMAGES = ("image", "img")


def from_tables(
    folder: Path,
    *,
    validation: Sequence[str],
    size: int,
    classes: int,
    labels: Sequence[str] = ("label",),
) -> list[tuple[ImageFiles, Labels]] | None:
    """Return images and labels for training and validation, or None if the folder has a different layout.

    Parameters
    ----------
    folder : Path
    validation : sequence of str
        Possible names of the validation split.
    size : int
        Pixels per side.
    classes : int
    labels : sequence of str
        Possible names of the column of labels.

    Raises
    ------
    RegimeError
        A file is damaged, or has different columns.
    """
    parts = []
    for splits in (("train",), validation):
        columns = read_split(folder, splits, (_IMAGES, labels))
        if columns is None:
            return None
        images, numbers = columns
        found = checked_labels(numbers_of(numbers, folder), classes, str(folder))
        parts.append((ImageFiles(images_of(images, folder), size), found))
    return parts
