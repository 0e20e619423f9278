"""WikiText: Wikipedia articles as running text; replaced by the State of the Union addresses if unavailable."""

from pathlib import Path

from regime_proto.examples.paper.data import arrow_files
from regime_proto.examples.paper.data.addresses import PACKAGE, addresses
from regime_proto.examples.paper.data.arrow_files import read_split, texts_of
from regime_proto.examples.paper.data.files import find, require
from regime_proto.examples.paper.data.sets import DataSet
from regime_proto.examples.paper.data.tables import lines_of
from regime_proto.examples.paper.data.texts import running

LAYOUT = f"wiki.train.tokens and wiki.valid.tokens (or .raw) of WikiText-2 or WikiText-103, {arrow_files.LAYOUT}"


def packaged() -> DataSet:
    """Return the State of the Union addresses, 1.8 million words; the last tenth is for validation."""
    train, validation = addresses()
    return running(
        train, validation, name="State of the Union", origin=str(PACKAGE), stands_for="WikiText"
    )  # fmt: skip


def from_folder(folder: Path) -> DataSet:
    """Return the data set in a folder."""
    train, validation = (_part(folder, split, file) for split, file in (("train", "train"), ("validation", "valid")))
    return running(train, validation, name="WikiText", origin=str(folder))


def _part(folder: Path, split: str, file: str) -> list[str]:
    columns = read_split(folder, [split], [["text"]])
    if columns is not None:
        return texts_of(columns[0], folder)
    return lines_of(find(folder, f"wiki.{file}.raw") or require(folder, f"wiki.{file}.tokens", LAYOUT))
